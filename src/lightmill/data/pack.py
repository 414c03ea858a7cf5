"""Many crops in one file: an Arrow IPC file that is mapped, never read in.

One row is one crop. Columns, in this order:

    crop                       large_binary (a JPEG file) or fixed_size_binary (uint8 RGB, height x width x 3)
    kind                       string: player, background, partial
    label frame group view     string: who ("" = nobody known), key of the picture, what must not be split, camera
    time                       float64, null where unknown
    x y w h                    float64, px of the full frame: the box, not enlarged
    left top width height      int32, px of the full frame: what was cut, enlarged and kept inside the frame
    row parent                 int64: row of the box in its table, row that a partial was cut from; -1 = none
    overlap                    float32: of a negative; 0 for players
    ...                        string: the user's own columns

The schema's metadata holds, under `lightmill`, {"version": 1, "store": "jpeg" | "raw", "size": [w, h] | null,
"expand": 1.2} as JSON. Nothing is compressed, so that a crop is a slice of the mapped file: processes that read one
pack share its pages.
"""

import json
import math
import os
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self, TypeAlias, get_args

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from lightmill.codecs.decode import decode
from lightmill.codecs.jpeg import SIGNATURE, find_segments
from lightmill.engine.outputs import temporary_name, writing
from lightmill.errors import DamagedImage, InputError

if TYPE_CHECKING:
    import polars as pl

Pixels: TypeAlias = NDArray[np.uint8]
Store: TypeAlias = Literal["jpeg", "raw"]
Kind: TypeAlias = Literal["player", "background", "partial"]

PACK_NAME = "crops.arrow"
VERSION = 1
BATCH_ROWS = 1024
BATCH_BYTES = 16 << 20  # of crops that wait to be written

_TEXTS = ("kind", "label", "frame", "group", "view")
_BOX, _CUT = ("x", "y", "w", "h"), ("left", "top", "width", "height")
COLUMNS = ("crop", *_TEXTS, "time", *_BOX, *_CUT, "row", "parent", "overlap")
_AGAIN = "make it again with `lightmill crop`"


@dataclass(frozen=True, slots=True, kw_only=True)
class CropRow:
    """One crop to be written; the fields are the columns of the pack, `other` the user's by their own names."""

    crop: bytes | memoryview | Pixels  # a JPEG file, or [h, w, 3] RGB where the pack is raw
    frame: str
    x: float
    y: float
    w: float
    h: float
    left: int
    top: int
    width: int
    height: int
    kind: Kind = "player"
    label: str = ""
    group: str = ""
    view: str = ""
    time: float | None = None
    row: int = -1
    parent: int = -1
    overlap: float = 0.0
    other: Mapping[str, str] = field(default_factory=dict)


