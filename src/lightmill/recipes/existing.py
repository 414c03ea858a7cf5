"""What is already said of a picture: in files beside it, in lists of its folder, in columns of the user's table.

Beside `a.jpg`: `a.jpg.txt`, `a.txt`, `a.caption`, `a.json` (with `caption`, `text` or `tags`). Lists, in the picture's
folder or one above it: `metadata.jsonl` (`file_name` and `text`) and the JSON of kohya's tools and of caption apps
(picture -> caption). A picture is known in a list by its path from there, with or without its suffix; never by its bare
name alone, which pictures of other folders may share.

All of it is written by others: sizes are bounded, and what cannot be read is left out and noted, never a failure.
"""

import json
import posixpath
import re
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

from lightmill.engine.items import Json, Notes
from lightmill.engine.journal import Row
from lightmill.engine.naming import printable
from lightmill.engine.wording import count_of
from lightmill.errors import SourceError
from lightmill.export.captions_file import Layer
from lightmill.ops.captions import Problem, cleaned, problem
from lightmill.ops.tags import join_tags
from lightmill.sources.files import CAPTION_LISTS, Accompanied

FIELDS = ("caption", "text", "tags")  # of JSON, and the columns of a table
MOST_TEXT, MOST_LIST = 1 << 20, 64 << 20  # bytes of a file about one picture, and about many
NAME = "existing"
KINDS = "existing"  # in an item's meta, of a dry run
LEFT_OUT = "existing_left_out"  # in an item's meta: what could not be taken along, and why
_DOUBLE = re.compile(r"#\d+$")  # the second member of one name


class Said(NamedTuple):
    """A text, the file or column it is from, and what it is."""

    text: str
    source: str
    field: str  # caption or tags; what is not called tags is a caption


class Listed(NamedTuple):
    """A list of captions: path -> what it says; and what of it could not be read, told of every picture below it."""

    said: Mapping[str, list[Said]]
    skipped: tuple[str, ...]


class ReadExisting:
    """A stage: the texts of a picture as layers `existing`, best first; lists are read once a run and process."""

    def __init__(self) -> None:
        self._lists: dict[tuple[str, str], Listed] = {}
        self._lock = threading.Lock()

    def __call__(self, key: str, ref: Any, row: Mapping[str, str] | None, notes: Notes) -> tuple[Layer, ...]:
        """Empty texts and messages of failed programs are none."""
        skipped: list[Json] = []
        found: dict[str, Layer] = {}
        for said in [*_of_row(row or {}), *self._beside(key, ref, skipped)]:
            text = cleaned(said.text, prompt="")
            what = problem(text, prompt="", cut_off=False, script="any")
            if what in (Problem.EMPTY, Problem.ERROR_TEXT):
                skipped.extend([f"{said.source}: {what}"] if what is Problem.ERROR_TEXT else ())
                continue
            origin: dict[str, Json] = {"from": said.source, "field": said.field}
            found.setdefault(text, Layer(NAME, text, origin))
        if skipped:
            notes.meta[LEFT_OUT] = skipped
        return tuple(found.values())

    def _beside(self, key: str, ref: Any, skipped: list[Json]) -> Iterator[Said]:
        if not isinstance(ref, Accompanied):
            return
        name = _DOUBLE.sub("", posixpath.basename(key))
        stem = posixpath.splitext(name)[0]
        for file in (f"{name}.txt", f"{stem}.txt", f"{stem}.caption", f"{name}.json", f"{stem}.json"):
            with _noting(skipped):
                data = ref.companion(file, most=MOST_TEXT)
                if data is not None:
                    yield from _of_file(file, data)
        depth = sum(part not in ("", ".", "..") for part in posixpath.dirname(key).split("/"))
        for up in range(depth + 1):
            yield from self._listed(key, ref, up, skipped)

    def _listed(self, key: str, ref: Accompanied, up: int, skipped: list[Json]) -> Iterator[Said]:
        """What the lists in the folder that is `up` above the picture's say of it."""
        path = "/".join(_DOUBLE.sub("", key).split("/")[-up - 1 :])
        for file in CAPTION_LISTS:
            said, unread = self._list(ref, up, file)
            skipped.extend(unread)
            yield from said.get(path) or said.get(posixpath.splitext(path)[0]) or []

    def _list(self, ref: Accompanied, up: int, file: str) -> Listed:
        place = posixpath.normpath(posixpath.join(ref.folder.replace("\\", "/"), "../" * up)), file
        known = self._lists.get(place)
        if known is not None:
            return known
        with self._lock:
            if place not in self._lists:
                skipped: list[str] = []
                entries: dict[str, list[Said]] = {}
                with _noting(skipped):
                    data = ref.companion("../" * up + file, most=MOST_LIST)
                    if data is not None:
                        entries.update(_entries(file, data, skipped))
                self._lists[place] = Listed(entries, tuple(skipped))
        return self._lists[place]


class _noting:  # noqa: N801 (reads as a statement: with _noting(skipped))
    """What cannot be read is left out, and said."""

    def __init__(self, skipped: "list[Json] | list[str]") -> None:
        self._skipped = skipped

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if isinstance(error, SourceError | ValueError | RecursionError):
            self._skipped.append(str(error)[:300])
            return True
        return False


