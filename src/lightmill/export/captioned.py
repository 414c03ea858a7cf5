"""What the exports of captioned pictures share: texts and records of a picture, and the memory of what was made.

Every export goes once through the pictures and holds none of them: what it must know of earlier files lies in
`OUT/.lightmill/exports.db`, so memory does not grow with their number.
"""

import json
import os
import re
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from hashlib import blake2b
from typing import Final

from lightmill.engine.items import Json
from lightmill.engine.journal import STATE
from lightmill.engine.naming import fitted, printable
from lightmill.engine.outputs import Outputs, folded, writing
from lightmill.errors import NameCollision, OutputError
from lightmill.export.captions_file import MAIN_ORDER, Captioned, main_text

COLUMNS: Final = ("caption", "tags", "existing", "edited")
IMAGES: Final = "images"
MEMORY: Final = f"{STATE}/exports.db"

_DRIVE = re.compile(r"[A-Za-z]:")
_LINE_ENDS = str.maketrans({"\x85": "\\u0085", "\u2028": "\\u2028", "\u2029": "\\u2029"})  # str.splitlines cuts there


# --- texts -----------------------------------------------------------------------------------------------------------


def layer_texts(picture: Captioned) -> dict[str, str]:
    """Column -> text. The second caption of a picture is in the column `caption_2`, the third in `caption_3`."""
    texts: dict[str, str] = {}
    met: Counter[str] = Counter()
    for layer in picture.layers:
        met[layer.name] += 1
        texts[layer.name if met[layer.name] == 1 else f"{layer.name}_{met[layer.name]}"] = layer.text
    return texts


def record(
    picture: Captioned, *, columns: Sequence[str] = COLUMNS, order: Sequence[str] = MAIN_ORDER
) -> dict[str, str | int]:
    """All of a picture in one flat row whose columns and types are the same for every picture, as tables need them.

    `key`, `image`, `text` (the main one), one column a layer (empty where there is none), `width`, `height`, and
    `origin`: a JSON text, a list with one entry a layer.
    """
    texts = layer_texts(picture)
    origins: list[Json] = [{"layer": layer.name, **layer.origin} for layer in picture.layers]
    return {
        "key": picture.key,
        "image": picture.image,
        "text": main_text(picture, order),
        **{name: texts.get(name, "") for name in columns},
        "width": picture.width,
        "height": picture.height,
        "origin": json_text(origins),
    }


def one_line(text: str) -> str:
    r"""The text without line ends, for readers that take one line and drop the others.

    >>> one_line("A dog.\n\n  It runs. \r\n")
    'A dog. It runs.'
    """
    return " ".join(filter(None, map(str.strip, text.splitlines())))


def json_text(value: "Json | Mapping[str, Json]") -> str:
    """JSON on one line, in the letters of the text; no reader takes a letter of it for the end of the line."""
    return json.dumps(value, ensure_ascii=False).translate(_LINE_ENDS)


def utf8(text: str) -> bytes:
    """The bytes of a text; half a surrogate pair, which no reader would take, becomes `?`."""
    return text.encode("utf-8", "replace")


def in_pieces(lines: Iterable[str]) -> Iterator[bytes]:
    """Lines as bytes, in pieces worth a write."""
    held: list[str] = []
    size = 0
    for line in lines:
        held.append(line)
        size += len(line)
        if size > 1 << 16:
            yield utf8("".join(held))
            held, size = [], 0
    yield utf8("".join(held))


# --- paths -----------------------------------------------------------------------------------------------------------


def inside(path: str) -> str:
    """The path, if it cannot lead out of OUT nor into what the run keeps for itself; else OutputError."""
    parts = path.split("/")
    odd = "\\" in path or "\0" in path or _DRIVE.match(path) or parts[0] == STATE
    if odd or any(part in ("", ".", "..") for part in parts):
        raise OutputError(
            f"the picture {printable(path)!r} is not a path inside OUT; correct the line of captions.jsonl that has it"
        )
    return path


def below_images(image: str) -> str:
    """The picture's path in an export of its own: without the `images/` that it has in OUT."""
    return inside(image).removeprefix(f"{IMAGES}/")


def flat_name(path: str) -> str:
    """A path as one name, for readers that look into no sub-folders; one that has folders gets a hash of them.

    >>> flat_name("a.jpg"), flat_name("cats/a.jpg")
    ('a.jpg', 'cats_a-054623a4.jpg')
    """
    if "/" not in path:
        return path
    stem, suffix = os.path.splitext(path.replace("/", "_"))
    return fitted(f"{stem}-{short_hash(path)}{suffix}")


