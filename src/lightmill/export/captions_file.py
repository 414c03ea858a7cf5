"""`captions.jsonl`: all that is said of the pictures of OUT, one a line; and its history, so that edits can be undone.

A line is `{"key","image","width","height","layers":[{"layer","text","origin"}]}`, in the order of the manifest. All
exports are made from it. Edits live below `.lightmill/captions`: `0001.jsonl`, … hold what one edit changed, before
and after, picture by picture; `state.json` says how many of them stand.
"""

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, NamedTuple, NoReturn, TypeAlias

from lightmill.engine.items import Json
from lightmill.engine.journal import STATE
from lightmill.engine.lock import RunLock
from lightmill.engine.outputs import Outputs, writing
from lightmill.errors import InputError, OutputError, UsageError

FILE = "captions.jsonl"
HISTORY = f"{STATE}/captions"
MAIN_ORDER = ("edited", "caption", "tags", "existing")

_STATE, _NEXT, _NEW = f"{HISTORY}/state.json", f"{HISTORY}/next.jsonl", f"{HISTORY}/new.jsonl"
_DRIVE = re.compile("[A-Za-z]:")
_LONGEST_LINE = 1 << 24  # bytes; a caption of 16 MB is none
_LINE_ENDS = str.maketrans({end: f"\\u{ord(end):04x}" for end in "\x85\u2028\u2029"})  # str.splitlines ends lines there


@dataclass(frozen=True, slots=True)
class Layer:
    """One text of a picture, and where it is from."""

    name: str  # caption, tags, existing, edited, …; a picture may have several of one name, best first
    text: str
    origin: Mapping[str, Json] = field(default_factory=dict)  # `edit`: the number of the edit that made the text so


@dataclass(frozen=True, slots=True)
class Captioned:
    """A picture of OUT and all that is said of it."""

    key: str
    image: str  # relative to OUT, posix, inside OUT
    width: int  # px, of that file
    height: int
    layers: tuple[Layer, ...] = ()

    def layer(self, name: str) -> Layer | None:
        """The first layer of that name."""
        return next((layer for layer in self.layers if layer.name == name), None)


Change: TypeAlias = Callable[[Captioned], Sequence[Layer]]


class Changed(NamedTuple):
    """What one edit did to one picture."""

    key: str
    before: tuple[Layer, ...]
    after: tuple[Layer, ...]


class Edit(NamedTuple):
    """One entry of the history."""

    number: int  # from 1
    what: str
    when: str  # UTC, ISO 8601
    changed: int  # pictures
    stands: bool  # False: undone, may be redone


class Step(NamedTuple):
    """What undo and redo did."""

    number: int
    changed: int  # pictures
    skipped: int  # pictures that are gone, or whose layers are not as the edit left them: untouched


class _State(NamedTuple):
    applied: int = 0  # edits that stand
    last: int = 0  # edits that there are


def main_layer(picture: Captioned, order: Sequence[str] = MAIN_ORDER) -> Layer | None:
    """The first layer, by the order of names, that the picture has; an empty text counts, someone emptied it."""
    return next(filter(None, map(picture.layer, order)), None)


def main_text(picture: Captioned, order: Sequence[str] = MAIN_ORDER) -> str:
    """The text that trainers are given; empty where the picture has none of those layers."""
    layer = main_layer(picture, order)
    return layer.text if layer else ""


def caption_lines(pictures: Iterable[Captioned]) -> Iterator[bytes]:
    """What `captions.jsonl` holds. What no UTF-8 can hold (half of a surrogate pair) becomes `?`."""
    for picture in pictures:
        yield _line(
            {
                "key": picture.key,
                "image": picture.image,
                "width": picture.width,
                "height": picture.height,
                "layers": _layers_json(picture.layers),
            }
        )


def write_captions(outputs: Outputs, pictures: Iterable[Captioned]) -> bool:
    """Write `captions.jsonl`, whole or not at all. Returns whether it changed."""
    return outputs.write_if_changed(FILE, caption_lines(pictures))


