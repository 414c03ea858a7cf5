"""An index of DATA: which picture and mask belong together, how large they are and what is wrong, and nothing decoded.

It is made from folder listings and the first bytes of files, and kept as one file, so that the next start takes
milliseconds. What was kept is never trusted for long. Noticed are

- at every start, before anything else: files and folders that are new, gone or renamed (the time of every folder),
  and changed tables, lists and JSON files (size and time). Then all is listed anew; only headers of files with the
  size and time that they had before are not read again.
- a moment after the start, in the background (`Index.renew_in_background`): files written to in place, by size and
  time. The index that is kept is brought up to date, and whoever asks is told what changed.
- when a worker opens a file (`Files.read`): whether its size and time are those of the index. Caches go by these two,
  so that a sample of an older file is not used.

Not noticed: other contents of the same size under the same time (`touch -r`, or a clock that went back). Files and
folders with a time so near to the listing that they could have been changed within one tick are not taken as known.
`lightmill check` reads and decodes everything.
"""

import json
import os
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from lightmill.data.file_list import Files
from lightmill.data.index_rows import Known, complete
from lightmill.data.layouts import Kind, find_layout
from lightmill.data.listing import GONE, Stamp, stamp_of
from lightmill.data.problems import HARMLESS, Problem, kind_of
from lightmill.engine.outputs import Outputs
from lightmill.errors import OutputError
from lightmill.sources import files

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa

Indices: TypeAlias = NDArray[np.int64]
Origin: TypeAlias = Literal["made", "loaded", "renewed"]

VERSION = 1
RACE_NS = 3_000_000_000  # FAT keeps times to 2 s; what is younger than that may still change without another time


@dataclass(frozen=True, slots=True)
class Changes:
    """What is not as the index that was kept had it: pictures by their paths, also for a change of their mask."""

    added: tuple[str, ...] = ()
    vanished: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()  # of picture or mask: size or time; or another mask, split or group

    def __bool__(self) -> bool:
        return bool(self.added or self.vanished or self.changed)


@dataclass(frozen=True, slots=True)
class _Place:
    """What an index is of, and where it is kept."""

    data: Path
    cache: Path | None
    group_column: str
    threads: int


@dataclass(frozen=True, eq=False)
class Index:
    """One row a picture, in the order that layouts find them."""

    root: Path  # paths are relative to it
    kind: Kind  # what masks are: pictures, YOLO's text files, or COCO's `file.json#id`
    arrow: "pa.Table"
    remarks: tuple[str, ...]  # for people: what was left out, and why
    origin: Origin
    changes: Changes  # since the index that was kept; none where there was none
    _about: Mapping[str, Any] = field(repr=False)
    _place: _Place = field(repr=False)

    def __len__(self) -> int:
        return int(self.arrow.num_rows)

    @cached_property
    def table(self) -> "pl.DataFrame":
        """`image`, `mask`, `split`, `group`, `problem` (text, "" for none); `size`, `mtime_ns`, `mask_size`,
        `mask_mtime_ns` (int64; -1 and 0 where there is no file); `width`, `height` (int32 px, upright; 0: unknown).

        For whole columns; workers take `pictures` and `masks`.
        """
        import polars as pl

        found = pl.from_arrow(self.arrow)
        assert isinstance(found, pl.DataFrame), "a table is a frame"
        return found

    @cached_property
    def pictures(self) -> Files:
        """The picture files by row, small and picklable."""
        return Files(str(self.root), self.arrow["image"].combine_chunks(), self._stamps("size", "mtime_ns"))

    @cached_property
    def masks(self) -> Files:
        """The files that masks are in; of COCO one JSON for many rows."""
        return Files(str(self.root), self.arrow["mask"].combine_chunks(), self._stamps("mask_size", "mask_mtime_ns"))

    @cached_property
    def usable(self) -> Indices:
        """[R] rows, ascending, that nothing stands against: no problem, or one that does no harm."""
        kinds = self._kinds
        return np.flatnonzero([kind is None or kind in HARMLESS for kind in kinds]).astype(np.int64)

    @property
    def problem_counts(self) -> dict[Problem, int]:
        """How many rows have a problem of each kind, the worst first."""
        counts = Counter(kind for kind in self._kinds if kind)
        return {kind: counts[kind] for kind in Problem if counts[kind]}

    @cached_property
    def _kinds(self) -> list[Problem | None]:
        return [kind_of(problem) for problem in self.arrow["problem"].to_pylist()]

    def _stamps(self, size: str, mtime_ns: str) -> NDArray[np.int64]:
        return np.stack([self.arrow[size].to_numpy(), self.arrow[mtime_ns].to_numpy()], axis=1)

    def renewed(self) -> "Index":
        """The index as it has to be now: all is listed anew, the rest as at a start that found something changed."""
        return _make(self._place, self)

    def renew_in_background(self) -> "Renewal":
        """Begins `renewed` in a thread of its own, which ends with the process."""
        return Renewal(self)


class Renewal:
    """An index that is being compared with the disk."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self._found: Index | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._renew, name="index", daemon=True)
        self._thread.start()

    @property
    def done(self) -> bool:
        """Whether `result` would answer at once."""
        return not self._thread.is_alive()

    def result(self) -> Index:
        """The index as it has to be now; `changes` says what is new in it. Waits. Raises what `open_index` raises."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        assert self._found is not None, "the thread has ended without an error"
        return self._found

    def _renew(self) -> None:
        try:
            self._found = self._index.renewed()
        except BaseException as error:  # noqa: BLE001 (raised by `result`)
            self._error = error