def short_hash(path: str) -> str:
    """Tells two paths apart whose names became the same."""
    return blake2b(path.encode(), digest_size=4).hexdigest()


def sidecar_path(image: str, suffix: str = ".txt") -> str:
    """Where readers look for the text of a picture: its own path, with another suffix."""
    return os.path.splitext(image)[0] + suffix


# --- memory ----------------------------------------------------------------------------------------------------------

_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS files (export TEXT, folded TEXT, path TEXT, image TEXT, key TEXT, kind TEXT, "
    "wrote TEXT, before TEXT, size INTEGER, changed INTEGER, seen INTEGER, PRIMARY KEY (export, folded)) WITHOUT ROWID"
)
_CLAIM = (
    "INSERT INTO files (export, folded, path, image, key, kind, seen) VALUES (?, ?, ?, ?, ?, ?, ?) "
    "ON CONFLICT DO UPDATE SET path = excluded.path, image = excluded.image, key = excluded.key, "
    "kind = excluded.kind, seen = excluded.seen"
)


class Made:
    """What one export has made in OUT, kept from run to run. Use it from one thread, one export at a time.

    Two pictures never get one file. What an earlier run made and this one does not is removed at the end, unless it was
    changed since: a trainer that reads whole folders would take it for a part of the data set.
    """

    def __init__(self, db: sqlite3.Connection, outputs: Outputs, export: str) -> None:
        self._db = db
        self._export = export
        self.outputs = outputs
        (last,) = db.execute("SELECT max(seen) FROM files WHERE export = ?", (export,)).fetchone()
        self._pass = (last or 0) + 1

    @classmethod
    @contextmanager
    def open(cls, outputs: Outputs, export: str) -> Iterator["Made"]:
        """The memory of that export, made where there is none. Raises OutputError where it cannot be used."""
        with writing(outputs.root / STATE):
            os.makedirs(outputs.root / STATE, exist_ok=True)
        with _opened(outputs) as db:
            db.execute("PRAGMA journal_mode=WAL")
            db.execute(f"PRAGMA synchronous={'FULL' if outputs.durable else 'NORMAL'}")
            db.execute(_SCHEMA)
            made = cls(db, outputs, export)
            db.execute("BEGIN")
            try:
                yield made
                made._remove_stale()
            finally:
                db.execute("COMMIT")  # an export that fails has made files as well

    def file(self, path: str, chunks: Iterator[bytes]) -> str:
        """Write a file that belongs to no single picture, unless it is the same already. Returns its path."""
        self._claim(path, key="", image=path, kind="file")
        self.outputs.write_if_changed(path, chunks)
        self._remember_state(path)
        self._commit()
        return path

    def link(self, picture: Captioned, path: str) -> None:
        """Give the picture another path. Raises NameCollision, and OutputError where the picture is gone."""
        self._claim(path, key=picture.key, image=inside(picture.image), kind="link")
        try:
            self.outputs.link(picture.image, path)
        except FileNotFoundError as error:
            raise missing(picture) from error
        self._remember_state(path)

    def picture(self, picture: Captioned) -> None:
        """The export speaks of the picture where it is: it belongs to it, and is never removed."""
        self._claim(inside(picture.image), key=picture.key, image=picture.image, kind="picture")

    def member(self, picture: Captioned, name: str) -> None:
        """The picture goes by that name into a file of the export. Raises NameCollision."""
        self._claim(name, key=picture.key, image=picture.image, kind="member")

    def text(self, picture: Captioned, path: str) -> tuple[str | None, str | None]:
        """The path is for the picture's text. Returns digests of what was written there, or was being written."""
        return self._claim(path, key=picture.key, image=picture.image, kind="text")

    def writing(self, path: str, *, wrote: str, before: str | None) -> None:
        """What is about to be written, and what is there until then: a kill between the two is no edit by hand."""
        self._remember_digests(path, wrote, before)
        self._commit()

    def written(self, path: str, *, wrote: str | None) -> None:
        """What is there now."""
        self._remember_digests(path, wrote, None)

    def _claim(self, path: str, *, key: str, image: str, kind: str) -> tuple[str | None, str | None]:
        row = self._db.execute(
            "SELECT image, wrote, before, seen FROM files WHERE export = ? AND folded = ?", (self._export, folded(path))
        ).fetchone()
        if row and row[3] == self._pass:
            raise NameCollision(
                f"{printable(row[0])} and {printable(image)} would share {printable(path)}; "
                "give one of them another name, or use --naming index"
            )
        self._db.execute(_CLAIM, (self._export, folded(path), path, image, utf8(key).decode(), kind, self._pass))
        return (row[1], row[2]) if row else (None, None)

    def _remember_state(self, path: str) -> None:
        size, changed = _state(self.outputs, path) or (None, None)
        self._db.execute(
            "UPDATE files SET size = ?, changed = ? WHERE export = ? AND folded = ?",
            (size, changed, self._export, folded(path)),
        )

    def _remember_digests(self, path: str, wrote: str | None, before: str | None) -> None:
        self._db.execute(
            "UPDATE files SET wrote = ?, before = ? WHERE export = ? AND folded = ?",
            (wrote, before, self._export, folded(path)),
        )

    def _commit(self) -> None:
        self._db.execute("COMMIT")
        self._db.execute("BEGIN")

    def _remove_stale(self) -> None:
        old = self._db.execute(
            "SELECT path, kind, wrote, before, size, changed FROM files WHERE export = ? AND seen <> ?",
            (self._export, self._pass),
        )
        for path, kind, wrote, before, size, changed in old:
            if kind == "text":
                found = read_text(self.outputs, path)
                own = found is not None and digest(found) in (wrote, before)
            else:
                own = kind != "picture" and _state(self.outputs, path) == (size, changed)
            if own:
                self.outputs.discard(path)
        self._db.execute("DELETE FROM files WHERE export = ? AND seen <> ?", (self._export, self._pass))


