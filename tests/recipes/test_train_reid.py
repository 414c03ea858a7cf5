"""`train reid` from a match on disk to `identify`: what it writes, what it refuses, and how it goes on."""

import csv
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from html.parser import HTMLParser
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score
from tests.conftest import checkout_env

from lightmill.cli import run_command_line
from lightmill.data.fold_file import load_folds
from lightmill.data.pack import COLUMNS, CropPack, CropRow, PackWriter
from lightmill.errors import ChangedConfig, InputError, ModelError, RunError, UsageError
from lightmill.models.embedder import CropEmbedder
from lightmill.models.embedder_files import read_config
from lightmill.ops.crop_quality import covered, quality
from lightmill.recipes.crop import Crop
from lightmill.recipes.identify import Identify
from lightmill.recipes.train_reid import TrainReid
from lightmill.recipes.training import TrainingEnded, seconds_of
from lightmill.sample.match import PATH, write_match

COLUMNS_OF_MATCH: dict[str, Any] = {"path": PATH, "group": ("quarter", "session"), "view": "angle", "time": "frame"}
QUIET: dict[str, Any] = {"progress": "none", "threads": 1}
TINY: dict[str, Any] = QUIET | {
    "backbone": "random:resnet-tiny",
    "embedding": 16,
    "epochs": 2,
    "size": "32x64",
    "amp": "off",
    "readers": 0,
    "tensorboard": False,
    "identities": 4,
    "samples": 2,
    "negatives": 2,
    "hold": "quarter",
    "folds": 2,
    "unknown": 2,
    "limit_train": 6,
}
MADE = {"epochs.csv", "folds.parquet", "report.html", "scores.json", "steps.csv", "threshold_all.svg"}