def read_captions(path: Path) -> Iterator[Captioned]:
    """The pictures of a `captions.jsonl`, one at a time; blank lines are none.

    Raises InputError, naming the file, the line and what is wrong, for everything that `caption_lines` does not write:
    also a key that is there twice, an unknown field (a rewrite would lose it), and an image outside OUT.
    """
    seen: set[str] = set()
    for number, row in _rows(path):
        fail = _Failure(path, number)
        picture = _captioned(row, fail)
        if picture.key in seen:
            fail(f"the key {picture.key!r} is there twice")
        seen.add(picture.key)
        yield picture


class CaptionsFile:
    """The captions of OUT as something to edit. A kill at any point leaves an edit done, or not begun.

    Raises InputError where OUT has no captions.
    """

    def __init__(self, out: Path) -> None:
        self._out = out
        self._path = out / FILE
        if not self._path.is_file():
            raise InputError(f"{out} has no {FILE}; make captions first: lightmill caption INPUT {out}")
        self._outputs = Outputs(out)

    def __iter__(self) -> Iterator[Captioned]:
        return read_captions(self._path)

    def edit(self, change: Change, *, what: str) -> int | None:
        """Give every picture the layers that `change` makes of it, called once a picture, in order.

        Layers whose text is new are marked with the edit's number in their origin. Edits that were undone are
        forgotten. Returns the number; None where nothing changed, and then nothing is written. Raises InputError;
        OutputError where a run is at work in OUT, or OUT cannot be written.
        """
        with self._working():
            state = self._state()
            number = state.applied + 1
            if not self._record(change, number, what):
                return None
            self._save_state(_State(state.applied, state.applied))
            os.replace(self._out / _NEW, self._record_path(number))
            self._move(number, to=number, last=state.applied)
            self._forget(state.last, after=number)
        return number

    def undo(self) -> Step:
        """Take back the last edit that stands. Raises UsageError where there is none; else as `edit`."""
        with self._working():
            state = self._state()
            if not state.applied:
                raise UsageError("there is no edit to undo")
            return self._move(state.applied, to=state.applied - 1, last=state.last)

    def redo(self) -> Step:
        """Make the edit that was undone last once more. Raises UsageError where there is none; else as `edit`."""
        with self._working():
            state = self._state()
            if state.applied == state.last:
                raise UsageError("there is no undone edit to redo")
            return self._move(state.applied + 1, to=state.applied + 1, last=state.last)

    def next_step(self, *, redo: bool) -> int | None:
        """The number of the edit that undo (or redo) is about."""
        state = self._state()
        if redo:
            return state.applied + 1 if state.applied < state.last else None
        return state.applied or None

    def history(self) -> list[Edit]:
        """All edits, oldest first."""
        state = self._state()
        found = []
        for number in range(1, state.last + 1):
            rows = (row for _, row in _rows(self._record_path(number)))
            header = next(rows, {})
            found.append(
                Edit(
                    number,
                    str(header.get("what", "")),
                    str(header.get("when", "")),
                    sum(1 for _ in rows),
                    number <= state.applied,
                )
            )
        return found

    def changes(self, number: int) -> Iterator[Changed]:
        """What an edit changed."""
        path = self._record_path(number)
        for line, row in _rows(path):
            if line > 1:
                yield _changed(row, _Failure(path, line))

    def edited(self) -> dict[str, tuple[Layer, ...]]:
        """The layers that the edits that stand left each of their pictures with: what a new run is to keep."""
        return {
            changed.key: changed.after
            for number in range(1, self._state().applied + 1)
            for changed in self.changes(number)
        }

    @contextmanager
    def _working(self) -> Iterator[None]:
        with RunLock(self._out / STATE):
            try:
                with writing(self._path):
                    yield
            except OSError as error:
                raise OutputError(
                    f"cannot write to OUT: {error.strerror}: {error.filename}; no caption is lost"
                ) from error

    def _record(self, change: Change, number: int, what: str) -> int:
        """Write what `change` does as a record that does not count yet. Returns the number of changed pictures."""
        changed = 0

        def lines() -> Iterator[bytes]:
            nonlocal changed
            yield _line({"edit": number, "what": what, "when": datetime.now(UTC).isoformat(timespec="seconds")})
            for picture in self:
                after = tuple(_marked(layer, picture.layers, number) for layer in change(picture))
                if after != picture.layers:
                    changed += 1
                    row: dict[str, Json] = {"key": picture.key, "before": _layers_json(picture.layers)}
                    yield _line({**row, "after": _layers_json(after)})

        self._outputs.write_if_changed(_NEW, lines())
        if not changed:
            self._outputs.discard(_NEW)
        return changed

    def _move(self, number: int, *, to: int, last: int) -> Step:
        """Bring the captions to where `to` edits stand, over the edit `number`.

        The state first says what the captions will be, by their digest: whoever reads it after a kill can tell whether
        the one rename that counts was made.
        """
        changed, digest = 0, hashlib.sha256()

        def lines() -> Iterator[bytes]:
            nonlocal changed
            with _Record(self._record_path(number)) as record:
                for picture in self:
                    after = record.after(picture, forward=to == number)
                    changed += after is not None
                    line = next(caption_lines([picture if after is None else replace(picture, layers=after)]))
                    digest.update(line)
                    yield line

        self._outputs.write_if_changed(_NEXT, lines())
        self._save_state(self._state()._replace(last=last), moving={"to": to, "digest": digest.hexdigest()})
        os.replace(self._out / _NEXT, self._path)
        self._save_state(_State(to, max(last, to)))
        return Step(number, changed, sum(1 for _ in self.changes(number)) - changed)

    def _state(self) -> _State:
        try:
            data = json.loads((self._out / _STATE).read_bytes())
            state, moving = _State(int(data["applied"]), int(data["last"])), data.get("moving")
            if moving and moving["digest"] == self._digest():
                return _State(int(moving["to"]), max(state.last, int(moving["to"])))
        except FileNotFoundError:
            return _State()
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise OutputError(
                f"{self._out / _STATE} is damaged; remove the folder {HISTORY} to go on without the history of edits"
            ) from error
        return state

    def _save_state(self, state: _State, moving: dict[str, Json] | None = None) -> None:
        row: dict[str, Json] = {"applied": state.applied, "last": state.last, **({"moving": moving} if moving else {})}
        self._outputs.write(_STATE, _line(row))

    def _digest(self) -> str:
        with open(self._path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def _record_path(self, number: int) -> Path:
        return self._out / HISTORY / f"{number:04d}.jsonl"

    def _forget(self, last: int, *, after: int) -> None:
        for number in range(after + 1, last + 1):
            with suppress(OSError):  # it no longer counts, and the next edit of that number replaces it
                self._record_path(number).unlink()


class _Record:
    """What an edit changed, by key: only the places in the file are held in memory."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lines = {str(row.get("key")): (place, number) for place, number, row in _placed_rows(path) if number > 1}
        self._file: IO[bytes] | None = None

    def __enter__(self) -> "_Record":
        self._file = open(self._path, "rb")
        return self

    def __exit__(self, *exc: object) -> None:
        if self._file:
            self._file.close()

    def after(self, picture: Captioned, *, forward: bool) -> tuple[Layer, ...] | None:
        """The picture's layers after the edit (or before it); None where it is not as the edit met (or left) it."""
        if picture.key not in self._lines or not self._file:
            return None
        place, number = self._lines[picture.key]
        self._file.seek(place)
        fail = _Failure(self._path, number)
        _, before, after = _changed(_parsed(self._file.readline(), fail), fail)
        if not forward:
            before, after = after, before
        return after if picture.layers == before else None


def _marked(layer: Layer, before: tuple[Layer, ...], number: int) -> Layer:
    if any(layer.name == other.name and layer.text == other.text for other in before):
        return layer
    return replace(layer, origin={**layer.origin, "edit": number})


def _layers_json(layers: Iterable[Layer]) -> list[Json]:
    return [{"layer": layer.name, "text": layer.text, "origin": dict(layer.origin)} for layer in layers]


def _line(row: Mapping[str, Json]) -> bytes:
    text = json.dumps(row, ensure_ascii=False, allow_nan=False)
    return (text if text.isascii() else text.translate(_LINE_ENDS)).encode("utf-8", "replace") + b"\n"


class _Failure:
    """Raises InputError about one line of a file."""

    def __init__(self, path: Path, number: int) -> None:
        self._where = f"{path}, line {number}"

    def __call__(self, what: str) -> NoReturn:
        raise InputError(f"{self._where}: {what}; mend the line, or make the captions again")


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    return ((number, row) for _, number, row in _placed_rows(path))


def _placed_rows(path: Path) -> Iterator[tuple[int, int, dict[str, Any]]]:
    """(offset in bytes, line from 1, object) of every line that is not blank."""
    try:
        with open(path, "rb") as file:
            place = 0
            for number, line in enumerate(iter(lambda: file.readline(_LONGEST_LINE), b""), 1):
                fail = _Failure(path, number)
                if len(line) == _LONGEST_LINE:
                    fail(f"it is longer than {_LONGEST_LINE} bytes")
                if line.strip():
                    yield place, number, _parsed(line, fail)
                place += len(line)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error


def _parsed(line: bytes, fail: _Failure) -> dict[str, Any]:
    def refuse(constant: str) -> NoReturn:
        raise ValueError(f"{constant} is no number")

    try:
        text = line.decode("utf-8-sig")
        row = json.loads(text, parse_constant=refuse)
        if "\\u" in text:
            json.dumps(row, ensure_ascii=False).encode()  # an escape may be half of a surrogate pair
    except UnicodeError:
        fail("not UTF-8 text")
    except (ValueError, RecursionError) as error:
        fail(f"no JSON that can be read ({error})")
    if not isinstance(row, dict):
        fail("not a JSON object")
    return row


def _captioned(row: dict[str, Any], fail: _Failure) -> Captioned:
    _only(row, ("key", "image", "width", "height", "layers"), fail)
    return Captioned(
        key=_text(row, "key", fail, wanted=True),
        image=_inside(_text(row, "image", fail, wanted=True), fail),
        width=_side(row, "width", fail),
        height=_side(row, "height", fail),
        layers=_layers(row, "layers", fail),
    )


def _changed(row: dict[str, Any], fail: _Failure) -> Changed:
    return Changed(_text(row, "key", fail), _layers(row, "before", fail), _layers(row, "after", fail))


def _layers(row: dict[str, Any], name: str, fail: _Failure) -> tuple[Layer, ...]:
    found = row.get(name)
    if not isinstance(found, list) or not all(isinstance(layer, dict) for layer in found):
        fail(f"{name} must be a list of objects")
    return tuple(_layer(layer, fail) for layer in found)


def _layer(row: dict[str, Any], fail: _Failure) -> Layer:
    _only(row, ("layer", "text", "origin"), fail)
    origin = row.get("origin", {})
    if not isinstance(origin, dict):
        fail("origin must be an object")
    return Layer(_text(row, "layer", fail, wanted=True), _text(row, "text", fail), origin)


def _only(row: dict[str, Any], known: tuple[str, ...], fail: _Failure) -> None:
    for name in row:
        if name not in known:
            fail(f"the field {name!r} is not known; there are {', '.join(known)}")


def _text(row: dict[str, Any], name: str, fail: _Failure, *, wanted: bool = False) -> str:
    found = row.get(name)
    if not isinstance(found, str) or (wanted and not found):
        fail(f"{name} must be text" + (" that is not empty" if wanted else ""))
    return found


def _side(row: dict[str, Any], name: str, fail: _Failure) -> int:
    found = row.get(name)
    if type(found) is not int or found < 1:
        fail(f"{name} must be a whole number of pixels, 1 or more")
    return found


def _inside(path: str, fail: _Failure) -> str:
    if "\\" in path or "\0" in path or ".." in path.split("/") or path[0] == "/" or _DRIVE.match(path):
        fail(f"image {path!r} must be a path inside OUT, with /")
    return path