class PackWriter:
    """Writes a pack row by row, under a hidden name beside `path` until `close`; memory stays flat.

    As a context it is closed at the end, or leaves nothing behind where there was an error. For one thread.
    """

    def __init__(
        self,
        path: Path,
        *,
        store: Store,
        expand: float,
        size: tuple[int, int] | None = None,
        columns: Sequence[str] = (),
        durable: bool = False,
    ) -> None:
        """`size` (width, height) in px is that of every crop: needed for raw ones. `columns`: the user's own.

        A column of the user that has a name of the pack's becomes `name_2`, `name_3`, …. `durable`: the file is on the
        disk before it appears. Raises OutputError where no file can be written there (disk full, read-only), else
        OSError; ValueError for a raw pack without a size.
        """
        import pyarrow as pa

        if store not in get_args(Store) or (store == "raw" and size is None):
            raise ValueError(f"a pack is of store jpeg, or of store raw with a size; got {store=}, {size=}")
        self.path = path
        self._raw = store == "raw"
        self._shape = (size[1], size[0], 3) if size else None
        self._columns = tuple(columns)
        self._schema = _schema(store, size=size, expand=expand, columns=columns)
        self._durable = durable
        self._rows: list[CropRow] = []
        self._bytes = 0
        self._temporary = path.parent / temporary_name(path.name)
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._sink: Any = pa.OSFile(os.fspath(self._temporary), "wb")
            self._file: Any = pa.ipc.new_file(self._sink, self._schema)

    def add(self, rows: Iterable[CropRow]) -> None:
        """Append rows. Raises ValueError for a row that does not fit the pack; OutputError as for the writer itself."""
        if self._sink.closed:
            raise ValueError(f"the pack {self.path.name} is closed; no row can be added")
        for row in rows:
            self._rows.append(self._checked(row))
            self._bytes += row.crop.nbytes if isinstance(row.crop, np.ndarray) else len(row.crop)
            if len(self._rows) >= BATCH_ROWS or self._bytes >= BATCH_BYTES:
                self._flush()

    def close(self) -> None:
        """Write what is left; the pack appears, in place of one that was there. Later calls do nothing."""
        if self._sink.closed:
            return
        try:
            self._flush()
            with writing(self.path):
                self._file.close()
                self._sink.close()
                if self._durable:
                    _sync(self._temporary)
                os.replace(self._temporary, self.path)
                if self._durable:
                    _sync(self.path.parent)
        except BaseException:
            self.discard()
            raise

    def discard(self) -> None:
        """Leave nothing behind; a pack that was there before stays."""
        with suppress(OSError):
            self._sink.close()
        with suppress(OSError):  # never made, or the disk is gone: the next run looks again
            os.remove(self._temporary)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None:
            self.close()
        else:
            self.discard()

    def _checked(self, row: CropRow) -> CropRow:
        if row.kind not in get_args(Kind):
            raise ValueError(f"kind is one of {', '.join(get_args(Kind))}, got {row.kind!r}")
        if unknown := set(row.other).difference(self._columns):
            raise ValueError(f"the pack was opened with the columns {list(self._columns)}, got {sorted(unknown)} too")
        is_array = isinstance(row.crop, np.ndarray)
        if is_array != self._raw:
            raise ValueError(f"a crop is {'an array' if self._raw else 'the bytes of a JPEG'}, got {type(row.crop)}")
        if isinstance(row.crop, np.ndarray) and (row.crop.shape != self._shape or row.crop.dtype != np.uint8):
            raise ValueError(f"crops are uint8 {self._shape}, got {row.crop.dtype} {row.crop.shape}")
        return row

    def _flush(self) -> None:
        import pyarrow as pa

        if not self._rows:
            return
        rows, self._rows, self._bytes = self._rows, [], 0
        crops = [row.crop.tobytes() if isinstance(row.crop, np.ndarray) else row.crop for row in rows]
        known: list[list[object]] = [[getattr(row, name) for row in rows] for name in COLUMNS[1:]]
        own: list[list[object]] = [[row.other.get(name, "") for row in rows] for name in self._columns]
        arrays = [
            pa.array(values, column.type, from_pandas=column.name == "time")  # from_pandas: NaN is no time
            for values, column in zip([crops, *known, *own], self._schema, strict=True)
        ]
        with writing(self.path):
            self._file.write_batch(pa.record_batch(arrays, schema=self._schema))


class Place(NamedTuple):
    """Where a crop lies in its frame, px."""

    box: tuple[float, float, float, float]  # x, y, w, h: not enlarged
    cut: tuple[int, int, int, int]  # left, top, width, height: what the crop shows


class Context(NamedTuple):
    """A crop with all that is known around it: of a pack that is the crop itself."""

    pixels: Pixels  # [H, W, 3] RGB
    shown: tuple[int, int, int, int]  # left, top, width, height: the part of the frame that `pixels` are
    cut: tuple[int, int, int, int]  # likewise: the part that the crop is