@pytest.fixture(scope="module")
def match(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three quarters of a small match, of which the last is the test; in `crops` the pack of the others."""
    folder = tmp_path_factory.mktemp("match")
    write_match(
        folder, players=10, unknown=2, quarters=3, sessions=2, frames=3, size=(480, 270), players_per_frame=8, threads=1
    )
    crop = Crop(images=str(folder / "images"), label="label_id", background_per_frame=1, **COLUMNS_OF_MATCH, **QUIET)
    assert crop.run(folder / "train_meta.csv", folder / "crops").failed == 0
    return folder


def train(match: Path, out: Path, pack: Path | None = None, **options: Any) -> TrainingEnded:
    return TrainReid.from_values(TINY | options).run(pack or match / "crops", out)


@pytest.fixture(scope="module")
def trained(match: Path) -> Path:
    """OUT of a whole training."""
    assert train(match, match / "trained").exit_code == 0
    return match / "trained"


def read(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


# --- what comes out --------------------------------------------------------------------------------------------------


def test_it_leaves_a_checkpoint_scores_split_logs_and_a_report(match: Path, trained: Path) -> None:
    assert {path.name for path in trained.iterdir()} == MADE | {"best", "last", ".lightmill"}
    told = json.loads((trained / "scores.json").read_text("utf-8"))
    config = read_config(trained / "best")
    assert config.thresholds == told["thresholds"]
    assert set(config.thresholds) == {""}
    assert (config.size_hw, config.expand, config.embedding) == ((64, 32), 1.2, 16)
    assert (told["epochs"], told["steps"], told["ended"]) == (2, 12, "epochs")
    table = CropPack.open(match / "crops").table
    (fold,) = load_folds(trained / "folds.parquet", table)
    assert told["held_out_groups"] == list(fold.held_out_groups)
    assert len(fold.unknown_labels) == 2
    assert told["unknown_labels"] == list(fold.unknown_labels)
    assert set(config.labels) == set(table["label"].to_list()) - {"", *fold.unknown_labels}
    assert len(read(trained / "epochs.csv")) == 2
    assert len(read(trained / "steps.csv")) == 12


def looked_up(match: Path, trained: Path) -> dict[str, float]:
    """The figures of held-out crops by loops: each against the weighted mean of every player of the gallery."""
    pack = CropPack.open(match / "crops")
    table = pack.table
    (fold,) = load_folds(trained / "folds.parquet", table)
    model = CropEmbedder(trained / "best", at_once=64)  # as many as there: sums of other batches differ in last bits
    model.load("cpu")
    labels, views = table["label"].to_list(), table["view"].to_list()
    boxes = table.select("x", "y", "w", "h").to_numpy()
    players = (table["kind"] == "player").to_numpy()
    hidden = np.zeros(len(boxes))
    hidden[players] = covered(boxes[players], frames=table["frame"].to_numpy()[players])
    of: dict[tuple[str, str], list[int]] = {}
    for row in fold.train.tolist():
        of.setdefault((labels[row], views[row]), []).append(row)
    of = {key: [rows[i * len(rows) // 30] for i in range(30)] if len(rows) > 30 else rows for key, rows in of.items()}
    held = [*fold.val_known.tolist(), *fold.val_unknown.tolist()]
    judged = sorted(row for rows in of.values() for row in rows) + held
    worth = dict(
        zip(judged, quality(boxes[judged], views=[views[r] for r in judged], hidden=hidden[judged]), strict=True)
    )
    seen = dict(zip(judged, np.array(model([pack.pixels(row) for row in judged]), np.float64), strict=True))
    points = {}
    for (label, view), rows in of.items():
        mean = sum(seen[row] * worth[row] for row in rows)
        points[label, view] = mean / np.linalg.norm(mean)
    scores, right, known = [], [], []
    for row in held:
        near: dict[str, float] = {}
        for (label, view), point in points.items():
            if view == views[row] or (label, views[row]) not in points:  # of who is not in this view, the others
                near[label] = max(near.get(label, -1.0), float(seen[row] @ point))
        nearest = max(near, key=lambda label: near[label])
        scores.append(near[nearest])
        right.append(nearest == labels[row])
        known.append(labels[row] not in fold.unknown_labels)
    wins = [
        right[i] * ((scores[i] > scores[j]) + (scores[i] == scores[j]) / 2)
        for i, j in product(range(len(held)), repeat=2)
        if known[i] and not known[j]
    ]
    return {
        "rank_1": float(np.mean(np.array(right)[known])),
        "auroc": float(roc_auc_score(known, scores)),
        "oscr": float(np.mean(wins)),
    }


def test_scores_are_those_of_loops_over_the_checkpoint_that_is_left(match: Path, trained: Path) -> None:
    """A4.6 and A4.7: no labels go into what is judged, and nothing is the mean of batches."""
    told = json.loads((trained / "scores.json").read_text("utf-8"))["held_out"]["crops"]
    wanted = looked_up(match, trained)
    assert {name: told[name] for name in wanted} == pytest.approx(wanted, abs=1e-6)


def test_identify_takes_what_it_leaves(match: Path, trained: Path, tmp_path: Path) -> None:
    """From frames to names, with the thresholds of the training; every row of the test comes back."""
    Identify(
        checkpoint=(str(trained),),  # its `best`
        gallery=(str(match / "crops"),),
        images=str(match / "images"),
        unknown="-1",
        **COLUMNS_OF_MATCH,
        **QUIET,
    ).run(match / "test_meta.csv", tmp_path / "out")
    told = json.loads((tmp_path / "out" / "identities.json").read_text("utf-8"))
    assert told["thresholds"] == read_config(trained / "best").thresholds
    rows = read(tmp_path / "out" / "test_meta_with_identities.csv")
    test = read(match / "test_meta.csv")
    assert [{name: row[name] for name in test[0]} for row in rows] == test
    assert {row["label"] for row in rows} <= {"-1", *map(str, range(8))}
    threshold = told["thresholds"][""]
    assert all((row["label"] == "-1") or float(row["score"]) >= threshold - 1e-4 for row in rows)


def test_from_python_it_says_nothing_and_gives_back_how_it_ended(
    match: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    import lightmill

    ended = lightmill.train_reid(match / "crops", tmp_path / "out", **TINY | {"epochs": 1})
    assert capfd.readouterr() == ("", "")
    assert ended.exit_code == 0
    assert any(remark.startswith("held out, tracklets: rank_1 ") for remark in ended.remarks)
    assert ended.warnings == ()


def test_negatives_are_trained_on(match: Path, trained: Path, tmp_path: Path) -> None:
    """A4.19: crops of nobody have a loss of their own; without them there is none."""
    with_nobody = read(trained / "steps.csv")
    assert any(float(row["outliers"]) > 0 for row in with_nobody)
    train(match, tmp_path / "out", negatives=0, epochs=1)
    assert not any(float(row.get("outliers") or 0) for row in read(tmp_path / "out" / "steps.csv"))


def test_views_of_a_player_are_made_to_agree(match: Path, tmp_path: Path) -> None:
    """A4.2 and A4.3: pairs of side and top come from the command line down to a loss of their own."""
    train(match, tmp_path / "out", views="side,top", consistency_weight=0.5, epochs=1)
    steps = read(tmp_path / "out" / "steps.csv")
    assert any(float(row["consistency"]) > 0 for row in steps)


def test_a_threshold_is_chosen_anew_without_training(match: Path, trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(trained, out)
    weights = (out / "best" / "model.safetensors").read_bytes()
    train(match, out, target="fpir=0.3")
    assert (out / "best" / "model.safetensors").read_bytes() == weights
    assert read_config(out / "best").thresholds[""] < read_config(trained / "best").thresholds[""]
    assert json.loads((out / "scores.json").read_text("utf-8"))["target"] == "fpir=0.3"


# --- the report ------------------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """Fails where a tag is closed that is not open, or stays open."""

    VOID = ("meta", "img", "br", "link", "input", "hr")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_the_report_shows_figures_curves_thresholds_and_errors(trained: Path) -> None:
    page = Page((trained / "report.html").read_text("utf-8"))
    told = json.loads((trained / "scores.json").read_text("utf-8"))
    words = " ".join(page.words)
    for of in told["held_out"].values():
        assert all(f"{value:.4g}" in page.words for value in of.values())
    assert f"{told['thresholds']['']:.4g}" in page.words
    assert all(title in words for title in ("Losses", "Thresholds", "The hardest errors", "Split", "Options"))
    assert page.tags.count("svg") >= 3
    assert page.tags.count("img") > 0
    assert "random:resnet-tiny" in page.words
    svg = (trained / "threshold_all.svg").read_text("utf-8")
    assert svg.startswith("<svg")
    assert svg.strip().endswith("</svg>")


def renamed(match: Path, folder: Path, names: Callable[[str], str]) -> Path:
    """The pack with other labels."""
    return repacked(match, folder, lambda row: row | {"label": names(row["label"]) if row["label"] else ""})


def repacked(
    match: Path,
    folder: Path,
    change: Callable[[dict[str, Any]], dict[str, Any]],
    *,
    more: Iterable[tuple[int, dict[str, Any]]] = (),
    expand: float = 1.2,
) -> Path:
    """A pack of the same crops, each with its columns changed; `more`: rows (place, columns) behind them."""
    pack = CropPack.open(match / "crops")
    table = pack.table
    own = [name for name in COLUMNS if name != "crop"]
    other = [name for name in table.columns if name not in own]
    folder.mkdir()
    with PackWriter(folder / "crops.arrow", store="jpeg", expand=expand, columns=other) as writer:
        for place, columns in [*((place, {}) for place in range(len(pack))), *more]:
            row = change(table.row(place, named=True)) | columns
            users = {name: row[name] for name in other}
            values = {name: row[name] for name in own}
            writer.add([CropRow(crop=bytes(pack.encoded(place)), **values, other=users)])
    return folder


HOSTILE = ["<img src=x onerror=alert(1)>", "../../up", "a/b", "日本", 'é"&amp;', " blanks ", "line\nbreak", "</svg><b>"]


def test_labels_are_only_text(match: Path, tmp_path: Path) -> None:
    """In the report, in file names and in the checkpoint."""
    pack = renamed(match, tmp_path / "crops", lambda label: HOSTILE[int(label)])
    train(match, tmp_path / "out", pack, epochs=1, limit_train=2)
    told = json.loads((tmp_path / "out" / "scores.json").read_text("utf-8"))
    labels = read_config(tmp_path / "out" / "best").labels
    assert sorted([*labels, *told["unknown_labels"]]) == sorted(HOSTILE)
    html = (tmp_path / "out" / "report.html").read_text("utf-8")
    assert Page(html).tags.count("img") > 0
    assert "<img src=x" not in html
    assert "<b>" not in html
    assert {path.name for path in tmp_path.iterdir()} == {"crops", "out"}


def test_views_name_files_only_by_letters(match: Path, tmp_path: Path) -> None:
    """A threshold of its own, for a view whose name is a path."""
    pack = repacked(match, tmp_path / "crops", lambda row: row | {"view": "../" + row["view"]})
    train(match, tmp_path / "out", pack, epochs=1, limit_train=2, target="f1")
    assert {path.name for path in tmp_path.iterdir()} == {"crops", "out"}
    plots = {path.name for path in (tmp_path / "out").glob("*.svg")}
    assert "threshold_all.svg" in plots
    assert all(name in ("threshold_all.svg", "threshold____side.svg", "threshold____top.svg") for name in plots)


# --- leaks -----------------------------------------------------------------------------------------------------------


def test_a_copy_on_both_sides_is_refused_before_training(match: Path, trained: Path, tmp_path: Path) -> None:
    """A4.4: the leak test runs by itself; `--allow-leaks` goes on all the same."""
    table = CropPack.open(match / "crops").table
    (fold,) = load_folds(trained / "folds.parquet", table)
    trained_on = table.row(int(fold.train[0]), named=True)
    spot = {name: trained_on[name] for name in ("group", "view", "label", "quarter", "session")}
    copied = (int(fold.val_known[5]), spot | {"frame": "a copy.jpg", "row": len(table)})
    pack = repacked(match, tmp_path / "crops", dict, more=[copied])
    with pytest.raises(UsageError, match=r"leaks from training into validation.*\n- copy: 1 crops of validation"):
        train(match, tmp_path / "out", pack)
    assert not (tmp_path / "out").exists()
    assert train(match, tmp_path / "out", pack, allow_leaks=True, epochs=1).exit_code == 0


def test_a_group_is_never_split(match: Path, tmp_path: Path) -> None:
    """A4.4: neither by random samples nor by a column that cuts through it."""
    with pytest.raises(UsageError, match=r"is in two parts .* a group is never split"):
        train(match, tmp_path / "out", hold="view")
    assert not (tmp_path / "out").exists()


# --- again -----------------------------------------------------------------------------------------------------------


def stamps(out: Path) -> dict[str, int]:
    return {name: (out / name).stat().st_mtime_ns for name in ("best/model.safetensors", "epochs.csv", "steps.csv")}


def test_the_same_command_again_trains_no_more(match: Path, trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(trained, out)
    before, told = stamps(out), (out / "scores.json").read_bytes()
    assert train(match, out).exit_code == 0
    assert stamps(out) == before
    assert (out / "scores.json").read_bytes() == told


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"negatives": 1}, "negatives was 2, now 1"),
        ({"samples": 3}, "samples was 2, now 3"),
        ({"fold": 1}, "fold was 0, now 1"),
        ({"unknown": 1}, "unknown was 2, now 1"),
        ({"within": "group"}, "within was None, now group"),
        ({"rate": 0.01}, "rate was 0.002, now 0.01"),
        ({"size": "32x32"}, "size was 32x64, now 32x32"),
        ({"epochs": 3, "seed": 4}, "epochs was 2, now 3; seed was 0, now 4"),
    ],
)
def test_other_options_are_refused_and_nothing_is_touched(
    changed: dict[str, Any], says: str, match: Path, trained: Path
) -> None:
    files = [path for path in trained.rglob("*") if path.is_file() and path.name != "lock"]
    before = {path: path.read_bytes() for path in files}
    with pytest.raises(ChangedConfig, match=f"trained holds a training with other options: .*{says}.*--fresh"):
        train(match, trained, **changed)
    assert {path: path.read_bytes() for path in before} == before


def test_other_crops_are_refused(match: Path, trained: Path, tmp_path: Path) -> None:
    pack = renamed(match, tmp_path / "crops", lambda label: f"player {label}")
    with pytest.raises(ChangedConfig, match=r"trained holds a training on other crops .*--fresh"):
        train(match, trained, pack)


def test_a_pack_that_was_moved_goes_on(match: Path, trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "out")
    shutil.copytree(match / "crops", tmp_path / "moved")
    assert train(match, tmp_path / "out", tmp_path / "moved").exit_code == 0


def test_fresh_starts_anew(match: Path, trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "out")
    assert train(match, tmp_path / "out", fresh=True, epochs=1).exit_code == 0
    assert len(read(tmp_path / "out" / "epochs.csv")) == 1


def test_a_folder_of_another_recipe_is_refused(match: Path) -> None:
    report = (match / "crops" / "report.html").read_bytes()
    with pytest.raises(UsageError, match="crops holds a run of another recipe; choose another OUT"):
        train(match, match / "crops")
    assert (match / "crops" / "report.html").read_bytes() == report


def words_of(options: dict[str, Any]) -> list[str]:
    flags = {"tensorboard": ["--no-tensorboard"]}
    return [
        word
        for name, value in options.items()
        for word in flags.get(name, ["--" + name.replace("_", "-"), str(value)])
        if name != "progress"
    ]


def lines(process: "subprocess.Popen[str]") -> Iterator[str]:
    assert process.stderr
    for line in process.stderr:
        yield json.loads(line)["text"] if line.startswith("{") else line


@pytest.mark.slow
def test_ctrl_c_ends_with_130_and_the_same_command_makes_the_same(match: Path, trained: Path, tmp_path: Path) -> None:
    """Stopped after its first epoch, it goes on to what an uninterrupted training gives, byte for byte."""
    command = [sys.executable, "-m", "lightmill", "train", "reid", match / "crops", tmp_path / "out", *words_of(TINY)]
    with subprocess.Popen(
        list(map(str, command)), stderr=subprocess.PIPE, text=True, env=checkout_env(), encoding="utf-8"
    ) as process:
        said = []
        for line in lines(process):
            said.append(line)
            if line.startswith("epoch 1 of 2"):
                process.send_signal(signal.SIGINT)
        code = process.wait(60)
    assert code == 130, said
    assert said[-1] == f"interrupted: the same command goes on with {tmp_path / 'out'}"
    assert not (tmp_path / "out" / "scores.json").exists()
    assert train(match, tmp_path / "out").exit_code == 0
    for name in ("best/model.safetensors", "best/config.json", "scores.json"):
        assert (tmp_path / "out" / name).read_bytes() == (trained / name).read_bytes(), name


# --- nobody unknown, limits, refusals --------------------------------------------------------------------------------


def test_without_unknown_players_there_is_no_threshold_and_it_is_said(match: Path, tmp_path: Path) -> None:
    ended = train(match, tmp_path / "out", unknown=0, epochs=1)
    assert ended.warnings == ("no threshold was chosen: nobody unknown was held out (--unknown)",)
    assert read_config(tmp_path / "out" / "best").thresholds == {}
    assert not list((tmp_path / "out").glob("*.svg"))
    Page((tmp_path / "out" / "report.html").read_text("utf-8"))
    identify = Identify(
        checkpoint=(str(tmp_path / "out" / "best"),),
        gallery=(str(match / "crops"),),
        images=str(match / "images"),
        **COLUMNS_OF_MATCH,
        **QUIET,
    )
    with pytest.raises(UsageError, match="no threshold for the view 'side'; give --threshold"):
        identify.run(match / "test_meta.csv", tmp_path / "identified")


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("10m", 600), ("2h", 7200), ("1.5h", 5400), ("0.5s", 0.5)]
)
def test_lengths_of_time(text: str, seconds: float) -> None:
    assert seconds_of(text) == seconds
    assert TrainReid.from_values({"max_time": text}).max_time == seconds


@pytest.mark.parametrize("text", ["", "0", "-5m", "m", "10 min", "1d", "nan", "inf", "1e999", "10m5s"])
def test_what_is_no_length_of_time(text: str) -> None:
    with pytest.raises(UsageError, match=r"--max-time .*: a length of time is written 90s, 10m or 2h, got"):
        TrainReid.from_values({"max_time": text})


@pytest.mark.parametrize("value", [0, -5, float("nan"), float("inf")])
def test_numbers_that_are_no_length_of_time(value: float) -> None:
    """As a YAML file may give them."""
    with pytest.raises(UsageError, match="--max-time"):
        TrainReid.from_values({"max_time": value})


def test_a_time_limit_ends_a_training_with_all_that_it_leaves(match: Path, tmp_path: Path) -> None:
    ended = train(match, tmp_path / "out", epochs=500, max_time="2s", limit_train=2)
    told = json.loads((tmp_path / "out" / "scores.json").read_text("utf-8"))
    assert ended.exit_code == 0
    assert told["ended"] == "time"
    assert told["epochs"] < 500
    assert "(time)" in ended.summary


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"fold": 2}, "--fold 2: of 2 folds the last is 1"),
        ({"folds": 3}, "too few for 3 folds"),
        ({"unknown": 9}, "too few for 9 unknown ones"),
        ({"hold": "city"}, "there is no column city"),
        ({"within": "city"}, "no column city"),
        ({"views": "side,under"}, "under"),
        ({"block": 5}, "a gap above 0"),
        ({"backbone": "random:resnet-tny"}, "resnet-tiny"),
    ],
)
def test_what_cannot_be_trained_is_refused(options: dict[str, Any], says: str, match: Path, tmp_path: Path) -> None:
    with pytest.raises((UsageError, ModelError), match=says):
        train(match, tmp_path / "out", **options)
    assert not (tmp_path / "out" / "best").exists()


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"target": "fpir"}, "--target"),
        ({"target": "fpir=2"}, "--target"),
        ({"target": "best"}, "--target"),
        ({"rate": 0}, "--rate"),
        ({"rate": float("nan")}, "--rate"),
        ({"mirror": 2}, "--mirror"),
        ({"identities": 1}, "--identities"),
        ({"seed": 1 << 64}, "--seed"),
        ({"epoch": 3}, "there is no option --epoch; did you mean --epochs?"),
    ],
)
def test_values_that_are_refused(values: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says.replace("?", r"\?")):
        TrainReid.from_values(values)


def test_a_training_that_went_wrong_is_told_in_one_line(match: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no number"):
        train(match, tmp_path / "out", rate=1e30)
    assert not (tmp_path / "out" / "best").exists()


def test_fewer_players_than_a_batch_takes_are_all_in_it(match: Path, tmp_path: Path) -> None:
    """With the defaults, on a small match."""
    assert train(match, tmp_path / "out", identities=16, epochs=1, limit_train=1).exit_code == 0


def test_a_wrong_option_names_the_help_of_the_command(match: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run_command_line(["train", "reid", str(match / "crops"), "out", "--lr", "1"]) == 2
    assert "(lightmill train reid --help lists the options)" in capfd.readouterr().err


def test_packs_that_do_not_serve(match: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no pack"):
        train(match, tmp_path / "out", tmp_path / "nothing")
    with pytest.raises(UsageError, match="folds need boxes with a label"):
        train(match, tmp_path / "out", repacked(match, tmp_path / "nobody", lambda row: row | {"label": ""}))
    assert not (tmp_path / "out").exists()


def test_crops_smaller_than_their_boxes_are_refused(match: Path, tmp_path: Path) -> None:
    """A4.15: an embedder says how its crops were cut, and such it could not say."""
    with pytest.raises(UsageError, match=r"crops of 0\.8 times their boxes"):
        train(match, tmp_path / "out", repacked(match, tmp_path / "crops", dict, expand=0.8))
