"""The command line: what is printed where, exit codes, and the commands for runs."""

import inspect
import json
import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import lightmill
from lightmill.cli import run_command_line
from lightmill.ops.cover import coverage
from lightmill.ops.rigs import PRESETS
from lightmill.recipes.registry import RECIPES, recipe_class

SMALL = ("--rig", "horizon4", "--size", "64x48", "--threads", "2")


@pytest.fixture
def panoramas(tmp_path: Path) -> Path:
    """A folder with a.png, b.png and c.png, 128 x 64."""
    (tmp_path / "in").mkdir()
    for name, level in (("a", 60), ("b", 120), ("c", 180)):
        Image.new("RGB", (128, 64), (level, 255 - level, 90)).save(tmp_path / "in" / f"{name}.png")
    return tmp_path / "in"


@pytest.fixture
def run(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """`run("split360", ...)`: exit code, what was printed, and what was said (stderr)."""

    def command(*arguments: object) -> tuple[int, str, str]:
        capfd.readouterr()
        code = run_command_line([str(argument) for argument in arguments])
        return code, *capfd.readouterr()

    return command


def rows_of(out: Path) -> dict[str, Any]:
    lines = (out / "manifest.jsonl").read_text("utf-8").splitlines()
    return {row["key"]: row for row in map(json.loads, lines)}


# --- exit codes and messages -----------------------------------------------------------------------------------------


def test_all_well_is_0(run: Callable[..., Any], panoramas: Path, tmp_path: Path) -> None:
    code, printed, said = run("split360", panoramas, tmp_path / "out", *SMALL)
    assert code == 0
    assert printed == ""  # what is printed is for programs: only `status`, `report` and `rigs` have any
    closing = [json.loads(line)["text"] for line in said.splitlines()[-2:]]
    assert re.fullmatch(r"done: 3 items ok, 0 failed in .*", closing[0])
    assert closing[1] == f"report: {tmp_path / 'out' / 'report.html'}"


def test_progress_none_is_silent(run: Callable[..., Any], panoramas: Path, tmp_path: Path) -> None:
    assert run("split360", panoramas, tmp_path / "out", *SMALL, "--progress", "none") == (0, "", "")


def test_some_failed_is_3_and_says_how_to_go_on(run: Callable[..., Any], panoramas: Path, tmp_path: Path) -> None:
    Image.new("RGB", (64, 64)).save(panoramas / "b.png")
    code, _, said = run("split360", panoramas, tmp_path / "out", *SMALL, "--progress", "none")
    assert code == 3
    assert "done: 2 items ok, 1 failed" in said
    assert f"again, only what failed: lightmill retry {tmp_path / 'out'} --only failed" in said


def test_a_run_that_could_not_be_done_is_1(run: Callable[..., Any], panoramas: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    code, printed, said = run("split360", tmp_path / "absent", out, *SMALL)
    assert (code, printed) == (1, "")
    assert said == f"lightmill: there is no {tmp_path / 'absent'}\n"
    assert run("split360", panoramas, out, *SMALL, "--progress", "none")[0] == 0
    code, _, said = run("split360", panoramas, out, *SMALL, "--quality", 50)
    assert code == 1
    assert "quality was 95, now 50" in said


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--size", "big"), "--size 'big': a size is written WIDTHxHEIGHT"),
        (("--rig", "ring9"), "no rig is called 'ring9'. Did you mean ring8?"),
        (("--fromat", "png"), "--fromat"),
        (("--fps", "0"), "--fps 0.0: input should be greater than 0"),
        (("--start", "-1"), "--start -1.0: input should be greater than or equal to 0"),
        (("--format", "gif"), "--format"),
        (("--quality", "many"), "--quality"),
        (("--pick", "sharpest"), "--pick sharpest needs --fps"),
        (("--masks", "nowhere"), "--masks nowhere: there is no such folder"),
        (("--config", "nowhere.yaml"), "--config nowhere.yaml: "),
        (("--rig", "nowhere.yaml"), "--rig nowhere.yaml: "),
        (("--naming",), "--naming"),
        (("extra",), "lightmill split360 --help lists the options"),
    ],
)
def test_usage_is_2_in_one_line(
    arguments: tuple[str, ...], says: str, run: Callable[..., Any], panoramas: Path, tmp_path: Path
) -> None:
    code, printed, said = run("split360", panoramas, tmp_path / "out", *arguments)
    assert (code, printed) == (2, "")
    assert says in said
    assert said.startswith("lightmill: ")
    assert said.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("spilt360", "in", "out"), "spilt360"),
        (("split360",), "INPUT"),
        (("split360", "in"), "OUT"),
        (("retry",), "OUT"),
    ],
)
def test_commands_that_are_not_whole(arguments: tuple[str, ...], says: str, run: Callable[..., Any]) -> None:
    code, printed, said = run(*arguments)
    assert (code, printed) == (2, "")
    assert says in said
    assert "Traceback" not in said