class CropPack:
    """A pack, mapped: opening one costs milliseconds, whatever its size, and reading touches only what is asked for.

    May be used from many threads. Pickled, it is its path: another process maps the same pages. `len` counts crops.
    """

    path: Path
    store: Store
    size: tuple[int, int] | None  # (width, height) px of every crop, where all are the same
    expand: float  # how much larger than the box the cut is
    columns: tuple[str, ...]  # the user's own

    def __init__(self, path: Path) -> None:
        """As `open`."""
        self.path = _pack_path(path)
        with _damage_named(self.path):
            self._identity = _identity(self.path)
            self._reader, self._batches = _map(self.path)
            self.store, self.size, self.expand = _read_about(self._reader.schema, self.path)
            self._names: list[str] = self._reader.schema.names
        self.columns = tuple(name for name in self._names if name not in COLUMNS)
        self._ends: list[int] = np.cumsum([batch.num_rows for batch in self._batches], dtype=np.int64).tolist()
        self._crops: dict[int, tuple[NDArray[np.int64], memoryview]] = {}  # by batch, as they are asked for
        self._places: dict[int, list[NDArray[Any]]] = {}
        self._table: pl.DataFrame | None = None

    @classmethod
    def open(cls, path: Path) -> Self:
        """The pack at `path`: the file, or the folder that holds it as crops.arrow.

        Raises InputError, with what to do, where there is none, it is damaged, or it is another kind of file.
        """
        return cls(path)

    def __reduce__(self) -> tuple[object, ...]:
        return _reopen, (type(self), self.path, self._identity)

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    @property
    def table(self) -> "pl.DataFrame":
        """All columns but `crop`, made once. No crop is touched. Raises InputError where the file is damaged."""
        import polars as pl
        import pyarrow as pa

        if self._table is None:
            names = [name for name in self._names if name != "crop"]
            with _damage_named(self.path):
                schema = pa.schema([self._reader.schema.field(name) for name in names])
                table = pa.Table.from_batches([batch.select(names) for batch in self._batches], schema=schema)
                table.validate(full=True)
                made = pl.from_arrow(table)
            assert isinstance(made, pl.DataFrame)
            self._table = made
        return self._table

    def encoded(self, index: int) -> memoryview:
        """The JPEG file of a crop, read-only: a slice of the mapped file, not a copy.

        Raises IndexError outside the pack, ValueError for a pack of raw pixels.
        """
        if self.store != "jpeg":
            raise ValueError(f"{self.path} holds raw pixels, no JPEG files; use pixels(index)")
        return self._slice(index)

    def pixels(self, index: int) -> Pixels:
        """[h, w, 3] uint8 RGB. Of a raw pack: a read-only view of the mapped file.

        Raises IndexError outside the pack, DamagedImage (and what `decode` raises) for a crop that is not whole.
        """
        data = self._slice(index)
        if self.store == "raw":
            assert self.size
            return np.frombuffer(data, np.uint8).reshape(self.size[1], self.size[0], 3)
        return _decoded(bytes(data))

    def context(self, index: int) -> Context:
        """The crop and what it shows of its frame. Raises as `pixels` does."""
        cut = self.place(index).cut
        return Context(self.pixels(index), cut, cut)

    def place(self, index: int) -> Place:
        """Where a crop lies in its frame. Raises IndexError outside the pack."""
        number, at = self._find(index)
        columns = self._places.get(number)
        if columns is None:
            batch = self._batches[number]
            columns = [batch.column(name).to_numpy(zero_copy_only=False) for name in (*_BOX, *_CUT)]
            self._places[number] = columns
        x, y, w, h, left, top, width, height = (column[at].item() for column in columns)
        return Place((x, y, w, h), (left, top, width, height))

    def _find(self, index: int) -> tuple[int, int]:
        """(batch, row in it)."""
        number = bisect_right(self._ends, index)
        if index < 0 or number == len(self._ends):
            raise IndexError(f"crop {index} of a pack of {len(self)}")
        return number, index - (self._ends[number - 1] if number else 0)

    def _slice(self, index: int) -> memoryview:
        number, at = self._find(index)
        found = self._crops.get(number)
        if found is None:
            found = self._crops[number] = self._crop_bytes(number)
        starts, data = found
        return data[starts[at] : starts[at + 1]]

    def _crop_bytes(self, number: int) -> tuple[NDArray[np.int64], memoryview]:
        """Where each crop of a batch begins and the last one ends, and the bytes that this counts in."""
        crops = self._batches[number].column("crop")
        first, last = crops.offset, crops.offset + len(crops) + 1
        with _damage_named(self.path):
            crops.validate()
            _, *buffers = crops.buffers()  # the first says which are null: none
            if self.store == "raw":
                return np.arange(first, last, dtype=np.int64) * crops.type.byte_width, memoryview(buffers[0]).cast("B")
            return np.frombuffer(buffers[0], np.int64)[first:last], memoryview(buffers[1] or b"").cast("B")


def _decoded(data: bytes) -> Pixels:
    """[h, w, 3] RGB of a whole picture. Raises as `decode` does, and DamagedImage for what it would recover.

    What `lightmill crop` writes, a JPEG without a profile, goes straight to the decoder: a tenth is saved.
    """
    found = find_segments(data) if data.startswith(SIGNATURE) else None
    if found and found.frame and found.frame[1] == 8 and found.frame[4] == 3 and not (found.icc or found.exif):
        with suppress(ValueError):  # `decode` says what is wrong with it
            pixels: Pixels = simplejpeg.decode_jpeg(data, "RGB")
            return pixels
    decoded = decode(data)
    if decoded.recovered:
        raise DamagedImage(f"a crop has to be whole: {decoded.recovered}")
    return decoded.pixels


