"""The pairs that a run has made, for export."""

from collections.abc import Iterable, Iterator

from lightmill.engine.items import MADE
from lightmill.engine.journal import Journal
from lightmill.engine.naming import printable
from lightmill.engine.outputs import Outputs
from lightmill.errors import NameCollision
from lightmill.export.instructpix2pix import FOLDER, Pair


def apart_from_pairs(names: Iterable[str]) -> None:
    """Raises NameCollision where files of a picture would lie among those of the pairs."""
    for name in names:
        if name.split("/")[0].casefold() == FOLDER:
            raise NameCollision(
                f"files of {printable(name)} would lie in OUT/{FOLDER}, which --export instructpix2pix writes; "
                "rename that folder of INPUT, or use --naming index"
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