def of_field(layers: tuple[Layer, ...], *, tags: bool) -> str:
    """The first of those texts that are tags, or that are not; empty where there is none."""
    return next((layer.text for layer in layers if (layer.origin.get("field") == "tags") == tags), "")


def _of_row(row: Mapping[str, str]) -> Iterator[Said]:
    for field in FIELDS:
        if row.get(field, "").strip():
            yield Said(row[field], f"column {field}", _kind(field))


def _of_file(file: str, data: bytes) -> Iterator[Said]:
    if file.endswith(".json"):
        yield from _of_json(_parsed(file, data), file)
    else:
        yield Said(_decoded(data), file, "caption")


def _of_json(value: Any, source: str) -> Iterator[Said]:
    """A text, several of them, or an object with the fields that hold them."""
    if isinstance(value, str):
        yield Said(value, source, "caption")
    elif isinstance(value, list):
        yield from (Said(text, source, "caption") for text in value if isinstance(text, str))
    elif isinstance(value, dict):
        for field in FIELDS:
            text = value.get(field)
            if isinstance(text, list) and text and all(isinstance(part, str) for part in text):
                text = join_tags(text) if field == "tags" else text[0]
            if isinstance(text, str):
                yield Said(text, source, _kind(field))


def _entries(file: str, data: bytes, skipped: list[str]) -> Iterator[tuple[str, list[Said]]]:
    """Path from the list's folder -> what it says of that picture."""
    for name, value in _named_jsonl(file, data, skipped) if file.endswith(".jsonl") else _named_json(file, data):
        yield posixpath.normpath(name.replace("\\", "/")), list(_of_json(value, file))


def _named_jsonl(file: str, data: bytes, skipped: list[str]) -> Iterator[tuple[str, Any]]:
    """A line that cannot be read takes no other with it; the first is noted."""
    for number, line in enumerate(_decoded(data).split("\n"), 1):
        value = None
        with _noting([] if skipped else skipped):
            value = _parsed(f"{file}, line {number},", line.encode()) if line.strip() else None
        names = [value.get(field) for field in ("file_name", "image_path", "image")] if isinstance(value, dict) else []
        if name := next((name for name in names if isinstance(name, str)), ""):
            yield name, value


def _named_json(file: str, data: bytes) -> Iterator[tuple[str, Any]]:
    value = _parsed(file, data)
    inner = value.get("captions") if isinstance(value, dict) else None  # of apps that put facts about the run before it
    table = inner if isinstance(inner, dict) else value
    yield from table.items() if isinstance(table, dict) else ()


def _parsed(file: str, data: bytes) -> Any:
    try:
        return json.loads(_decoded(data))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is no JSON that can be read ({error})") from None


def _decoded(data: bytes) -> str:
    """UTF-8, or UTF-16 with its mark, else Windows' Western letters."""
    for encoding in ("utf-16",) if data[:2] in (b"\xff\xfe", b"\xfe\xff") else ("utf-8-sig", "cp1252"):
        with suppress(UnicodeDecodeError):
            return data.decode(encoding)
    return data.decode("latin-1")


def _kind(field: str) -> str:
    return "tags" if field == "tags" else "caption"


# --- what is said of it at the end -----------------------------------------------------------------------------------


def note_kinds(existing: tuple[Layer, ...], notes: Notes) -> None:
    """A stage of a dry run: where the texts of a picture are from, into its meta."""
    notes.meta[KINDS] = list[Json](dict.fromkeys(_source_kind(str(layer.origin.get("from"))) for layer in existing))


def left_out(rows: Iterable[Row]) -> list[str]:
    """A warning where texts of pictures could not be taken along: of how many pictures, and the first with its reason.

    Such a picture is captioned as one that has no text.
    """
    count, first = 0, ""
    for row in rows:
        reasons = row.meta.get(LEFT_OUT)
        if isinstance(reasons, list) and reasons:
            count += 1
            first = first or f"{row.key} ({reasons[0]})"
    if not count:
        return []
    pictures = count_of(count, "picture")
    return [f"not all captions that are there could be taken along, for {pictures}: {printable(first)}"]


def found_lines(rows: Iterable[Row], *, existing: str, uses: bool) -> list[str]:
    """For a dry run whose pictures went through `note_kinds`: how many have a text, from where, and what becomes of it.

    `existing`: the option as it was given; `uses`: whether such a text is taken instead of a new one.
    """
    total = have = 0
    kinds: Counter[str] = Counter()
    for row in rows:
        found = row.meta.get(KINDS)
        assert isinstance(found, list), "written by note_kinds"
        total += 1
        have += bool(found)
        kinds.update(map(str, found))
    if not have:
        return []
    listed = ", ".join(f"{kind} {count:,}" for kind, count in kinds.most_common())
    if existing == "ignore":
        what = "they would be left aside, and all pictures captioned"
    elif uses:
        what = f"they would be used, and {count_of(total - have, 'picture')} captioned"
    else:
        what = "they would be kept as a layer, and all pictures captioned"
    return [
        f"  captions that are there: for {have:,} of {count_of(total, 'picture')} ({listed})",
        f"  --existing {existing}: {what}",
    ]


def _source_kind(source: str) -> str:
    """A column, or a list, by its name; of files that are about one picture the suffix."""
    return source if source.startswith("column ") or source in CAPTION_LISTS else posixpath.splitext(source)[1]
