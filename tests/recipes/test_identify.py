"""Who is who: coloured players on frames that are made here, found again by an untrained network's embeddings."""

import csv
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from lightmill.data.pack import CropPack
from lightmill.engine.journal import Journal
from lightmill.errors import InputError, ModelError, UsageError
from lightmill.models.backbones import RANDOM
from lightmill.models.embedder import CropEmbedder
from lightmill.models.embedder_files import EmbedderConfig, make_network, read_config, save_embedder, update_config
from lightmill.ops.boxes import places_in
from lightmill.recipes.crop import Crop
from lightmill.recipes.identify import Identify

Pixels = NDArray[np.uint8]

COLOURS = {
    "ann": ((220, 40, 40), (240, 240, 240)),
    "ben": ((40, 60, 220), (240, 220, 60)),
    "<c>": ((30, 170, 60), (20, 20, 20)),
    "eve": ((240, 200, 40), (90, 30, 120)),
    "zed": ((150, 60, 190), (60, 220, 210)),  # is in no gallery
}
KNOWN = ("<c>", "ann", "ben", "eve")
COLUMNS = {"path": "{q}_{cam}_{t}.png", "group": ("q",), "view": "cam", "time": "t", "progress": "none", "threads": 2}
WIDE, HIGH = 320, 180