def made_files(outputs: Outputs, export: str) -> Iterator[tuple[str, str]]:
    """(path, kind) of all files that the export last made or spoke of, in the order of their names; none without it.

    Kinds: `file`, `link`, `picture` (one in its own place), `text` (is not there where a picture has none).
    """
    query = "SELECT path, kind FROM files WHERE export = ? AND kind <> 'member' ORDER BY folded"
    for path, kind in _rows(outputs, query, (export,)):
        yield str(path), str(kind)


def remembered_texts(outputs: Outputs, export: str) -> Iterator[tuple[str, str, tuple[str | None, str | None]]]:
    """(key, path, digests) of the texts that the export last wrote; see `Made.text`."""
    query = "SELECT key, path, wrote, before FROM files WHERE export = ? AND kind = 'text' ORDER BY folded"
    for key, path, wrote, before in _rows(outputs, query, (export,)):
        yield str(key), str(path), (wrote, before)


def read_text(outputs: Outputs, path: str) -> str | None:
    """What a text file says, whatever editor wrote it: UTF-8 or UTF-16 with its mark, else Windows' Western letters.

    Without the white space at its end; line ends are those of Unix. None where there is no file.
    """
    try:
        with open(outputs.root / path, "rb") as file:
            data = file.read()
    except (FileNotFoundError, NotADirectoryError):
        return None
    encodings = ("utf-16",) if data[:2] in (b"\xff\xfe", b"\xfe\xff") else ("utf-8-sig", "cp1252")
    for encoding in encodings:
        with suppress(UnicodeDecodeError):
            return normal(data.decode(encoding))
    return normal(data.decode("latin-1"))


def normal(text: str) -> str:
    """What stays the same when an editor opens and saves a text."""
    return text.replace("\r\n", "\n").replace("\r", "\n").rstrip()


def digest(text: str) -> str:
    """Tells texts apart that differ in more than an editor's habits."""
    return blake2b(utf8(normal(text)), digest_size=8).hexdigest()


def missing(picture: Captioned) -> OutputError:
    """The error of a picture that captions.jsonl has and OUT has not."""
    return OutputError(
        f"{printable(picture.image)} is in captions.jsonl, but there is no such file in OUT; "
        "give the command that made it again: it makes what is missing"
    )


@contextmanager
def _opened(outputs: Outputs) -> Iterator[sqlite3.Connection]:
    path = outputs.root / MEMORY
    try:
        db = sqlite3.connect(path, isolation_level=None, timeout=10)
        try:
            yield db
        finally:
            db.close()
    except sqlite3.Error as error:
        raise OutputError(
            f"{path} cannot be used: {error}; where it is damaged, remove it and give the same command again "
            "(texts that differ from the captions then count as edited by hand)"
        ) from error


def _rows(outputs: Outputs, query: str, values: tuple[str, ...]) -> Iterator[tuple[str | None, ...]]:
    if not (outputs.root / MEMORY).is_file():
        return
    with _opened(outputs) as db:
        yield from db.execute(query, values)


def _state(outputs: Outputs, path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(outputs.root / path)
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns
