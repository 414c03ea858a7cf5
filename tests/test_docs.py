"""The documents say what the product does: tables, command lines, Python calls, rigs, links and pictures."""

import ast
import importlib.util
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from cyclopts import App

from lightmill.cli import _app
from lightmill.engine.progress import Snapshot
from lightmill.ops.rigs import rig_from_mapping
from lightmill.recipes.registry import RECIPES, recipe_class

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
IMAGES = sorted((ROOT / "docs" / "images").iterdir())
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_INLINE = re.compile(r"(?<!`)`(lightmill [^`]+)`(?!`)")
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
_COMMANDS = (*(name.split()[0] for name in RECIPES), "captions", "status", "retry", "report", "rigs")


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def fenced(page: Path, language: str) -> list[str]:
    return [body for found, body in _FENCE.findall(text_of(page)) if found == language]


def command_lines(page: Path) -> Iterator[list[str]]:
    """Every `lightmill COMMAND …` of a page, in blocks of shell and in the text, without `lightmill`."""
    joined = "\n".join(fenced(page, "sh")).replace("\\\n", " ")
    for line in [*joined.splitlines(), *_INLINE.findall(_FENCE.sub("", text_of(page)))]:
        words = shlex.split(line, comments=True)
        # `lightmill split360` and `lightmill train reid` are names, not command lines
        is_named_only = (len(words) == 2 and words[1] != "rigs") or " ".join(words[1:]) in RECIPES
        if words[:1] == ["lightmill"] and words[1] in _COMMANDS and not is_named_only:
            yield words[1:]


def all_command_lines() -> list[Any]:
    return [
        pytest.param(words, id=f"{page.stem}: {' '.join(words)}") for page in PAGES for words in command_lines(page)
    ]


def recipe_name(words: list[str]) -> str:
    """Of a command line: its first word, or the first two."""
    return " ".join(words[:2]) if " ".join(words[:2]) in RECIPES else words[0]


@cache
def parser(command: str) -> App:
    return _app(command)


@pytest.fixture(scope="module")
def make_docs() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_docs", ROOT / "docs" / "make_docs.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["make_docs"] = module
    spec.loader.exec_module(module)
    return module


# --- what is written -------------------------------------------------------------------------------------------------


def test_tables_are_those_of_the_options(make_docs: ModuleType) -> None:
    stale = [page.name for page in make_docs.pages() if make_docs.filled(text_of(page)) != text_of(page)]
    assert not stale, "run `python docs/make_docs.py`"


def test_a_table_that_does_not_exist_is_an_error(make_docs: ModuleType) -> None:
    with pytest.raises(ValueError, match="no table is called 'tides'"):
        make_docs.filled("<!-- begin tides -->\n<!-- end -->")


def test_every_recipe_has_a_page_with_all_of_its_options() -> None:
    for name in RECIPES:
        assert f"<!-- begin options {name} -->" in text_of(ROOT / "docs" / f"{name.replace(' ', '_')}.md")


def test_there_is_something_to_check() -> None:
    assert len(all_command_lines()) > 30


@pytest.mark.parametrize("words", all_command_lines())
def test_command_lines_are_understood(words: list[str]) -> None:
    """Names, choices and numbers, by the parser of the command line; the values of a recipe by its options."""
    name, rest = recipe_name(words), words[1:]
    if rest[-1:] == ["--help"]:
        return
    _, bound, _ = parser(words[0]).parse_args(words, exit_on_error=False, print_error=False)
    if name in RECIPES:
        recipe = recipe_class(name)
        values = {field: value for field, value in bound.kwargs.items() if value is not None and field != "config"}
        places = bound.args[1:-1] if rest else recipe.positional
        assert recipe.from_values(values | dict(zip(recipe.positional, places, strict=True)))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_python_calls_are_understood(page: Path) -> None:
    for body in fenced(page, "python"):
        for node in ast.walk(ast.parse(body)):
            called = ast.unparse(node.func).removeprefix("lightmill.") if isinstance(node, ast.Call) else ""
            if (name := called.replace("train_", "train ")) in RECIPES:
                options = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in node.keywords}
                assert recipe_class(name).from_values(options)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_yaml_is_a_rig_or_options(page: Path) -> None:
    for body in fenced(page, "yaml"):
        found = yaml.safe_load(body)
        if found.keys() & {"rings", "cameras"}:
            assert rig_from_mapping(found, source=page.name)
        else:
            assert recipe_class("split360").from_values(found)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_make_targets_and_scripts_exist(page: Path) -> None:
    shell = "\n".join(fenced(page, "sh"))
    targets = set(re.findall(r"^([a-z]+):", text_of(ROOT / "Makefile"), re.MULTILINE))
    assert set(re.findall(r"^make ([a-z]+)", shell, re.MULTILINE)) <= targets
    for script in re.findall(r"^(?:PYTHONPATH=src )?python ((?:benchmarks|docs)/\S+)", shell, re.MULTILINE):
        assert (ROOT / script).is_file(), script


