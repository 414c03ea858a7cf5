"""Makes what the pages take from the product: their tables, and their pictures.

    python docs/make_docs.py             write the tables of README.md and docs/*.md anew
    python docs/make_docs.py --check     only say which pages are out of date (exit 1 where one is)
    python docs/make_docs.py --pictures  make docs/images/*.jpg and *.png anew, as pictures.py says

A table stands between `<!-- begin WHAT -->` and `<!-- end -->`; WHAT is `options RECIPE`, `common` or `rigs`.
tests/test_docs.py checks that every table is up to date.
"""

import argparse
import re
import sys
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from lightmill.recipes.base import Recipe, is_repeated, negative_of, option_name, shown_default
from lightmill.recipes.registry import recipe_class
from lightmill.recipes.rig_option import rig_table
from lightmill.types import Size

ROOT = Path(__file__).resolve().parents[1]
_BLOCK = re.compile(r"(<!-- begin ([^>]+?) -->\n)(.*?)(<!-- end -->)", re.DOTALL)


def main() -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--pictures", action="store_true")
    asked = parser.parse_args()
    stale = [page for page in pages() if filled(page.read_text(encoding="utf-8")) != page.read_text(encoding="utf-8")]
    if not asked.check:
        for page in stale:
            page.write_text(filled(page.read_text(encoding="utf-8")), encoding="utf-8")
    _say(*(f"{'out of date' if asked.check else 'written'}: {page.relative_to(ROOT)}" for page in stale))
    if asked.pictures:
        from pictures import make_pictures

        _say(*make_pictures())
    return 1 if asked.check and stale else 0


def _say(*lines: str) -> None:
    sys.stdout.write("".join(f"{line}\n" for line in lines))


# --- tables ----------------------------------------------------------------------------------------------------------


def pages() -> list[Path]:
    """Every page of the documents."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def filled(page: str) -> str:
    """A page with its tables made anew."""
    return _BLOCK.sub(lambda found: f"{found[1]}{block(found[2])}{found[4]}", page)


def block(what: str) -> str:
    """What stands between the marks of a table. Raises ValueError for marks that mean nothing."""
    kind, _, name = what.partition(" ")
    if kind == "options":
        return options_table(recipe_class(name), common=False)
    if kind == "common":
        return options_table(Recipe, common=True)
    if kind == "rigs":
        return "```text\n" + "".join(f"{line}\n" for line in rig_table()) + "```\n"
    raise ValueError(f"no table is called {what!r}")


def options_table(recipe: type[Recipe], *, common: bool) -> str:
    """The options of a recipe without the common ones, or the common ones alone."""
    rows = [
        (_flags(name, about), _values(about), _default(about), about.description or "")
        for name, about in recipe.model_fields.items()
        if name not in recipe.positional and (name in Recipe.model_fields) == common
    ]
    if common:
        rows.append(("`--config`", "file", "", "A YAML file with options (`fps: 2`); the command line goes before it."))
        rows.append(("`--debug`", "flag", "", "Show tracebacks."))
    head = ("option", "takes", "default", "what it does")
    lines = [head, tuple("---" for _ in head), *(tuple(cell.replace("|", "\\|") for cell in row) for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _flags(name: str, about: Any) -> str:
    """How an option is written; of a choice between two flags, both."""
    negative = negative_of(about)
    return ", ".join(f"`{option_name(each)}`" for each in (name, negative) if each)


def _values(about: Any) -> str:
    """What an option takes, in a word, or its choices."""
    if is_repeated(about):
        return "text, several times"
    annotation = about.annotation
    plain = [part for part in get_args(annotation) if part is not type(None)] or [annotation]
    kind = annotation if get_origin(annotation) in (Literal, tuple) else plain[0]
    if get_origin(kind) is Literal:
        return " ".join(f"`{choice}`" for choice in get_args(kind))
    if get_origin(kind) is tuple:
        return " ".join(f"`{choice}`" for choice in get_args(get_args(kind)[0]))
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        return " ".join(f"`{member.value}`" for member in kind)
    return {bool: "flag", int: "number", float: "number", Size: "`WxH`", Path: "file"}.get(kind, "text")


def _default(about: Any) -> str:
    default = shown_default(about)
    return f"`{default}`" if default else ""


if __name__ == "__main__":
    sys.exit(main())
