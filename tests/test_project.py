"""The project itself: one version, declared and pinned dependencies, a quick start, code that keeps its own rules."""

import ast
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import lightmill
from lightmill.recipes.registry import RECIPES

# what a requirement is called where it is imported, where that is another name
IMPORT_NAMES = {
    "huggingface-hub": "huggingface_hub",
    "opencv-python-headless": "cv2",
    "pillow": "PIL",
    "pyyaml": "yaml",
    "pytorch-metric-learning": "pytorch_metric_learning",
}
# what only opening files or running models needs; what pictures need; what a command line needs
HEAVY = {"av", "diffusers", "gradio", "lightning", "polars", "ray", "safetensors", "torch", "transformers"}
PICTURES = {"cv2", "PIL", "simplejpeg"}
COMMAND_LINE = {"numpy", "rich", "pydantic", "cyclopts", "yaml"}


@pytest.fixture(scope="module")
def project(repository: Path) -> dict[str, Any]:
    """The table [project] of pyproject.toml."""
    table: dict[str, Any] = tomllib.loads((repository / "pyproject.toml").read_text("utf-8"))["project"]
    return table


@pytest.fixture(scope="module")
def pins(repository: Path) -> dict[str, str]:
    """constraints.txt: the version of every distribution that it names."""
    lines = (repository / "constraints.txt").read_text("utf-8").splitlines()
    pinned = [line for line in lines if line and not line.startswith("#")]
    assert [line for line in pinned if not re.fullmatch(r"[\w.-]+==[\w.]+", line)] == [], (
        "a line is no plain name==version"
    )
    return {canonicalize_name(name): version for name, version in (line.split("==") for line in pinned)}


def test_changelog_opens_with_the_version(repository: Path) -> None:
    headings = re.findall(r"^## \[(.+?)\]", (repository / "CHANGELOG.md").read_text("utf-8"), flags=re.MULTILINE)
    assert next(version for version in headings if version != "Unreleased") == lightmill.__version__


def test_version_has_one_source(project: dict[str, Any]) -> None:
    assert project["dynamic"] == ["version"]
    assert "version" not in project


def test_every_dependency_of_the_tests_is_pinned(project: dict[str, Any], pins: dict[str, str]) -> None:
    wanted = [Requirement(text) for text in (*project["dependencies"], *project["optional-dependencies"]["dev"])]
    unmet = [str(need) for need in wanted if not need.specifier.contains(pins.get(canonicalize_name(need.name), "0"))]
    assert unmet == [], f"constraints.txt does not pin, or pins outside what pyproject.toml wants: {unmet}"


def test_base_dependencies_are_those_that_the_code_imports(repository: Path, project: dict[str, Any]) -> None:
    base = {import_name(text) for text in project["dependencies"]}
    extras = {import_name(text) for group in project["optional-dependencies"].values() for text in group}
    imported = set().union(*(set(third_party(path)) for path in sources(repository)))
    assert imported - base - extras == set(), "imported, but not declared in pyproject.toml"
    assert base - imported == set(), "declared in pyproject.toml, but never imported"


def test_all_is_the_union_of_the_extras_for_users(project: dict[str, Any]) -> None:
    (everything,) = map(Requirement, project["optional-dependencies"]["all"])
    assert everything.name == project["name"]
    assert everything.extras == set(project["optional-dependencies"]) - {"all", "dev"}


def test_every_recipe_is_in_the_contract_that_keeps_recipes_apart(repository: Path) -> None:
    tools = tomllib.loads((repository / "pyproject.toml").read_text("utf-8"))["tool"]
    (contract,) = (c for c in tools["importlinter"]["contracts"] if c.get("containers") == ["lightmill.recipes"])
    apart = {name.strip(" ()") for layer in contract["layers"] for name in layer.split("|") if "|" in layer}
    assert {module.rpartition(".")[2] for module, _ in RECIPES.values()} - apart == set()


def test_import_lightmill_loads_nothing_heavy() -> None:
    assert sorted(loaded_after("import lightmill") & (HEAVY | PICTURES | COMMAND_LINE)) == []


@pytest.mark.parametrize(
    ("command", "shows", "banned"),
    [
        ((), "split360", HEAVY | PICTURES),
        (("split360",), "--rig", HEAVY),
        (("join360",), "VIEWS", HEAVY),
    ],
)
def test_help_loads_nothing_heavy(command: tuple[str, ...], shows: str, banned: set[str]) -> None:
    loaded = loaded_after(f"""
        from lightmill.cli import run_command_line

        with contextlib.redirect_stdout(io.StringIO()) as shown, contextlib.suppress(SystemExit):
            run_command_line({[*command, "--help"]!r})
        assert {shows!r} in shown.getvalue(), shown.getvalue()
    """)
    assert sorted(loaded & banned) == []


@pytest.mark.parametrize(
    "name", ["README.md", "LICENSE", "CHANGELOG.md", "Makefile", ".ci/run", "src/lightmill/py.typed"]
)
def test_file_is_there(repository: Path, name: str) -> None:
    assert (repository / name).is_file()


@pytest.mark.skipif(os.name != "posix", reason="Windows has no executable bit")
def test_ci_runs_as_a_program(repository: Path) -> None:
    assert os.access(repository / ".ci" / "run", os.X_OK)


def sources(repository: Path) -> Iterator[Path]:
    yield from sorted((repository / "src" / "lightmill").rglob("*.py"))


def third_party(path: Path) -> Iterator[str]:
    """The top names of the packages that a file imports, anywhere in it, less Python's own and ours."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        match node:
            case ast.Import(names=names):
                found = [alias.name for alias in names]
            case ast.ImportFrom(module=str(module), level=0):
                found = [module]
            case _:
                continue
        yield from {name.partition(".")[0] for name in found} - sys.stdlib_module_names - {"lightmill"}


def import_name(requirement: str) -> str:
    name = canonicalize_name(Requirement(requirement).name)
    return IMPORT_NAMES.get(name, name)


def loaded_after(code: str) -> set[str]:
    """The top names of all modules that a fresh Python holds after it ran `code`."""
    report = "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    program = "\n".join(["import contextlib, io, json, sys", dedent(code), report])
    env = dict(os.environ) | {"PYTHONPATH": str(Path(lightmill.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))