def _schema(store: Store, *, size: tuple[int, int] | None, expand: float, columns: Sequence[str]) -> Any:
    import pyarrow as pa

    crop = pa.binary(math.prod(size) * 3) if store == "raw" and size else pa.large_binary()
    types = {
        "crop": crop,
        **dict.fromkeys(_TEXTS, pa.string()),
        **dict.fromkeys(("time", *_BOX), pa.float64()),
        **dict.fromkeys(_CUT, pa.int32()),
        **dict.fromkeys(("row", "parent"), pa.int64()),
        "overlap": pa.float32(),
        **dict.fromkeys(_free_names(columns), pa.string()),
    }
    about = {"version": VERSION, "store": store, "size": list(size) if size else None, "expand": expand}
    return pa.schema(list(types.items()), metadata={b"lightmill": json.dumps(about).encode()})


def _free_names(columns: Sequence[str]) -> list[str]:
    names: list[str] = []
    for name in columns:
        free, count = name, 1
        while free in COLUMNS or free in names:
            count += 1
            free = f"{name}_{count}"
        names.append(free)
    return names


# ---------------------------------------------------------------------------------------------------------------------
# opening


class _damage_named:  # noqa: N801 (reads as a statement: with _damage_named(path))
    """Turns what pyarrow raises for a file that is no whole Arrow file into an InputError which says what to do."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError | ValueError | KeyError | TypeError | MemoryError | NotImplementedError):
            raise InputError(
                f"{self._path} is damaged, cut short, or no Arrow file ({_first_line(error)}); {_AGAIN}"
            ) from error


def _pack_path(path: Path) -> Path:
    path = path.absolute()
    if path.is_dir():
        path /= PACK_NAME
    if not path.exists():
        raise InputError(f"there is no pack {path}; make one with `lightmill crop META.csv OUT`")
    return path


def _map(path: Path) -> tuple[Any, list[Any]]:
    """The opened file and its record batches: what they hold stays in the file until it is looked at."""
    import pyarrow as pa

    reader = pa.ipc.open_file(pa.memory_map(os.fspath(path)))
    return reader, [reader.get_batch(number) for number in range(reader.num_record_batches)]


def _read_about(schema: Any, path: Path) -> tuple[Store, tuple[int, int] | None, float]:
    """Store, size and expand of a pack. Raises InputError for an Arrow file that is none, or one not read here."""
    text = (schema.metadata or {}).get(b"lightmill")
    if text is None:
        raise InputError(f"{path} is an Arrow file, but no pack of crops; make one with `lightmill crop META.csv OUT`")
    try:
        about = json.loads(text)
        version, store, expand = int(about["version"]), about["store"], float(about["expand"])
        size = (int(about["size"][0]), int(about["size"][1])) if about["size"] else None
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise InputError(f"{path} does not say what pack it is ({_first_line(error)}); {_AGAIN}") from error
    if version != VERSION:
        raise InputError(f"{path} is a pack of version {version}, this Lightmill reads version {VERSION}; {_AGAIN}")
    if store not in get_args(Store) or (store == "raw" and not size):
        raise InputError(f"{path} says its crops are {store!r} of size {size}, which is not known here; {_AGAIN}")
    wanted = _schema(store, size=size, expand=expand, columns=())
    wrong = [field.name for field in wanted if schema.field(field.name).type != field.type] if _has(schema) else COLUMNS
    if wrong:
        raise InputError(
            f"{path} lacks the columns of a pack, or has them as other types: {', '.join(wrong)}; {_AGAIN}"
        )
    return store, size, expand


def _has(schema: Any) -> bool:
    return set(COLUMNS) <= set(schema.names) and len(set(schema.names)) == len(schema.names)


def _identity(path: Path) -> tuple[int, int]:
    found = os.stat(path)
    return found.st_size, found.st_mtime_ns


def _reopen(kind: type[CropPack], path: Path, identity: tuple[int, int]) -> CropPack:
    """In another process. Raises InputError where the file is no longer the one that was open."""
    pack = kind.open(path)
    if pack._identity != identity:
        raise InputError(f"{path} was written anew while it was in use; start again")
    return pack


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
