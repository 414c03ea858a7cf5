import csv
from pathlib import Path

import pytest

from lightmill.errors import OutputError
from lightmill.train.logs import RunLog, read_table, write_table


def test_numbers_come_back_to_the_last_bit(tmp_path: Path) -> None:
    rows = [{"step": 1.0, "loss": 0.1 + 0.2, "val": None}, {"step": 2.0, "loss": 1e-30, "val": 3.0, "late": -1.5}]
    write_table(tmp_path / "new" / "a.csv", rows)
    assert read_table(tmp_path / "new" / "a.csv") == [rows[0] | {"late": None}, rows[1]]
    assert (tmp_path / "new" / "a.csv").read_text().splitlines()[0] == "step,loss,val,late"
    assert read_table(tmp_path / "none.csv") == []


def test_a_log_that_is_resumed_forgets_what_came_after(tmp_path: Path) -> None:
    log = RunLog(tmp_path, board=False)
    log.start([])
    first, lost = {"epoch": 1, "step": 2, "loss": 3.0}, {"epoch": 2, "step": 4, "loss": 2.0}
    log.add(first, [{"step": 1, "loss": 4.0}, {"step": 2, "loss": 3.0}])
    log.add(lost, [{"step": 3, "loss": 2.5}, {"step": 4, "loss": 2.0}])
    log.close()

    log = RunLog(tmp_path, board=False)
    log.start([first])
    log.add({"epoch": 2, "step": 3, "loss": 1.0}, [{"step": 3, "loss": 1.0}])
    log.close()
    assert [row["loss"] for row in read_table(tmp_path / "epochs.csv")] == [3.0, 1.0]
    assert [row["loss"] for row in read_table(tmp_path / "steps.csv")] == [4.0, 3.0, 1.0]
    assert not list(tmp_path.glob(".lm-*"))


def test_tensorboard_gets_the_same_numbers(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = RunLog(tmp_path)
    log.start([])
    log.add(
        {"epoch": 1, "step": 2, "loss": 3.0, "val_score": None}, [{"step": 1, "loss": 4.0}, {"step": 2, "loss": 2.0}]
    )
    log.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert sorted(events.Tags()["scalars"]) == ["epoch/loss", "step/loss"]
    assert [(event.step, event.value) for event in events.Scalars("step/loss")] == [(1, 4.0), (2, 2.0)]
    assert [(event.step, event.value) for event in events.Scalars("epoch/loss")] == [(2, 3.0)]


def test_a_table_is_plain_csv(tmp_path: Path) -> None:
    write_table(tmp_path / "a.csv", [{"epoch": 1, "loss": 0.25}])
    with (tmp_path / "a.csv").open(newline="") as file:
        assert list(csv.DictReader(file)) == [{"epoch": "1", "loss": "0.25"}]


def test_a_full_disk_is_told(tmp_path: Path) -> None:
    target = Path("/dev/full")
    if not target.exists():
        pytest.skip("no /dev/full on this system")
    with pytest.raises(OutputError, match="the disk is full"), _written_to_full(tmp_path):
        write_table(tmp_path / "a.csv", [{"epoch": 1}])


class _written_to_full:  # noqa: N801 (reads as a statement)
    """The hidden name that a table grows under leads to a disk that is full."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __enter__(self) -> None:
        from lightmill.engine.outputs import temporary_name

        (self._folder / temporary_name("a.csv")).symlink_to("/dev/full")

    def __exit__(self, *error: object) -> None:
        return None