def test_unknown_options_are_told_with_the_nearest(run: Callable[..., Any], panoramas: Path, tmp_path: Path) -> None:
    code, _, said = run("split360", panoramas, tmp_path / "out", "--fromat", "png")
    assert code == 2
    assert "--format" in said


def test_debug_shows_where_it_went_wrong(run: Callable[..., Any], lightmill_run: Any, tmp_path: Path) -> None:
    arguments = ("split360", tmp_path / "absent", tmp_path / "out")
    assert "Traceback" not in run(*arguments)[2]
    debug = lightmill_run(*arguments, "--debug")
    assert "Traceback (most recent call last)" in debug.stderr
    assert f"InputError: there is no {tmp_path / 'absent'}" in debug.stderr
    assert (debug.code, debug.stdout) == (1, "")


def test_help_and_version(run: Callable[..., Any]) -> None:
    assert run("--version")[:2] == (0, f"{lightmill.__version__}\n")
    code, printed, _ = run("--help")
    assert code == 0
    assert all(name.split()[0] in printed for name in (*RECIPES, "status", "retry", "report", "rigs"))
    code, printed, _ = run("train", "--help")
    assert code == 0
    assert all(f"│ {second[0]} " in printed for first, *second in map(str.split, RECIPES) if first == "train")


@pytest.mark.parametrize("name", RECIPES)
def test_help_has_paragraphs_as_wide_as_the_terminal(
    name: str, run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "2000")
    printed = run(*name.split(), "--help")[1].splitlines()
    for paragraph in inspect.getdoc(recipe_class(name)).split("\n\n"):
        assert " ".join(paragraph.split()) in [line.rstrip() for line in printed]


@pytest.mark.parametrize("name", RECIPES)
def test_help_lists_every_option_once(name: str, run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    code, printed, _ = run(*name.split(), "--help")
    recipe = recipe_class(name)
    assert code == 0
    fields = set(recipe.model_fields) - set(recipe.positional)
    wanted = sorted(["--config", "--debug", *("--" + field.replace("_", "-") for field in fields)])
    assert sorted(re.findall(r"^│ \*?\s*(--[a-z0-9-]+)", printed, flags=re.MULTILINE)) == wanted
    assert all(field.upper() in printed for field in recipe.positional)


# --- options ---------------------------------------------------------------------------------------------------------


def test_config_file_and_the_command_line_before_it(run: Callable[..., Any], panoramas: Path, tmp_path: Path) -> None:
    config = tmp_path / "options.yaml"
    config.write_text(
        "rig: cube6\nsize: 40x30\nmask-polarity: keep-black\nexport: [nerfstudio]\nthreads: 2\nlimit: 2\n"
    )
    out = tmp_path / "out"
    assert run("split360", panoramas, out, "--config", config, "--rig", "horizon4", "--progress", "none")[0] == 0
    rig = json.loads((out / "rig.json").read_text("utf-8"))
    assert (rig["name"], rig["size"]) == ("horizon4", [40, 30])
    assert list(rows_of(out)) == ["a.png", "b.png"]
    assert (out / "transforms.json").is_file()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("fsp: 2", "there is no option --fsp; did you mean --fps?"),
        ("size: big", "--size 'big': a size is written WIDTHxHEIGHT"),
        ("- fps", "it should hold options, one a line, as in `fps: 2`"),
        ("a: [", "--config "),
        ("\x00", "--config "),
    ],
)
def test_config_files_that_are_wrong(
    content: str, says: str, run: Callable[..., Any], panoramas: Path, tmp_path: Path
) -> None:
    (tmp_path / "options.yaml").write_text(content)
    code, _, said = run("split360", panoramas, tmp_path / "out", "--config", tmp_path / "options.yaml")
    assert code == 2
    assert says in said
    assert not (tmp_path / "out").exists()


