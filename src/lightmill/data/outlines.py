"""Labels that are outlines: YOLO's text files and COCO's JSON, painted into class maps. Class 0 is the background.

The larger of two shapes that overlap lies below the smaller one. Regions that COCO calls a crowd are ignored where
nothing else lies: how far the single things in them reach, nobody has drawn.
"""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lightmill.data.file_list import Files
from lightmill.data.index import Index
from lightmill.data.label_shapes import box_corners, paint_polygon, paint_runs, polygon_area, unpacked_runs
from lightmill.data.labels import BACKGROUND, IGNORE, MOST_CLASSES, Labelled, Map, SizeHW, digest
from lightmill.errors import InputError, ItemError, UsageError
from lightmill.sources import files

_BESIDE = 0.01  # how far, of the picture, a corner may lie beside it: rounding of programs
_NAMED = ("data.yaml", "dataset.yaml", "data.yml", "dataset.yml")
_LISTED = ("classes.txt", "labels/classes.txt", "obj.names")


class _Shape(NamedTuple):
    """Something to be painted."""

    area: float
    value: int
    paint: Callable[[Map, int], None]
    below: bool = False  # all others


def _painted(shapes: Sequence[_Shape], size_hw: SizeHW) -> Map:
    """The largest first, so that small things stay; equals in their order."""
    out = np.zeros(size_hw, np.uint8)
    for shape in sorted(shapes, key=lambda one: (not one.below, -one.area)):
        shape.paint(out, shape.value)
    return out


def _polygons(parts: Sequence[NDArray[np.float64]]) -> tuple[float, Callable[[Map, int], None]]:
    """(area, how they are painted) of a thing whose outline is in several pieces."""

    def paint(out: Map, value: int) -> None:
        for part in parts:
            paint_polygon(out, part, value)

    return sum(map(polygon_area, parts)), paint


# --- YOLO ------------------------------------------------------------------------------------------------------------


def open_yolo(index: Index, *, classes: Sequence[str] | None, ignore: Sequence[int], boxes: bool) -> "YoloFiles":
    """See `labels.open_labels`."""
    found = tuple(classes) if classes else _yolo_names(index.root)
    if not found:
        raise UsageError("YOLO's labels number their classes; name them with --classes, or put data.yaml beside them")
    names = _with_background(found)
    values = [IGNORE if number in ignore else names.index(name) for number, name in enumerate(found)]
    return YoloFiles(index.masks, names, tuple(values), boxes)


@dataclass(frozen=True, eq=False)
class YoloFiles:
    """One text file a picture: `class x1 y1 x2 y2 ...` a line, shares of width and height; four numbers are a box."""

    files: Files
    names: tuple[str, ...]
    values: tuple[int, ...]  # the class of each number
    boxes: bool

    @property
    def rules(self) -> str:
        return f"yolo {self.values} {self.boxes}"

    def key(self, row: int) -> bytes:
        return b"%s\0%d\0%d" % (self.files.name(row).encode(), *self.files.stamp(row))

    def read(self, row: int, size_hw: SizeHW) -> Labelled:
        name = self.files.name(row)
        if not name:
            raise ItemError("the picture has no labels")
        contents = self.files.read(row)
        try:
            lines = [line.split() for line in contents.data.decode("utf-8-sig").splitlines()]
            shapes = [self._shape(words, size_hw) for words in lines if words]
        except ValueError as error:  # UnicodeDecodeError is one
            raise ItemError(f"the labels {name}: {error}") from error
        return Labelled(_painted(shapes, size_hw), contents.as_listed)

    def _shape(self, words: Sequence[str], size_hw: SizeHW) -> _Shape:
        number, *shares = map(float, words)
        if number not in range(len(self.values)):
            raise ValueError(f"class {words[0]} is none of the {len(self.values)} (0 to {len(self.values) - 1})")
        points = self._corners(np.array(shares)) * size_hw[::-1]
        area, paint = _polygons([points])
        return _Shape(area, self.values[int(number)], paint)

    def _corners(self, shares: NDArray[np.float64]) -> NDArray[np.float64]:
        """[N, 2] shares of the picture."""
        if not (np.isfinite(shares).all() and (np.abs(shares - 0.5) <= 0.5 + _BESIDE).all()):
            raise ValueError("its numbers are not shares of width and height, 0 to 1")
        if len(shares) == 4:
            if not self.boxes:
                raise ValueError("it holds a box, and no outline; boxes become masks with --boxes-as-masks")
            x, y, w, h = shares.tolist()
            return box_corners(x - w / 2, y - h / 2, w, h)
        if len(shares) < 6 or len(shares) % 2:
            raise ValueError(f"a line has {len(shares)} numbers after its class; an outline has 6, 8, ...")
        return shares.reshape(-1, 2)


