"""Crops that are in no pack: loose files, and boxes whose frames nobody has cut yet. Both slower than a pack."""

from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from lightmill.codecs.decode import decode
from lightmill.data.pack import COLUMNS, Context, Pixels
from lightmill.errors import DamagedImage, InputError, SourceError
from lightmill.ops.boxes import places_in

if TYPE_CHECKING:
    import polars as pl

Boxes: TypeAlias = NDArray[np.float64]

_AGAIN = "make it with `lightmill crop --store files`"


class CropFiles:
    """Loose files: FOLDER/crops.csv with the columns of a pack, where `crop` is a path relative to FOLDER.

    A source of crops (see CropSource). Every access opens a file; pickled, it carries its table along.
    """

    def __init__(self, path: Path) -> None:
        """`path`: the table, or its folder. Raises InputError where there is none, or it is another kind of table."""
        import polars as pl

        path = path.absolute()
        path = path / "crops.csv" if path.is_dir() else path
        try:
            texts = pl.read_csv(path.read_bytes(), infer_schema=False).fill_null("")
        except (OSError, pl.exceptions.PolarsError) as error:
            raise InputError(f"{path} cannot be read as a table ({_first_line(error)}); {_AGAIN}") from error
        table = _typed(texts, path)
        self.folder = path.parent
        self.table = table.drop("crop")
        self._names = table["crop"].to_arrow()
        self._cuts = table.select("left", "top", "width", "height").to_numpy()

    def __len__(self) -> int:
        return len(self._cuts)

    def pixels(self, index: int) -> Pixels:
        """[h, w, 3] RGB. Raises ItemError where the file cannot be read, or its picture is not whole."""
        return _read_whole(self.folder / self._names[index].as_py())

    def context(self, index: int) -> Context:
        """The crop, which is all that there is. Raises as `pixels`."""
        left, top, width, height = self._cuts[index].tolist()
        return Context(self.pixels(index), (left, top, width, height), (left, top, width, height))


class FrameCrops:
    """Boxes in frames. Slow: every access reads and decodes a whole frame for one crop.

    A source of crops (see CropSource). `table` has the columns `frame` (a path relative to `folder`) and x, y, w, h in
    px, and whatever other columns of a pack are needed. Boxes are enlarged by `expand` and cut as
    `lightmill crop` does (`places_in`). Pickled, it carries its table along.
    """

    def __init__(self, table: "pl.DataFrame", folder: Path, *, expand: float = 1.2) -> None:
        """Raises InputError where a column is missing."""
        if missing := {"frame", "x", "y", "w", "h"}.difference(table.columns):
            raise InputError(
                f"the table of boxes lacks {', '.join(sorted(missing))}; it has {', '.join(table.columns)}"
            )
        self.table = table
        self.folder = folder.absolute()
        self.expand = expand
        self._frames = table["frame"].to_arrow()
        self._boxes = table.select("x", "y", "w", "h").to_numpy().astype(np.float64)

    def __len__(self) -> int:
        return len(self._boxes)

    def pixels(self, index: int) -> Pixels:
        """[h, w, 3] RGB. Raises ItemError where the frame cannot be read whole, or the box lies outside it."""
        frame, _, (left, top, width, height) = self.context(index)
        return frame[top : top + height, left : left + width]

    def context(self, index: int) -> Context:
        """The whole frame. Raises as `pixels`."""
        name = self._frames[index].as_py()
        frame = _read_whole(self.folder / name)
        height, width = frame.shape[:2]
        place = places_in(self._boxes[index], (height, width), expand=self.expand)
        if not place.inside[0]:
            raise SourceError(f"the box {self._boxes[index].tolist()} lies outside the frame {name}")
        cut = place.places[0].tolist()
        return Context(frame, (0, 0, width, height), (cut[0], cut[1], cut[2], cut[3]))


def _read_whole(path: Path) -> Pixels:
    """Raises ItemError: a picture of which a part is missing is none to learn from."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror}") from error
    decoded = decode(data)
    if decoded.recovered:
        raise DamagedImage(f"{path} has to be whole: {decoded.recovered}")
    return decoded.pixels


def _typed(texts: "pl.DataFrame", path: Path) -> "pl.DataFrame":
    """Texts as the types that a pack has. Raises InputError for missing columns and for what is no number."""
    import polars as pl

    if missing := [name for name in COLUMNS if name not in texts.columns]:
        raise InputError(f"{path} lacks the columns {', '.join(missing)}; {_AGAIN}")
    types = {
        **dict.fromkeys(("time", "x", "y", "w", "h"), pl.Float64),
        **dict.fromkeys(("left", "top", "width", "height"), pl.Int32),
        **dict.fromkeys(("row", "parent"), pl.Int64),
        "overlap": pl.Float32,
    }
    try:
        return texts.with_columns(pl.col(name).replace("", None).cast(kind) for name, kind in types.items())
    except pl.exceptions.PolarsError as error:
        raise InputError(f"{path} has a cell that is no number ({_first_line(error)}); {_AGAIN}") from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