# --- links and pictures ----------------------------------------------------------------------------------------------


def anchors(page: Path) -> set[str]:
    """Of the headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", _FENCE.sub("", text_of(page)), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    for link in _LINK.findall(_FENCE.sub("", text_of(page))):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.is_file(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_tests_that_are_named_exist(page: Path) -> None:
    for path, name in _TEST.findall(text_of(page)):
        assert f"def {name}(" in text_of(ROOT / path), f"{path}::{name}"


def test_pictures_are_small_and_shown() -> None:
    shown = "\n".join(text_of(page) for page in PAGES)
    assert all(f"images/{image.name}" in shown for image in IMAGES)
    assert max(image.stat().st_size for image in IMAGES) < 150_000
    assert sum(image.stat().st_size for image in IMAGES) < 1_250_000


def test_every_key_of_the_progress_lines_is_explained() -> None:
    page = text_of(ROOT / "docs" / "engine.md")
    assert all(f"`{key}`" in page for key in Snapshot.__dataclass_fields__)


def test_no_page_names_a_place_on_somebodys_machine() -> None:
    for page in PAGES:
        assert not re.search(r"(?<![\w.])/(work|home|root|tmp|Users)/", text_of(page)), page.name


# --- what is typed, done for real ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the names that the pages use mean something."""
    from lightmill.sample.clip import write_clip, write_stills

    folder = tmp_path_factory.mktemp("docs")
    write_stills(folder / "panoramas", count=2, width=128)
    (folder / "panoramas" / "masks").rename(folder / "panorama-masks")
    write_clip(folder, seconds=1, fps=4, width=128, supersample=1).rename(folder / "tour.mp4")
    return folder


def first(page: str, start: str) -> list[str]:
    """The first command line of a page that begins so."""
    lines = (words for words in command_lines(ROOT / page) if " ".join(words).startswith(start))
    return next(lines)


def small(words: list[str]) -> list[str]:
    """The same with little views, and quietly."""
    if "--size" in words:
        at = words.index("--size")
        words = words[:at] + words[at + 2 :]
    return [*words, "--size", "64x64", "--progress", "none"]


def test_the_first_commands_work(workplace: Path, lightmill_run: Callable[..., Any]) -> None:
    done = lightmill_run(*small(first("docs/split360.md", "split360 panoramas")), cwd=workplace)
    assert done.code == 0, done.stderr
    assert len(list((workplace / "views" / "images").rglob("*.jpg"))) == 16
    joined = lightmill_run(*first("docs/join360.md", "join360 views/images"), "--progress", "none", cwd=workplace)
    assert joined.code == 0, joined.stderr
    assert (workplace / "joined" / "courtyard_000.png").is_file()
    status = lightmill_run(*first("docs/engine.md", "status views"), cwd=workplace)
    assert status.stdout.startswith("split360: folder panoramas\n          2 ok\n"), status.stdout


def test_the_readmes_video_command_works(workplace: Path, lightmill_run: Callable[..., Any]) -> None:
    done = lightmill_run(*small(first("README.md", "split360 tour.mp4")), cwd=workplace)
    assert done.code == 0, done.stderr
    assert len(list((workplace / "tour" / "images").rglob("*.jpg"))) == 2 * 12
    assert (workplace / "tour" / "colmap" / "rig_config.json").is_file()