def _yolo_names(root: Path) -> tuple[str, ...]:
    """Of data.yaml or classes.txt, in DATA or the folder above, as YOLO's tools leave them; () where there is none."""
    for folder in (root, root.parent):
        for name in _NAMED:
            if (folder / name).is_file():
                return _names_in_yaml(folder / name)
    for name in _LISTED:
        if (root / name).is_file():
            return tuple(filter(None, map(str.strip, _text(root / name).splitlines())))
    return ()


def _names_in_yaml(path: Path) -> tuple[str, ...]:
    import yaml

    try:
        names = (yaml.safe_load(_text(path)) or {}).get("names")
    except (yaml.YAMLError, AttributeError) as error:
        raise InputError(f"{files.shown(path)} is no YAML with names of classes") from error
    if isinstance(names, Mapping):
        names = [names.get(number) for number in range(len(names))]
    if not isinstance(names, list) or not all(isinstance(name, (str, int)) for name in names):
        raise InputError(f"{files.shown(path)}: its `names` are neither a list nor numbered from 0")
    return tuple(map(str, names))


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{files.shown(path)} is not UTF-8") from error
    except OSError as error:
        raise files.refused(str(path), error) from error


# --- COCO ------------------------------------------------------------------------------------------------------------


def open_coco(index: Index, *, classes: Sequence[str] | None, ignore: Sequence[int], boxes: bool) -> "CocoFiles":
    """See `labels.open_labels`."""
    wanted: dict[str, dict[str, int]] = {}  # file -> id of a picture, as text -> row
    for row, mask in enumerate(index.arrow["mask"].to_pylist()):
        path, _, picture = mask.rpartition("#")
        if path:
            wanted.setdefault(path, {})[picture] = row
    jsons = [(path, rows, _json(index.root, path)) for path, rows in wanted.items()]
    categories = _categories([found for *_, found in jsons])
    values = _values_of(categories, classes, ignore)
    names = _with_background([categories[number] for number, value in sorted(values.items(), key=lambda one: one[1])
                              if value not in (0, IGNORE)])  # fmt: skip
    texts = [b""] * len(index)
    for _, rows, found in jsons:
        for row, text in _by_row(found, rows).items():
            texts[row] = text
    ends = np.cumsum([len(text) for text in texts], dtype=np.int64)
    return CocoFiles(index.masks, names, values, boxes, np.frombuffer(b"".join(texts), np.uint8), ends)


@dataclass(frozen=True, eq=False)
class CocoFiles:
    """The annotations of JSON files that were read once; each picture's are kept as text until they are painted."""

    files: Files
    names: tuple[str, ...]
    values: Mapping[int, int]  # id of a category -> its class; of those that nobody asked for 0, which is painted too
    boxes: bool
    texts: NDArray[np.uint8]
    ends: NDArray[np.int64]  # [N] of each row's text

    @property
    def rules(self) -> str:
        return f"coco {sorted(self.values.items())} {self.boxes}"

    def key(self, row: int) -> bytes:
        return digest(self._text(row))  # not the time of the JSON: other pictures' annotations may change in it

    def read(self, row: int, size_hw: SizeHW) -> Labelled:
        name = self.files.name(row)
        if not name:
            raise ItemError("the picture is in no JSON of annotations")
        try:
            found = json.loads(self._text(row))
            self._check_size(found, size_hw)
            shapes = [self._shape(one, size_hw) for one in found["annotations"]]
            return Labelled(_painted(shapes, size_hw), as_listed=True)
        except (ValueError, TypeError, KeyError) as error:
            reason = f"it has no {error}" if isinstance(error, KeyError) else error
            raise ItemError(f"the annotations {name}: {reason}") from error

    def _text(self, row: int) -> bytes:
        first = int(self.ends[row - 1]) if row else 0
        return self.texts[first : int(self.ends[row])].tobytes()

    def _check_size(self, found: Mapping[str, Any], size_hw: SizeHW) -> None:
        said = found["height"], found["width"]
        if None not in said and said != size_hw:
            raise ValueError(f"they are for {said[1]}x{said[0]} px, the picture is {size_hw[1]}x{size_hw[0]}")

    def _shape(self, one: Mapping[str, Any], size_hw: SizeHW) -> _Shape:
        value = self.values.get(one["category_id"])
        if value is None:
            raise ValueError(f"one is of category {one['category_id']}, which the JSON does not list")
        outline = one.get("segmentation")
        if isinstance(outline, Mapping):
            area, paint = _runs(outline, size_hw)
        elif outline:
            area, paint = _polygons([_flat(part) for part in outline])
        elif self.boxes:
            area, paint = _polygons([box_corners(*map(float, one["bbox"]))])
        else:
            raise ValueError("one has a box, and no outline; boxes become masks with --boxes-as-masks")
        is_crowd = bool(one.get("iscrowd"))
        return _Shape(area, IGNORE if is_crowd else value, paint, below=is_crowd)