def frame_of(boxes: dict[str, tuple[int, int, int, int]], rng: np.random.Generator, shade: float) -> Pixels:
    pixels = rng.normal(120 * shade, 6, (HIGH, WIDE, 3))
    for who, (x, y, w, h) in boxes.items():
        for part, colour in zip((slice(y, y + h // 2), slice(y + h // 2, y + h)), COLOURS[who], strict=True):
            area = pixels[part, x : x + w]
            area[:] = np.array(colour) * shade + rng.normal(0, 6, area.shape)
    return np.clip(pixels, 0, 255).astype(np.uint8)


def write_game(folder: Path, quarter: str, players: tuple[str, ...], count: int, seed: int) -> None:
    """Frames of two cameras, and a table with a row a player: they walk on lines of their own, and never overlap."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[list[Any]] = []
    for cam, shade in (("side", 1.0), ("top", 0.75)):
        starts, speeds = rng.integers(10, 200, len(players)), rng.integers(-2, 3, len(players))
        for t in range(count):
            boxes = {}
            for lane, (who, start, speed) in enumerate(zip(players, starts, speeds, strict=True)):
                x, y = int(np.clip(start + speed * t, 2, WIDE - 20)), 4 + lane * (HIGH // len(players))
                boxes[who] = (x, y, 14, HIGH // len(players) - 8)
            Image.fromarray(frame_of(boxes, rng, shade)).save(folder / f"{quarter}_{cam}_{t}.png")
            rows += [[quarter, cam, t, *box, who if who in KNOWN else "-1"] for who, box in boxes.items()]
    rng.shuffle(rows)
    with open(folder / f"{quarter}.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["q", "cam", "t", "x", "y", "w", "h", "who"], *rows])


def write_network(folder: Path, pack: CropPack, *, seed: int, **more: Any) -> Path:
    """An untrained network whose neck has seen the crops: what it gives is spread over all directions."""
    torch.manual_seed(seed)
    kind, settings = RANDOM["resnet-tiny"]
    config = EmbedderConfig(
        backbone={"model_type": kind, **settings},
        embedding=32,
        size_hw=(64, 32),
        mean=(0.5,) * 3,
        std=(0.25,) * 3,
        **{"thresholds": {"": 0.5}} | more,
    )
    network = make_network(config).train()
    crops = [np.asarray(Image.fromarray(pack.pixels(i)).resize((32, 64))) for i in range(len(pack))]
    batch = torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).float().div(255).sub(0.5).div(0.25)
    for module in network.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.momentum = None  # the plain mean of what it sees
    with torch.no_grad():
        for _ in range(2):
            network(batch)
    save_embedder(folder, network.eval(), config)
    return folder


@dataclass(frozen=True)
class Game:
    folder: Path
    pack: Path
    net: Path

    @property
    def test(self) -> Path:
        return self.folder / "q2.csv"

    @property
    def rows(self) -> list[dict[str, str]]:
        return read(self.test)


@pytest.fixture(scope="module")
def game(tmp_path_factory: pytest.TempPathFactory) -> Game:
    """A quarter of four known players, cut into a gallery; and one in which the fifth plays too."""
    root = tmp_path_factory.mktemp("game")
    folder = root / "frames"
    write_game(folder, "q1", ("ann", "ben", "<c>", "eve"), 6, seed=1)
    write_game(folder, "q2", ("eve", "zed", "<c>", "ben", "ann"), 8, seed=2)
    Crop(label="who", background_per_frame=2, **COLUMNS).run(folder / "q1.csv", root / "crops")
    net = write_network(root / "net", CropPack.open(root / "crops"), seed=3)
    return Game(folder, root / "crops", net)


def read(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def identify(game: Game, tmp_path: Path) -> Callable[..., Path]:
    """`identify(out="out", test=..., **options)`: the table that a run gives back."""

    def run(out: str = "out", test: Path | None = None, **options: Any) -> Path:
        given: dict[str, Any] = {"checkpoint": (str(game.net),), "gallery": (str(game.pack),), "unknown": "-1"}
        test = test or game.test
        Identify(**COLUMNS | given | options).run(test, tmp_path / out)
        return tmp_path / out / f"{test.stem}_with_identities.csv"

    return run


# --- what comes out --------------------------------------------------------------------------------------------------


def test_everybody_is_found_and_the_stranger_is_unknown(game: Game, identify: Callable[..., Path]) -> None:
    """The user's rows, order and cells; behind them who it is."""
    path = identify()
    rows = read(path)
    assert [{name: row[name] for name in game.rows[0]} for row in rows] == game.rows
    assert list(rows[0]) == [
        *game.rows[0], "label", "score", "runner_up", "runner_up_score", "tracklet", "status", "error"
    ]  # fmt: skip
    assert [row["label"] for row in rows] == [row["who"] for row in game.rows]
    assert {row["status"] for row in rows} == {"ok"}
    for row in rows:
        assert -1 <= float(row["runner_up_score"]) <= float(row["score"]) <= 1
        assert (row["label"] == "-1") == (float(row["score"]) < 0.5)
        assert row["runner_up"] in KNOWN
    told = json.loads((path.parent / "identities.json").read_text("utf-8"))
    assert (told["boxes"], told["tracklets"], told["unknown_boxes"]) == (80, 10, 16)
    assert told["labels"]["ann"] == {"boxes": 16, "tracklets": 2}
    assert "against_truth" not in told


def test_a_tracklet_is_one_player_of_one_view(game: Game, identify: Callable[..., Path]) -> None:
    """A4.24: views are kept apart, and one tracklet has one label."""
    of: dict[str, set[tuple[str, str, str]]] = {}
    for row in read(identify()):
        of.setdefault(row["tracklet"], set()).add((row["cam"], row["who"], row["label"]))
    assert len(of) == 10
    assert all(len(seen) == 1 for seen in of.values())


@pytest.mark.parametrize("track", ["on", "off"])
def test_no_label_is_in_a_frame_twice(identify: Callable[..., Path], track: str) -> None:
    """Even where everybody is taken for somebody: five players, four labels."""
    rows = read(identify(threshold=-1.0, track=track))
    by_frame: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        by_frame.setdefault((row["cam"], row["t"]), []).append(row["label"])
    assert all(sorted(labels) == sorted([*KNOWN, "-1"]) for labels in by_frame.values())


def test_scores_are_those_of_plain_loops(game: Game, identify: Callable[..., Path]) -> None:
    """Each box by itself: cut by numpy, embedded alone, held against plain means of the gallery's embeddings."""
    pack, model = CropPack.open(game.pack), CropEmbedder(game.net)
    model.load("cpu")
    table = pack.table
    members: dict[tuple[str, str], list[NDArray[np.float32]]] = {}
    for i, (kind, label, view) in enumerate(table.select("kind", "label", "view").iter_rows()):
        if kind == "player":
            members.setdefault((label, view), []).append(model([pack.pixels(i)])[0])
    for row in read(identify(track="off", threshold=-1.0))[::7]:
        frame = np.asarray(Image.open(game.folder / f"{row['q']}_{row['cam']}_{row['t']}.png"))
        place = places_in([[float(row[name]) for name in "xywh"]], frame.shape[:2], expand=1.2).places[0]
        left, top, width, height = place.tolist()
        own = model([np.ascontiguousarray(frame[top : top + height, left : left + width])])[0]
        scores = {}
        for label in KNOWN:  # all crops are about as good as each other, so that plain means will do
            mean = np.mean(members[label, row["cam"]], axis=0)
            scores[label] = float(own @ mean / np.linalg.norm(mean))
        said = row["label"] if row["label"] in KNOWN else max(scores, key=lambda one: scores[one])
        assert float(row["score"]) == pytest.approx(scores[said], abs=0.02)
        assert float(row["runner_up_score"]) == pytest.approx(scores[row["runner_up"]], abs=0.02)


def test_two_models_are_averaged(game: Game, identify: Callable[..., Path], tmp_path: Path) -> None:
    other = write_network(tmp_path / "other", CropPack.open(game.pack), seed=4, thresholds={"": 0.3, "top": 0.1})
    options: dict[str, Any] = {"track": "off", "threshold": 0.0}
    one, two = (
        read(identify(name, checkpoint=(str(net),), **options)) for name, net in (("a", game.net), ("b", other))
    )
    both_path = identify("c", checkpoint=(str(game.net), str(other)), **options)
    same = 0
    for first, second, both in zip(one, two, read(both_path), strict=True):
        if first["label"] == second["label"] == both["label"] != "-1":
            same += 1
            assert float(both["score"]) == pytest.approx((float(first["score"]) + float(second["score"])) / 2, abs=1e-3)
    assert same > 40
    told = json.loads(identify("d", checkpoint=(str(game.net), str(other))).with_name("identities.json").read_text())
    assert told["thresholds"] == pytest.approx({"": 0.4, "top": 0.3})
    assert [model["model"] for model in told["models"]] == [str(game.net), str(other)]


def test_the_number_of_threads_changes_nothing(identify: Callable[..., Path]) -> None:
    made = [identify(f"out{threads}", threads=threads) for threads in (1, 4)]
    assert made[0].read_bytes() == made[1].read_bytes()
    assert made[0].with_name("identities.json").read_bytes() == made[1].with_name("identities.json").read_bytes()


# --- crops, once -----------------------------------------------------------------------------------------------------


def test_ready_crops_are_never_cut_again(game: Game, identify: Callable[..., Path], tmp_path: Path) -> None:
    """A4.13 and A4.15: files that are crops, as large as the gallery's, give what their frames give, to the digit."""
    folder = tmp_path / "cut"
    folder.mkdir()
    for number, row in enumerate(game.rows):
        frame = np.asarray(Image.open(game.folder / f"{row['q']}_{row['cam']}_{row['t']}.png"))
        place = places_in([[float(row[name]) for name in "xywh"]], frame.shape[:2], expand=1.2).places[0]
        left, top, width, height = place.tolist()
        Image.fromarray(frame[top : top + height, left : left + width]).save(folder / f"{number}.png")
    test = tmp_path / "crops.csv"
    with open(test, "w", newline="", encoding="utf-8") as file:
        rows = [{**row, "file": f"{number}.png"} for number, row in enumerate(game.rows)]
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    ready = read(identify("ready", test, crops=True, images=str(folder), path="{file}"))
    cut = read(identify("cut_here"))
    for name in ("label", "score", "runner_up", "runner_up_score", "tracklet", "status"):
        assert [row[name] for row in ready] == [row[name] for row in cut]


def test_another_threshold_uses_the_embeddings_that_are_there(identify: Callable[..., Path]) -> None:
    """A4.11: nothing is embedded again."""
    path = identify()
    stored = {file: file.stat().st_mtime_ns for file in (path.parent / ".lightmill").rglob("*.npz")}
    assert len(stored) == 16 + 1 + 1  # frames; the gallery's 48 players and 24 of nobody, in parts of 64
    with Journal.read(path.parent) as journal:
        before = len(journal.sessions())
    assert identify(threshold=0.999) == path
    assert {row["label"] for row in read(path)} == {"-1"}
    assert {file: file.stat().st_mtime_ns for file in stored} == stored
    with Journal.read(path.parent) as journal:
        assert len(journal.sessions()) == before


def test_crops_of_another_size_are_refused(game: Game, identify: Callable[..., Path], tmp_path: Path) -> None:
    """A4.15: gallery and boxes are cut alike, as those were that the network has learnt from."""
    net = write_network(tmp_path / "wide", CropPack.open(game.pack), seed=3, expand=1.5)
    with pytest.raises(UsageError, match=r"crops 1\.5 times as large .* for 1\.2; cut the gallery again"):
        identify(checkpoint=(str(net),))


# --- what goes wrong -------------------------------------------------------------------------------------------------


def broken(game: Game, tmp_path: Path) -> Path:
    """The test with a box outside of its frame, one that is no number, and a frame that is no picture."""
    folder = tmp_path / "frames"
    folder.mkdir()
    for file in game.folder.glob("q2_*.png"):
        (folder / file.name).write_bytes(file.read_bytes() if file.name != "q2_top_3.png" else b"no picture")
    rows = game.rows
    places = [i for i, row in enumerate(rows) if (row["cam"], row["t"]) == ("side", "2")]
    rows[places[0]] |= {"x": "900"}
    rows[places[1]] |= {"w": "wide"}
    with open(folder / "q2.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    return folder / "q2.csv"


def test_a_frame_that_is_cut_off_gives_no_names(game: Game, identify: Callable[..., Path], tmp_path: Path) -> None:
    """A4.16: a box of the missing part would be a grey picture of somebody."""
    folder = tmp_path / "frames"
    folder.mkdir()
    shutil.copy(game.test, folder)
    for file in game.folder.glob("q2_*.png"):
        Image.open(file).save(folder / file.name, "JPEG", quality=95)  # whatever its name says
    whole = (folder / "q2_top_3.png").read_bytes()
    (folder / "q2_top_3.png").write_bytes(whole[: len(whole) // 2])
    for row in read(identify(test=folder / game.test.name)):
        if (row["cam"], row["t"]) == ("top", "3"):
            assert (row["label"], row["score"], row["status"]) == ("", "", "failed")
            assert "whole frames only" in row["error"]
        else:
            assert row["status"] == "ok"


def test_what_cannot_be_used_fails_alone(game: Game, identify: Callable[..., Path], tmp_path: Path) -> None:
    for row, was in zip(read(identify(test=broken(game, tmp_path))), game.rows, strict=True):
        if row["x"] == "900":
            assert (row["label"], row["status"]) == ("", "filtered")
            assert "outside of its frame" in row["error"]
        elif row["w"] == "wide":
            assert (row["label"], row["status"]) == ("", "failed")
            assert "w is 'wide'" in row["error"]
        elif (row["cam"], row["t"]) == ("top", "3"):
            assert (row["label"], row["score"], row["tracklet"], row["status"]) == ("", "", "", "failed")
            assert row["error"]
        else:
            assert (row["label"], row["status"]) == (was["who"], "ok")


def test_a_table_of_which_nothing_can_be_read_comes_back(
    game: Game, identify: Callable[..., Path], tmp_path: Path
) -> None:
    folder = tmp_path / "frames"
    folder.mkdir()
    for file in game.folder.glob("q2_*.png"):
        (folder / file.name).write_bytes(b"")
    (folder / "q2.csv").write_bytes(game.test.read_bytes())
    path = identify(test=folder / "q2.csv")
    assert {(row["label"], row["status"]) for row in read(path)} == {("", "failed")}
    assert not path.with_name("identities.json").exists()


def test_only_the_first_frames(identify: Callable[..., Path]) -> None:
    rows = read(identify(limit=2))
    assert {row["status"] for row in rows} == {"ok", ""}
    assert sum(row["status"] == "ok" for row in rows) == 10


def test_a_checkpoint_without_a_threshold(game: Game, identify: Callable[..., Path], tmp_path: Path) -> None:
    net = write_network(tmp_path / "bare", CropPack.open(game.pack), seed=3, thresholds={"top": 0.4})
    with pytest.raises(UsageError, match="no threshold for the view 'side'; give --threshold"):
        identify(checkpoint=(str(net),))
    update_config(net, read_config(net).model_copy(update={"thresholds": {"top": 0.4, "side": 0.5}}))
    told = json.loads(identify("out2", checkpoint=(str(net),)).with_name("identities.json").read_text("utf-8"))
    assert told["thresholds"] == {"top": 0.4, "side": 0.5}


def test_galleries_that_cannot_be_used(game: Game, identify: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no pack"):
        identify(gallery=(str(tmp_path / "nowhere"),))
    Crop(**COLUMNS).run(game.folder / "q1.csv", tmp_path / "nameless")
    with pytest.raises(InputError, match="no crop of the gallery has a label"):
        identify(gallery=(str(tmp_path / "nameless"),))
    with pytest.raises(ModelError, match="nowhere"):
        identify(checkpoint=(str(tmp_path / "nowhere"),))


@pytest.mark.parametrize("option", ["checkpoint", "gallery"])
def test_what_has_to_be_given(identify: Callable[..., Path], option: str) -> None:
    with pytest.raises(UsageError, match=f"--{option} is missing"):
        identify(**{option: ()})


# --- the report ------------------------------------------------------------------------------------------------------


@pytest.fixture
def shown(identify: Callable[..., Path]) -> Iterator[dict[str, str]]:
    """Title -> HTML of what the report shows besides, where nobody above 0.9 is known."""
    path = identify(label="who", threshold=0.9)
    with Journal.read(path.parent) as journal:
        yield dict(journal.recall("sections"))


def test_the_report_shows_people_scores_and_errors(shown: dict[str, str]) -> None:
    assert list(shown) == ["People", "Scores", "Verdict", "Hardest errors"]
    assert shown["People"].count("<img") > 10
    assert shown["Scores"].count("<svg") == 2
    assert "threshold 0.900" in shown["Scores"]
    assert "called unknown" in shown["Hardest errors"]
    assert shown["Hardest errors"].count("<img") >= 2
    assert all("<c>" not in html for html in shown.values())
    assert "&lt;c&gt;" in shown["Verdict"]


def test_the_page_has_them(identify: Callable[..., Path]) -> None:
    page = identify(label="who").with_name("report.html").read_text("utf-8")
    assert all(f"<h2>{title}</h2>" in page for title in ("People", "Scores", "Verdict", "Hardest errors"))


def test_the_verdict_is_that_of_sklearn(game: Game, identify: Callable[..., Path]) -> None:
    """A4.7 and A4.8: over all boxes at once, and unknown is a class of its own."""
    from sklearn.metrics import accuracy_score, f1_score

    path = identify(label="who", threshold=0.8)
    told = json.loads(path.with_name("identities.json").read_text("utf-8"))["against_truth"]
    truth, said = ([row[name] for row in read(path)] for name in ("who", "label"))
    assert told["accuracy"] == pytest.approx(accuracy_score(truth, said), abs=1e-6)
    assert told["macro_f1"] == pytest.approx(f1_score(truth, said, average="macro"), abs=1e-6)
    assert (told["known_boxes"], told["unknown_boxes"], told["rank_1"]) == (64, 16, 1.0)
    assert told["auroc"] == 1.0
    assert told["dir_at_fpir"]["dir"] == 1.0
