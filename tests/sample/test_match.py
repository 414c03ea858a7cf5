"""A sample match on disk: tables and frames belong together, and it is the same whoever writes it."""

import csv
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path

import cv2
import numpy as np
import pytest

from lightmill.errors import OutputError, UsageError
from lightmill.sample.match import IMAGES, PATH, PLAYERS, TEST, TRAIN, TRUTH, write_match
from lightmill.sample.match_plan import Match

_SMALL = {"players": 7, "unknown": 3, "quarters": 3, "sessions": 4, "frames": 4, "size": (256, 144), "seed": 5}


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _bytes(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.*"))}


def _frame_name(row: dict[str, str]) -> str:
    return PATH.format(**row | {"session": int(row["session"]), "frame": int(row["frame"])})


@pytest.fixture(scope="module")
def match(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("match")
    write_match(folder, **_SMALL)
    return folder


def test_every_frame_is_there_and_every_box_is_in_one(match: Path) -> None:
    frames = {path.name for path in (match / IMAGES).iterdir()}
    rows = _rows(match / TRAIN) + _rows(match / TEST)
    assert len(frames) == 3 * 4 * 4 * 2
    assert {_frame_name(row) for row in rows} == frames
    assert {row["quarter"] for row in _rows(match / TRAIN)} == {"Q1-000", "Q2-000"}
    assert {row["quarter"] for row in _rows(match / TEST)} == {"Q3-000"}
    assert cv2.imread(str(match / IMAGES / min(frames))).shape == (144, 256, 3)
    for row in rows:
        x, y, w, h = (int(row[name]) for name in "xywh")
        assert min(x, y) >= 0
        assert min(w, h) >= 1
        assert x + w <= 256
        assert y + h <= 144


def test_the_columns_are_those_that_the_tables_promise(match: Path) -> None:
    place = ["quarter", "angle", "session", "frame", "x", "y", "w", "h"]
    assert list(_rows(match / TRAIN)[0]) == [*place, "label_id"]
    assert list(_rows(match / TEST)[0]) == place
    assert list(_rows(match / TRUTH)[0]) == [*place, "label_id", "player", "visible"]
    assert [{name: row[name] for name in place} for row in _rows(match / TRUTH)] == _rows(match / TEST)


def test_unknown_players_are_never_in_the_training_and_all_known_ones_are(match: Path) -> None:
    truth = _rows(match / TRUTH)
    assert {row["label_id"] for row in _rows(match / TRAIN)} == {"0", "1", "2", "3"}
    assert {row["player"] for row in truth} == set("0123456")
    for row in truth:
        assert row["label_id"] == (row["player"] if int(row["player"]) < 4 else "-1")
    who = _rows(match / PLAYERS)
    assert [row["player"] for row in who] == list("0123456")
    assert [row["label_id"] for row in who] == ["0", "1", "2", "3", "-1", "-1", "-1"]


def test_nobody_is_twice_in_a_frame_and_the_order_of_rows_tells_nothing(match: Path) -> None:
    frames = defaultdict(list)
    for row in _rows(match / TRUTH):
        frames[_frame_name(row)].append(row["player"])
    assert all(len(set(players)) == len(players) for players in frames.values())
    orders = Counter(tuple(players) for players in frames.values() if len(players) > 2)
    assert len(orders) > 5


def test_hardly_visible_bodies_have_no_box_and_some_are_hidden_in_part(match: Path) -> None:
    visible = [float(row["visible"]) for row in _rows(match / TRUTH)]
    assert 0.25 <= min(visible) < 0.95
    assert max(visible) == 1


def test_a_track_is_one_person_who_moves_on_smoothly(match: Path) -> None:
    tracks = defaultdict(dict)
    for row in _rows(match / TRUTH):
        x, y, w, h = (int(row[name]) for name in "xywh")
        tracks[row["angle"], row["session"], row["player"]][int(row["frame"])] = (x + w / 2, y + h / 2)
    steps = [
        np.hypot(*np.subtract(track[frame + 1], at))
        for track in tracks.values() for frame, at in track.items() if frame + 1 in track
    ]  # fmt: skip
    assert len(steps) > 50
    assert max(steps) < 40  # px of 256: a second and a half at a sprint would be more
    assert np.median(steps) < 8


def test_the_light_changes_between_quarters_and_sessions(match: Path) -> None:
    def mean(quarter: str, session: int) -> np.ndarray:
        return cv2.imread(str(match / IMAGES / f"{quarter}__top__{session:02d}__00.jpg")).mean(axis=(0, 1))

    colours = [mean(quarter, session) for quarter in ("Q1-000", "Q2-000", "Q3-000") for session in (0, 1)]
    apart = np.abs(np.subtract.outer(*[np.array(colours).mean(axis=1)] * 2)) + 99 * np.eye(6)
    assert apart.min() > 0.1
    assert apart[apart < 90].max() > 8


def test_equal_arguments_give_equal_files_whatever_the_threads_and_another_seed_others(tmp_path: Path) -> None:
    tiny = {"players": 4, "unknown": 1, "quarters": 2, "sessions": 3, "frames": 2, "size": (160, 96)}
    for name, options in {"one": {"threads": 1}, "three": {"threads": 3}, "other": {"seed": 1}}.items():
        write_match(tmp_path / name, **tiny, **options)
    one, three, other = (_bytes(tmp_path / name) for name in ("one", "three", "other"))
    assert one == three
    assert one.keys() == other.keys()
    assert all(one[name] != other[name] for name in one if name.endswith(".jpg"))


def test_dirt_is_a_few_boxes_of_the_training_that_are_far_too_large(tmp_path: Path) -> None:
    some = {"players": 20, "unknown": 0, "quarters": 2, "sessions": 1, "frames": 4, "size": (160, 96), "seed": 2}
    write_match(tmp_path / "dirty", **some)
    write_match(tmp_path / "clean", **some, dirt=False)
    dirty, clean = (_bytes(tmp_path / name) for name in ("dirty", "clean"))
    assert [name for name in dirty if dirty[name] != clean[name]] == [TRAIN]
    pairs = list(zip(_rows(tmp_path / "dirty" / TRAIN), _rows(tmp_path / "clean" / TRAIN), strict=True))
    changed = [(large, true) for large, true in pairs if large != true]
    assert 0 < len(changed) <= 0.03 * len(pairs)
    for large, true in changed:
        assert {name: large[name] for name in large if name not in "xywh"}.items() <= true.items()
        assert int(large["w"]) * int(large["h"]) >= 2.5 * int(true["w"]) * int(true["h"])
        assert int(large["x"]) <= int(true["x"])
        assert int(large["y"]) <= int(true["y"])


def test_lineups_are_fair_and_bring_on_the_unknown_in_the_last_quarter_only() -> None:
    plan = Match()
    for quarter in range(plan.quarters):
        lineups = plan.lineups(quarter)
        assert all(len(set(lineup)) == 10 for lineup in lineups)
        assert all(sum(i % 2 for i in lineup) == 5 for lineup in lineups)
        played = Counter(i for lineup in lineups for i in lineup)
        there = plan.players if quarter == plan.quarters - 1 else plan.known
        assert sorted(played) == list(range(there))
        assert max(played.values()) - min(played.values()) <= 1
    assert sorted(plan.numbers[: plan.known]) == list(range(22))
    assert plan.numbers[: plan.known] != list(range(22))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"unknown": 29}, r"at least 2 of them known, got players=30 and unknown=29"),
        ({"players": 300}, r"up to 200 players"),
        ({"quarters": 1}, r"at least 2 quarters, as the last one is the test, got 1"),
        ({"frames": 0}, r"1 or more, got 25, 0 and 10"),
        ({"size": (640, 20)}, r"64x64 or larger, got 640x20"),
        ({"quality": 101}, r"quality of JPEGs is 1 to 100, got 101"),
    ],
)
def test_numbers_that_make_no_match_are_refused(tmp_path: Path, options: dict[str, int], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        write_match(tmp_path, **options)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(OutputError, match=r"cannot make the folder .*taken.*choose another"):
        write_match(tmp_path / "taken")


def test_the_command(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "lightmill.sample", "match", str(tmp_path), "--quarters", "2", "--sessions", "1"]
    small = ["--frames", "1", "--players", "4", "--unknown", "1", "--no-dirt", "--quality", "80"]
    done = subprocess.run([*command, *small, "--size", "160x96"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (
        f"wrote 4 frames in {tmp_path / 'images'}, {tmp_path / 'train_meta.csv'} and {tmp_path / 'test_meta.csv'}\n"
    )
    refused = subprocess.run([*command, "--players", "3"], capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert "at least 2 of them known" in refused.stderr
