"""The pairs that a run has made, for export."""

from collections.abc import Iterator

from lightmill.engine.items import MADE
from lightmill.engine.journal import Journal
from lightmill.engine.outputs import Outputs
from lightmill.errors import ItemError
from lightmill.export.instructpix2pix import FOLDER, Pair


def apart_from_pairs(name: str) -> None:
    """Raises ItemError for an item whose files would lie where those of the pairs do."""
    if name.split("/")[0].casefold() == FOLDER:
        raise ItemError(
            f"its files would lie in OUT/{FOLDER}, which is for the pairs of --export instructpix2pix; "
            "rename its folder, or use --naming index"
        )


def pairs_of(outputs: Outputs, journal: Journal, labels: list[str]) -> Iterator[Pair]:
    """A pair for every light of every picture, in the order of the source; its pictures are linked into the folder."""
    for row in journal.rows(*MADE):
        original = _linked(outputs, row.paths["input"])
        lights = row.meta["lights"]
        assert isinstance(lights, list)
        for label, light in zip(labels, lights, strict=True):
            assert isinstance(light, dict)
            yield Pair(_linked(outputs, row.paths[label]), original, str(light["instruction"]))


def _linked(outputs: Outputs, path: str) -> str:
    """The path inside the folder of the same file."""
    inside = f"images/{path}"
    outputs.link(path, f"{FOLDER}/{inside}")
    return inside
