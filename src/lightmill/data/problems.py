"""What may be wrong with a picture and its mask, as an index writes it down: `kind: words`, "" where all is well."""

from collections.abc import Iterable
from enum import StrEnum


class Problem(StrEnum):
    """The kinds, the worst first."""

    MISSING_PICTURE = "missing picture"  # a table or a list names it, and there is no such file
    MISSING_MASK = "missing mask"  # never taken for background
    DUPLICATE = "duplicate stem"  # which mask belongs to which picture cannot be told
    TWO_SPLITS = "two splits"  # training and validation both claim it
    ODD_NAME = "odd name"  # not UTF-8: a table cannot hold it
    EMPTY = "empty file"
    UNREADABLE = "unreadable"
    SIZES = "sizes differ"
    EXTENSION = "wrong extension"  # the bytes are a picture of another format


HARMLESS = frozenset({Problem.EXTENSION})  # files are read by their bytes, whatever they are called


def said(kind: Problem, words: str = "") -> str:
    """The text of a problem."""
    return f"{kind}: {words}" if words else str(kind)


def kind_of(problem: str) -> Problem | None:
    """The kind of a text that `said` made; None for "".

    >>> kind_of("sizes differ: the picture is 4x3, its mask 3x4")
    <Problem.SIZES: 'sizes differ'>
    """
    return Problem(problem.partition(":")[0]) if problem else None


def worst(problems: Iterable[str]) -> str:
    """The first of the worst kind; "" where there is none.

    >>> worst(["", "wrong extension: a", "empty file"])
    'empty file'
    """
    order = list(Problem)
    met = [problem for problem in problems if problem]
    return min(met, key=lambda problem: order.index(Problem(problem.partition(":")[0])), default="")
