import pickle
from pathlib import Path

import pytest
import torch

from lightmill.errors import OutputError
from lightmill.models.embedder_files import EmbedderConfig, load_network, make_network
from lightmill.models.embedder_network import EmbedderNetwork
from lightmill.train.checkpoints import Checkpoints

RESNET = {"model_type": "resnet", "layer_type": "basic", "embedding_size": 8}
CONFIG = EmbedderConfig(
    backbone=RESNET | {"hidden_sizes": [8] * 4, "depths": [1] * 4}, embedding=4, mean=(0.5,) * 3, std=(0.5,) * 3
)


def network(seed: int) -> EmbedderNetwork:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make_network(CONFIG)


def holds(folder: Path, wanted: EmbedderNetwork) -> bool:
    return torch.equal(load_network(folder).reduce.weight, wanted.reduce.weight)  # type: ignore[arg-type]


def test_best_stays_while_last_goes_on(tmp_path: Path) -> None:
    kept, first, second = Checkpoints(tmp_path), network(1), network(2)
    kept.save(first, CONFIG, is_best=True)
    kept.save(second, CONFIG, is_best=False)
    assert holds(kept.last, second)
    assert holds(kept.best, first)


def test_a_state_that_is_not_finished_changes_nothing(tmp_path: Path) -> None:
    kept = Checkpoints(tmp_path)
    kept.save_state(lambda path: torch.save({"lightmill": {"step": 1}}, path))

    def dies(path: Path) -> None:
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        kept.save_state(dies)
    assert kept.read_state() == {"lightmill": {"step": 1}}
    assert [path.name for path in kept.state.parent.iterdir()] == ["training.ckpt"]


def test_no_state_is_none(tmp_path: Path) -> None:
    assert Checkpoints(tmp_path).read_state() is None


class Bomb:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> object:
        return Path.touch, (self.target,)


@pytest.mark.parametrize("kind", ["pickle", "torch", "half", "list"])
def test_a_state_from_elsewhere_runs_no_code_and_is_refused(tmp_path: Path, kind: str) -> None:
    kept, target = Checkpoints(tmp_path), tmp_path / "executed"
    kept.state.parent.mkdir()
    if kind == "pickle":
        kept.state.write_bytes(pickle.dumps({"lightmill": Bomb(target)}))
    elif kind == "list":
        torch.save([1, 2], kept.state)
    else:
        torch.save({"lightmill": Bomb(target)}, kept.state)
    if kind == "half":
        kept.state.write_bytes(kept.state.read_bytes()[:100])
    with pytest.raises(OutputError, match=r"training\.ckpt cannot be resumed from: .*; give --fresh"):
        kept.read_state()
    assert not target.exists()


def test_what_a_kill_left_aside_is_put_back(tmp_path: Path) -> None:
    """Killed between the two renames that replace a folder."""
    kept, first = Checkpoints(tmp_path), network(1)
    kept.save(first, CONFIG, is_best=True)
    kept.best.rename(tmp_path / ".best.before")
    kept.read_state()
    assert holds(kept.best, first)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best", "last"]