def test_an_empty_config_file_says_nothing(run: Callable[..., Any], panoramas: Path, tmp_path: Path) -> None:
    (tmp_path / "options.yaml").write_text("# nothing yet\n")
    options = (*SMALL, "--progress", "none", "--config", tmp_path / "options.yaml")
    assert run("split360", panoramas, tmp_path / "out", *options) == (0, "", "")


def test_limit_takes_the_first_and_the_rest_can_follow(
    run: Callable[..., Any], panoramas: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert run("split360", panoramas, out, *SMALL, "--limit", 2, "--progress", "none")[0] == 0
    assert list(rows_of(out)) == ["a.png", "b.png"]
    stamp = (out / "images/cam00/a.jpg").stat().st_mtime_ns
    assert run("split360", panoramas, out, *SMALL, "--progress", "none")[0] == 0
    assert list(rows_of(out)) == ["a.png", "b.png", "c.png"]
    assert (out / "images/cam00/a.jpg").stat().st_mtime_ns == stamp


def test_max_failures_stops_the_run_and_keeps_what_is_done(
    run: Callable[..., Any], panoramas: Path, tmp_path: Path
) -> None:
    for name in "bcdefgh":
        (panoramas / f"{name}.png").write_bytes(b"no picture")
    code, _, said = run("split360", panoramas, tmp_path / "out", *SMALL, "--max-failures", 2, "--progress", "none")
    assert code == 1
    assert "more than --max-failures 2 allows; most of them as read:NotAnImage" in said
    assert (tmp_path / "out/images/cam00/a.jpg").is_file()
    assert not (tmp_path / "out/manifest.csv").exists()  # whole or absent
    assert run("split360", panoramas, tmp_path / "out", *SMALL, "--max-failures", "100%", "--progress", "none")[0] == 3
    assert len(rows_of(tmp_path / "out")) == 8


def test_progress_json_is_lines_of_json(run: Callable[..., Any], panoramas: Path, tmp_path: Path) -> None:
    Image.new("RGB", (64, 64)).save(panoramas / "b.png")
    code, printed, said = run("split360", panoramas, tmp_path / "out", *SMALL, "--progress", "json")
    assert (code, printed) == (3, "")
    everything = [json.loads(line) for line in said.splitlines()]  # and nothing but JSON
    events = [line for line in everything if line["event"] != "message"]
    assert [events[0]["event"], events[-1]["event"]] == ["start", "finish"]
    assert events[0]["title"] == f"split360: folder {panoramas}"
    finish = events[-1]
    assert finish["outcome"] == "finished"
    assert finish["counts"] == {"ok": 2, "recovered": 0, "filtered": 0, "failed": 1}
    assert (finish["total"], finish["ended"]) == (3, 3)
    assert finish["failures"] == {"read:WrongAspect": 1}
    messages = [line["text"] for line in everything if line["event"] == "message"]
    assert messages[0].startswith("done: 2 items ok, 1 failed")


def test_trace_opens_in_a_trace_viewer(run: Callable[..., Any], panoramas: Path, tmp_path: Path) -> None:
    trace = tmp_path / "traces" / "trace.json"
    assert run("split360", panoramas, tmp_path / "out", *SMALL, "--trace", trace, "--progress", "none")[0] == 0
    events = json.loads(trace.read_text("utf-8"))["traceEvents"]
    complete = [event for event in events if event["ph"] == "X"]
    names = [event["name"] for event in complete]
    assert {"read", "decode", "cut", "encode"} <= set(names)
    assert names.count("decode") == 3
    assert names.count("cut") == 12
    assert all(event["dur"] >= 0 and event["ts"] >= 0 for event in complete)


# --- status, retry, report -------------------------------------------------------------------------------------------


@pytest.fixture
def half_failed(run: Callable[..., Any], panoramas: Path, tmp_path: Path) -> Path:
    """OUT of a run in which b.png was no panorama and c.png no picture; both are sound by now."""
    sound = {name: (panoramas / name).read_bytes() for name in ("b.png", "c.png")}
    Image.new("RGB", (64, 64)).save(panoramas / "b.png")
    (panoramas / "c.png").write_bytes(b"no picture")
    assert run("split360", panoramas, tmp_path / "out", *SMALL, "--quality", 91, "--progress", "none")[0] == 3
    for name, data in sound.items():
        (panoramas / name).write_bytes(data)
    return tmp_path / "out"


def test_status(run: Callable[..., Any], half_failed: Path) -> None:
    code, printed, said = run("status", half_failed)
    assert (code, said) == (0, "")
    assert "1 ok" in printed
    assert "2 failed" in printed
    assert "1 failed as read:WrongAspect" in printed
    code, printed, said = run("status", half_failed, "--json")
    assert (code, said) == (0, "")
    found = json.loads(printed)
    assert (found["recipe"], found["total"]) == ("split360", 3)
    assert found["counts"] == {"pending": 0, "running": 0, "ok": 1, "recovered": 0, "filtered": 0, "failed": 2}
    assert found["failures"] == {"read:NotAnImage": 1, "read:WrongAspect": 1}
    assert [session["outcome"] for session in found["sessions"]] == ["finished"]


@pytest.mark.parametrize(
    ("only", "redone"),
    [
        ("failed", {"b.png", "c.png"}),
        ("failed:read", {"b.png", "c.png"}),
        ("failed:read:WrongAspect", {"b.png"}),
        ("failed:decode", set()),
        ("failed:read:Other", set()),
    ],
)
def test_retry_does_what_is_asked_for_from_any_folder(
    only: str,
    redone: set[str],
    run: Callable[..., Any],
    half_failed: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    elsewhere = tmp_path / "else" / "where"
    elsewhere.mkdir(parents=True)
    monkeypatch.chdir(elsewhere)
    stamp = (half_failed / "images/cam00/a.jpg").stat().st_mtime_ns
    out = os.path.relpath(half_failed)
    code, *_ = run("retry", out, "--only", only, "--progress", "none", "--threads", 1)
    assert code == (0 if len(redone) == 2 else 3)
    statuses = {key: row["status"] for key, row in rows_of(half_failed).items()}
    assert statuses == {"a.png": "ok"} | {key: "ok" if key in redone else "failed" for key in ("b.png", "c.png")}
    assert (half_failed / "images/cam00/a.jpg").stat().st_mtime_ns == stamp
    for key in redone:
        with Image.open(half_failed / f"images/cam03/{key[0]}.jpg") as view:
            assert view.size == (64, 48)


def test_retry_of_a_relative_input_gives_what_the_run_would_have_given(
    run: Callable[..., Any], panoramas: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = (panoramas / "b.png").read_bytes()
    (panoramas / "b.png").write_bytes(b"no picture")
    (tmp_path / "rig.yaml").write_text("rings: [{count: 2}]\n")
    (tmp_path / "masks").mkdir()
    Image.new("L", (128, 64), 255).save(tmp_path / "masks" / "b.png")
    monkeypatch.chdir(tmp_path)
    options = ("--rig", "rig.yaml", "--size", "64x48", "--masks", "masks", "--format", "png", "--progress", "none")
    assert run("split360", "in", "out", *options)[0] == 3
    (panoramas / "b.png").write_bytes(sound)
    monkeypatch.chdir("/")
    assert run("retry", tmp_path / "out", "--progress", "none")[0] == 0
    monkeypatch.chdir(tmp_path)
    assert run("split360", "in", "whole", *options)[0] == 0
    for name in ("manifest.jsonl", "manifest.csv", "rig.json", "images/cam01/b.png", "masks/cam01/b.png"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert run("split360", "in", "out", *options)[0] == 0  # the config is still the same


def test_only_is_read(run: Callable[..., Any], half_failed: Path) -> None:
    code, _, said = run("retry", half_failed, "--only", "ok")
    assert code == 2
    assert "--only 'ok': it is written failed, failed:STAGE or failed:STAGE:CLASS" in said


def test_report_is_written_again_byte_for_byte(run: Callable[..., Any], half_failed: Path) -> None:
    page = half_failed / "report.html"
    before = page.read_bytes()
    page.unlink()
    code, printed, said = run("report", half_failed)
    assert (code, printed, said) == (0, f"{page}\n", "")
    assert page.read_bytes() == before
    assert b"WrongAspect" in before


@pytest.mark.parametrize("command", ["status", "retry", "report"])
def test_a_folder_without_a_run(command: str, run: Callable[..., Any], tmp_path: Path) -> None:
    code, printed, said = run(command, tmp_path)
    assert (code, printed) == (1, "")
    assert f"{tmp_path} holds no run of lightmill" in said
    assert not (tmp_path / ".lightmill").exists()


# --- the other recipe, and the list of rigs --------------------------------------------------------------------------


def test_join360_there_and_back(run: Callable[..., Any], panoramas: Path, tmp_path: Path) -> None:
    views, joined = tmp_path / "views", tmp_path / "joined"
    options = ("--rig", "cube6", "--size", "64x64", "--format", "png", "--progress", "none")
    assert run("split360", panoramas, views, *options)[0] == 0
    arguments = (views / "images", views / "rig.json", joined, "--width", 128, "--progress", "none")
    assert run("join360", *arguments) == (0, "", "")
    for name in ("a", "b", "c"):
        with Image.open(joined / f"{name}.png") as made, Image.open(panoramas / f"{name}.png") as truth:
            assert np.abs(np.asarray(made).astype(int) - np.asarray(truth)).max() <= 1
    (views / "images/cam00/a.png").write_bytes(b"no picture")
    assert run("join360", views / "images", views / "rig.json", tmp_path / "again", "--progress", "none")[0] == 3
    Image.new("RGB", (64, 64)).save(views / "images/cam00/a.png")
    assert run("retry", tmp_path / "again", "--progress", "none")[0] == 0


def share_of_the_sphere(hfov_deg: float, aspect: float) -> float:
    """The solid angle of a rectangular view, 4 arcsin(sin(hfov / 2) sin(vfov / 2)), over 4 pi."""
    half = math.radians(hfov_deg) / 2
    return math.asin(math.sin(half) * math.sin(math.atan(math.tan(half) / aspect))) / math.pi


def test_rigs_are_listed_with_what_they_see(run: Callable[..., Any]) -> None:
    code, printed, _ = run("rigs")
    assert code == 0
    found = {}
    for line in printed.splitlines():
        if match := re.match(r"(\S+)\s+(\d+)\s+([\d.]+)% x\s*([\d.]+)\s+([\d.]+)% x\s*([\d.]+)", line):
            found[match[1]] = tuple(map(float, match.groups()[1:]))
    assert list(found) == list(PRESETS)
    for name, cameras in PRESETS.items():
        for (share, overlap), aspect in ((found[name][1:3], 1.0), (found[name][3:], 16 / 9)):
            assert share == pytest.approx(100 * coverage(cameras, aspect=aspect, samples=20_000).share, abs=0.2)
            assert overlap == pytest.approx(sum(share_of_the_sphere(one.hfov, aspect) for one in cameras), abs=0.0052)
        assert found[name][0] == len(cameras)
    assert found["cube6"][1:3] == (100, 1)
    assert re.search(r"colmap12 .* 4@-35 4@\+0 4@\+35, 90°", printed)
