"""`lightmill negatives`: boxes that show nobody, of a table of boxes alone."""

import json
import os
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from lightmill.codecs.header import read_header
from lightmill.engine.items import Json
from lightmill.engine.outputs import Outputs
from lightmill.errors import ChangedConfig, DamagedImage, DecodeError, ItemError, UsageError
from lightmill.recipes.base import SizeOption
from lightmill.recipes.boxed import CleanOptions, ShareOption, shares_of
from lightmill.recipes.negative_boxes import draw_of_table
from lightmill.sources import files
from lightmill.sources.boxes import BoxTable, bad_key, read_boxes

FILE, ABOUT = "negatives.parquet", "negatives.json"
VERSION = 1
_HEAD = 1 << 16  # bytes of a file that tell its size, most times


class Negatives(CleanOptions):
    """Draw boxes that show nobody: background beside the players, and parts of players too small to know them by."""

    name: ClassVar[str] = "negatives"

    frame_size: SizeOption | None = Field(
        None, description="WxH of all frames; without it, the header of every frame is read."
    )
    background_per_frame: int = Field(
        1, ge=0, le=1000, description="So many boxes a frame that share no pixel with any player's."
    )
    partial_per_box: int = Field(
        1, ge=0, le=100, description="So many small parts of each box, too small to know anybody by."
    )
    share: ShareOption = Field("0.1,0.25", description="The least and the greatest share of its box that a part has.")
    expand: float = Field(
        1.2,
        gt=0,
        le=10,
        allow_inf_nan=False,
        description="How much larger than their boxes players are cut: background is as large as that.",
    )
    seed: int = Field(0, ge=0, description="Each frame draws by its own key and this.")

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.clean == "interpolate" and not (self.label and self.time):
            raise ValueError("--clean interpolate needs --label and --time: whose boxes they are, and in which order")
        return self

    def run(self, input: Path | str, out: Path | str) -> "Ended":
        """Read the table, draw, and write OUT/negatives.parquet and OUT/negatives.json.

        Raises InputError, UsageError, OutputError; ChangedConfig where OUT holds negatives of other options.
        """
        began, input, out = time.monotonic(), Path(input), Path(out)
        config = self.config(input)
        if not self.fresh:
            _refuse_changes(out, config)
        table = read_boxes(input, self.columns, images=self.images)
        sizes, failed = self._sizes(table)
        failed = {bad_key(row): problem for row, problem in sorted(table.problems.items())} | failed
        drawn = draw_of_table(
            table,
            sizes,
            cleaned=self.cleaned(table),
            expand=self.expand,
            per_frame=self.background_per_frame,
            per_box=self.partial_per_box,
            share=shares_of(self.share),
            seed=self.seed,
        )
        about = {"version": VERSION, "config": config, "META": table.digest, **drawn.counts(), "failed": failed}
        outputs = Outputs(out)
        outputs.write(FILE, drawn.parquet(self.columns))
        outputs.write(ABOUT, f"{json.dumps(about, indent=1)}\n".encode())
        return Ended.of(about, wall_s=time.monotonic() - began)

    def _sizes(self, table: BoxTable) -> tuple[NDArray[np.float64], dict[str, str]]:
        """([F, 2] height and width of every frame, NaN where it cannot be told; key -> why)."""
        if self.frame_size is not None:
            return np.tile([float(self.frame_size.height), float(self.frame_size.width)], (len(table.frames), 1)), {}
        with ThreadPoolExecutor(self.threads or os.cpu_count() or 1) as pool:
            found = list(pool.map(lambda key: _size_of(table.path_of(key), key), table.frames))
        failed = {key: str(one) for key, one in zip(table.frames, found, strict=True) if isinstance(one, ItemError)}
        sizes = [(np.nan, np.nan) if isinstance(one, ItemError) else one for one in found]
        return np.array(sizes, np.float64).reshape(-1, 2), failed


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How it went."""

    exit_code: int
    remarks: tuple[str, ...]
    summary: str
    warnings: tuple[str, ...] = ()
    background: int
    partial: int
    failed: Mapping[str, str]  # frames, and rows, that nothing was drawn for -> why

    @classmethod
    def of(cls, about: Mapping[str, Any], *, wall_s: float) -> "Ended":
        failed: Mapping[str, str] = about["failed"]
        remarks = [
            f"nothing fits for {sum(where.values())} {kind} boxes in {len(where)} frames: {ABOUT} names them"
            for kind, where in about["missing"].items()
            if where
        ]
        if failed:
            key, why = next(iter(failed.items()))
            remarks.append(f"{len(failed)} frames or rows failed, the first {key}: {why}; {ABOUT} names all")
        counts = ", ".join(f"{about[kind]} {kind}" for kind in ("background", "partial"))
        return cls(
            exit_code=3 if failed else 0,
            remarks=tuple(remarks),
            summary=f"done: {counts} boxes of {about['frames']} frames in {wall_s:.1f} s: {FILE}",
            background=about["background"],
            partial=about["partial"],
            failed=failed,
        )


def _size_of(path: str, key: str) -> tuple[float, float] | ItemError:
    """(height, width) of the picture once it stands upright, by its header alone."""
    try:
        try:
            with open(path, "rb", buffering=0) as file:
                width, height = read_header(file.read(_HEAD)).upright_size
        except (DecodeError, OSError):  # a long header; or none, which is said in the words of all recipes
            width, height = read_header(files.FileRef(path, key, listed=False).read()).upright_size
    except ItemError as error:
        return error
    return (float(height), float(width)) if width and height else DamagedImage(f"{key} says it is {width}x{height} px")


def _refuse_changes(out: Path, config: Mapping[str, Json]) -> None:
    """Raises ChangedConfig where OUT holds negatives that other options made."""
    try:
        was = json.loads((out / ABOUT).read_bytes())["config"]
    except FileNotFoundError:
        return
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{out / ABOUT} cannot be read; choose another OUT, or write it anew with --fresh") from error
    changed = [name for name in {**was, **config} if was.get(name) != config.get(name)]
    if changed:
        changes = "; ".join(f"{name} was {was.get(name)}, now {config.get(name)}" for name in changed)
        raise ChangedConfig(
            f"{out} holds negatives of other options: {changes}. Choose another OUT, or write them anew with --fresh"
        )