def open_index(data: Path, *, cache: Path | None = None, threads: int = 2, group_column: str = "group") -> Index:
    """The index of DATA (see layouts): the one in the file `cache` where it still holds, else made, and kept there.

    `group_column`: of a table; what training and validation must not share. `threads` read headers.
    Raises InputError where DATA cannot be used. Problems of single pictures are in the column `problem`.
    """
    place = _Place(data.absolute(), cache, group_column, threads)
    kept = _load(place)
    return kept if kept is not None and _still_holds(kept) else _make(place, kept)


# --- made ------------------------------------------------------------------------------------------------------------


def _make(place: _Place, kept: Index | None) -> Index:
    import pyarrow as pa

    made_ns = time.time_ns()
    layout = find_layout(place.data, group_column=place.group_column)
    known = Known(kept.arrow, before_ns=kept._about["made_ns"] - RACE_NS) if kept else Known()
    columns = complete(layout, known, threads=place.threads)
    about = {
        "version": VERSION,
        "data": os.fspath(place.data),
        "group_column": place.group_column,
        "root": layout.root,
        "kind": layout.kind,
        "made_ns": made_ns,
        "folders": layout.listing.folders,
        "sources": layout.sources,
        "remarks": [files.shown(remark) for remark in layout.remarks],
    }
    about = json.loads(json.dumps(about))  # as it will be when it is loaded
    arrow = pa.table(columns).replace_schema_metadata({"lightmill": json.dumps(about)})
    index = _index(
        place, arrow, about, "renewed" if kept else "made", _changes(kept.arrow, arrow) if kept else Changes()
    )
    return _kept(index)


def _index(place: _Place, arrow: "pa.Table", about: Mapping[str, Any], origin: Origin, changes: Changes) -> Index:
    return Index(Path(about["root"]), about["kind"], arrow, tuple(about["remarks"]), origin, changes, about, place)


def _changes(before: "pa.Table", now: "pa.Table") -> Changes:
    """By path; what only the reading of headers says anew is none."""
    names = ("mask", "size", "mtime_ns", "mask_size", "mask_mtime_ns", "split", "group")
    old, new = (
        dict(zip(one["image"].to_pylist(), zip(*(one[name].to_pylist() for name in names), strict=True), strict=True))
        for one in (before, now)
    )
    return Changes(
        added=tuple(image for image in new if image not in old),
        vanished=tuple(image for image in old if image not in new),
        changed=tuple(image for image, row in new.items() if old.get(image, row) != row),
    )


# --- kept ------------------------------------------------------------------------------------------------------------


def _kept(index: Index) -> Index:
    """Writes the index to its place; where that cannot be done, says so in a remark."""
    cache = index._place.cache
    if cache is None:
        return index
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, index.arrow.schema) as writer:
        writer.write_table(index.arrow)
    try:
        Outputs(cache.parent).write(cache.name, sink.getvalue().to_pybytes())
    except (OSError, OutputError) as error:
        remark = f"the index cannot be kept, and is made anew at every start: {error}"
        return Index(**{**vars_of(index), "remarks": (*index.remarks, remark)})
    return index


def vars_of(index: Index) -> dict[str, Any]:
    """The fields of an index, without what was computed from them."""
    return {name: getattr(index, name) for name in Index.__dataclass_fields__}


def _load(place: _Place) -> Index | None:
    """None where none is kept, or another, or it is damaged: it is made anew then."""
    if place.cache is None:
        return None
    import pyarrow as pa

    try:
        with pa.ipc.open_file(place.cache.read_bytes()) as reader:
            arrow = reader.read_all()
        about = json.loads(arrow.schema.metadata[b"lightmill"])
        same = (about["version"], about["data"], about["group_column"])
        if same != (VERSION, os.fspath(place.data), place.group_column):
            return None
        return _index(place, arrow, about, "loaded", Changes())
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException):
        return None


def _still_holds(index: Index) -> bool:
    """Whether no folder, table, list or JSON file has changed, by sizes and times; see the top of this module."""
    about = index._about
    young_ns = about["made_ns"] - RACE_NS
    times: Mapping[str, int] = about["folders"]
    return all(_unchanged(about["root"], folder, then, young_ns) for folder, then in times.items()) and all(
        then[1] < young_ns and stamp_of(os.path.join(about["root"], path)) == Stamp(*then)
        for path, then in about["sources"].items()
    )


def _unchanged(root: str, folder: str, then_ns: int, young_ns: int) -> bool:
    try:
        return then_ns < young_ns and os.stat(os.path.join(root, folder)).st_mtime_ns == then_ns
    except OSError:
        return then_ns == GONE


def problem_lines(index: Index, *, examples: int = 3) -> Sequence[str]:
    """For people: how many rows have each kind of problem, and the first of them."""
    images, problems = index.arrow["image"].to_pylist(), index.arrow["problem"].to_pylist()
    lines = []
    for kind, count in index.problem_counts.items():
        met = [
            f"{image} ({problem.partition(': ')[2] or kind})"
            for image, problem in zip(images, problems, strict=True)
            if problem and kind_of(problem) is kind
        ][:examples]
        lines.append(f"{kind}: {count:,}, as {'; '.join(met)}")
    return lines
