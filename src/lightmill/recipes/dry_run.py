"""What a run would do, said before it is done: nothing is written where the user can see it."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from itertools import chain, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from lightmill.engine.items import MADE, Source, Status
from lightmill.engine.journal import Journal, Row
from lightmill.engine.naming import printable
from lightmill.engine.pipeline import Pipeline
from lightmill.engine.run import Job, RunResult, run
from lightmill.recipes.scoring import Choice

if TYPE_CHECKING:
    from lightmill.recipes.base import Recipe

MOST_SIZES, MOST_ROWS = 12, 20  # that are listed


def dry_run(
    recipe: "Recipe",
    source: Source,
    input: Path,
    out: Path,
    *,
    choice: Choice | None,
    make_pipeline: Callable[..., Pipeline],
    device: str,
    also: Callable[[Journal], Iterable[str]] = lambda _: (),
) -> RunResult:
    """Read every header, and with a `choice` all pixels, and say in the remarks what would come out.

    `make_pipeline(chosen, video=…)` is to note `size` and `copied` in the items' meta; `also` makes more remarks, of
    what else it noted. Its runs keep their state in a
    folder of the system's for such things, which is gone afterwards.
    """
    with TemporaryDirectory(prefix="lightmill-") as folder:
        state = Path(folder)
        chosen = []
        if choice:
            choice.run(recipe, source, input, state, device=device)
            chosen = [choice.stage(state)]
        job = Job(
            recipe=f"{recipe.name} (dry run)",
            version=recipe.version(),
            config={},
            command={},
            source=source,
            out=state / "plan",
            make_pipeline=partial(make_pipeline, chosen, video=source.streams),
            device=device,
        )
        result = run(job, replace(recipe.run_options(), max_failures=None, trace=None))
        with Journal.read(state / "plan") as journal:
            remarks = tuple(_remarks(journal, also))
    return replace(result, out=out, remarks=remarks)  # its manifest and report are gone with the folder


def _remarks(journal: Journal, also: Callable[[Journal], Iterable[str]]) -> Iterator[str]:
    counts = journal.counts()
    yield "dry run, nothing is written: " + ", ".join(
        f"{counts[status]} would be {status}"
        for status in (*sorted(MADE), Status.FILTERED, Status.FAILED)
        if counts.get(status)
    )
    sizes = Counter(_size(row) for row in journal.rows(*MADE))
    copied = sum(1 for row in journal.rows(*MADE) if row.meta.get("copied"))
    if copied:
        yield f"  {copied} copied as they are, {sizes.total() - copied} encoded"
    for size, count in sizes.most_common(MOST_SIZES):
        yield f"  {count:>8}  {size}"
    if len(sizes) > MOST_SIZES:
        yield f"  and {len(sizes) - MOST_SIZES} more sizes"
    yield from also(journal)
    total = sum(counts.values())
    refused_first = chain(journal.rows(Status.FILTERED, Status.FAILED), journal.rows(*MADE))
    for row in islice(refused_first if total > MOST_ROWS else journal.rows(), MOST_ROWS):
        yield f"  {row.status:<9} {printable(row.key)}  {_size(row) if row.status in MADE else printable(row.error)}"
    if total > MOST_ROWS:
        yield f"  … and {total - MOST_ROWS} more"


def _size(row: Row) -> str:
    size = row.meta.get("size")
    return "x".join(map(str, size)) if isinstance(size, list) else "?"