def _runs(outline: Mapping[str, Any], size_hw: SizeHW) -> tuple[float, Callable[[Map, int], None]]:
    if tuple(outline["size"]) != size_hw:
        height, width = outline["size"]
        raise ValueError(f"one has runs for {width}x{height} px, the picture is {size_hw[1]}x{size_hw[0]}")
    counts = outline["counts"]
    runs = unpacked_runs(counts) if isinstance(counts, str) else np.array(counts, np.int64)

    def paint(out: Map, value: int) -> None:
        paint_runs(out, runs, value)

    return float(runs[1::2].sum()), paint


def _flat(part: Sequence[float]) -> NDArray[np.float64]:
    """[N, 2] of x1, y1, x2, y2, ..."""
    numbers = np.array(part, np.float64)
    if numbers.ndim != 1 or len(numbers) < 6 or len(numbers) % 2 or not np.isfinite(numbers).all():
        raise ValueError(f"an outline has {numbers.size} numbers; it has to be x1, y1, x2, y2, ... of 3 points or more")
    return numbers.reshape(-1, 2)


def _json(root: Path, path: str) -> Mapping[str, Any]:
    try:
        found = json.loads(Path(os.path.join(root, path)).read_bytes())
    except OSError as error:
        raise files.refused(path, error) from error
    except ValueError as error:
        raise InputError(f"{files.shown(path)} is no JSON: {error}") from error
    if not isinstance(found, dict) or not isinstance(found.get("categories"), list):
        raise InputError(f"{files.shown(path)} lists no categories, so its annotations have no classes")
    return found


def _categories(jsons: Sequence[Mapping[str, Any]]) -> dict[int, str]:
    """Id -> name, by id, of all files together."""
    found: dict[int, str] = {}
    for one in jsons:
        for category in one["categories"]:
            name = found.setdefault(category["id"], str(category["name"]))
            if name != category["name"]:
                raise InputError(
                    f"category {category['id']} is {name!r} in one JSON and {category['name']!r} in another"
                )
    return dict(sorted(found.items()))


def _values_of(categories: Mapping[int, str], classes: Sequence[str] | None, ignore: Sequence[int]) -> dict[int, int]:
    """Id of a category -> its class."""
    if unknown := set(ignore) - set(categories):
        raise UsageError(f"--ignore {min(unknown)} is no id of a category: {_listed(categories)}")
    wanted = [name for name in classes or () if name != BACKGROUND]
    if unknown_names := [name for name in wanted if name not in categories.values()]:
        raise UsageError(f"--classes {unknown_names[0]}: there is no such category; there are {_listed(categories)}")
    left = {number: name for number, name in categories.items() if number not in ignore and name != BACKGROUND}
    order = wanted or list(dict.fromkeys(left.values()))  # two ids of one name are one class
    chosen = {number: order.index(name) + 1 for number, name in left.items() if name in order}
    return dict.fromkeys(categories, 0) | chosen | dict.fromkeys(ignore, IGNORE)


def _listed(categories: Mapping[int, str]) -> str:
    return ", ".join(f"{number} {name}" for number, name in categories.items())


def _by_row(found: Mapping[str, Any], rows: Mapping[str, int]) -> dict[int, bytes]:
    """Row -> what its picture's map hangs on, as JSON."""
    of_picture: dict[str, list[Any]] = {}
    for one in found["annotations"]:
        of_picture.setdefault(str(one.get("image_id")), []).append(
            {name: one.get(name) for name in ("category_id", "segmentation", "bbox", "iscrowd")}
        )
    texts = {}
    for picture in found["images"]:
        row = rows.get(str(picture["id"]))
        if row is not None:
            about = {"height": picture.get("height"), "width": picture.get("width")}
            about["annotations"] = of_picture.get(str(picture["id"]), [])
            texts[row] = json.dumps(about).encode()
    return texts


def _with_background(names: Sequence[str]) -> tuple[str, ...]:
    found = (BACKGROUND, *(name for name in dict.fromkeys(names) if name != BACKGROUND))
    if not 2 <= len(found) <= MOST_CLASSES:
        raise UsageError(f"there may be 1 to {MOST_CLASSES - 1} classes beside the background, got {len(found) - 1}")
    return found
