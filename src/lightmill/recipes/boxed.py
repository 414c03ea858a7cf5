"""The options of recipes whose INPUT is a table of boxes: where its frames are, and which column says what."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints

from lightmill.engine.items import Json
from lightmill.ops.boxes import Clean, Cleaned, clean_tracks
from lightmill.recipes.base import Options, Recipe, listed, repeated
from lightmill.sources.boxes import BoxColumns, BoxSource, BoxTable, open_boxes

Column = Annotated[str, StringConstraints(min_length=1)]


def shares_of(text: str) -> tuple[float, float]:
    """
    >>> shares_of("0.1, 0.25")
    (0.1, 0.25)
    """
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        low = high = 0.0
    if not 0 < low <= high <= 1:
        raise ValueError(f"two shares above 0 and up to 1, the lower first, as in 0.1,0.25; got {text!r}")
    return low, high


def _as_text(value: Any) -> Any:
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else value


ShareOption = Annotated[
    str, BeforeValidator(_as_text), AfterValidator(lambda text: ",".join(f"{share!r}" for share in shares_of(text)))
]  # LOW,HIGH of something's area, as `shares_of` reads it


class BoxOptions(Options):
    """Where the frames of a table's boxes are, and which column says what."""

    input_name: ClassVar[str] = "meta"
    input_help: ClassVar[str] = "A table (.csv, .parquet) with one row a box: x, y, w, h in px of its frame."
    path_options: ClassVar = {"images": lambda _: True}

    images: Path | None = Field(None, description="The folder that --path goes on from (default: that of META).")
    path: str = Field(
        "{image_path}",
        description="The file of a row's frame, by columns: {quarter}__{angle}__{session:02d}__{frame:02d}.jpg.",
    )
    label: Column | None = Field(None, description="The column that says who is in the box; empty cells: nobody known.")
    group: tuple[str, ...] = repeated(
        description="Columns, also with commas, that say what training and test must not share: quarter,session."
    )
    view: Column | None = Field(None, description="The column that names the camera.")
    time: Column | None = Field(None, description="The column that orders the frames of a track; numbers.")

    _columns = listed("group")

    @property
    def columns(self) -> BoxColumns:
        """Which column says what."""
        return BoxColumns(path=self.path, label=self.label, group=self.group, view=self.view, time=self.time)


class CleanOptions(BoxOptions):
    """What is done about boxes that are wrong, by the others of their tracks."""

    clean: Clean = Field(
        "drop",
        description="Boxes far larger than others of their track (group, view and label): drop them, interpolate "
        "between their neighbours in time, or off.",
    )
    clean_limit: float = Field(
        2.0, ge=1, allow_inf_nan=False, description="Far larger: above so many times the track's median area."
    )

    def cleaned(self, table: BoxTable) -> Cleaned:
        """The boxes as --clean leaves them."""
        return clean_tracks(table.boxes, table.tracks, table.times, how=self.clean, limit=self.clean_limit)


class Boxed(BoxOptions, Recipe):
    """What goes through the frames of a table with one row a box."""

    def boxes_of(self, input: Path) -> BoxSource:
        """The table as a source of frames. Raises InputError, UsageError."""
        return open_boxes(input, self.columns, images=self.images)

    def config_of(self, input: Path, table: BoxTable) -> Mapping[str, Json]:
        """What decides the outputs: the options, and all of the table, since a track's median hangs on all its rows."""
        return self.config(input) | {"META": table.digest}
