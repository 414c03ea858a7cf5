"""What a run says to its source."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from lightmill.sources.zips import ZipLimit

if TYPE_CHECKING:
    from numpy.typing import NDArray

Pick: TypeAlias = Literal["first", "sharpest"]
Sharpness: TypeAlias = Callable[["NDArray[Any]"], float]


@dataclass(frozen=True, kw_only=True)
class SourceOptions:
    """Each source takes what concerns it. Times are in seconds from the first frame of a video."""

    exclude: Path | None = None  # OUT: when it lies inside INPUT it is never its own input
    zip_limit: ZipLimit = field(default_factory=ZipLimit)
    fps: float | None = None  # frames a second to take from a video; None: every frame
    start_s: float | None = None
    end_s: float | None = None  # the first moment that is no longer taken
    pick: Pick = "first"  # which frame of each 1 / fps seconds
    threads: int = 0  # for decoding a video; 0: the decoder's own choice
    sharpness: Sharpness | None = None  # [H, W] uint8 luma -> more is sharper; what `pick="sharpest"` goes by
