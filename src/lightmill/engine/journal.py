"""What a run knows of its items: one SQLite file, written by whoever holds the run and by nobody else.

Rows and the mark that they are done land in one transaction. `synchronous=NORMAL` with a write-ahead log survives the
death of the process at any instant; a power cut may lose the last commits, never the consistency (`durable` waits for
the disk at every commit).
"""

import json
import os
import sqlite3
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from lightmill.engine.items import ENDS, MADE, Json, Settled, Status
from lightmill.errors import InputError, OutputError

STATE = ".lightmill"
_DONE = ", ".join(f"'{status}'" for status in sorted(ENDS))


@dataclass(frozen=True, kw_only=True)
class End:
    """How one item ended."""

    key: str
    status: Status
    stage: str = ""
    error_class: str = ""
    error: str = ""
    outputs: Mapping[str, tuple[str, int]] = field(default_factory=dict)  # label -> (path relative to OUT, bytes)
    meta: Mapping[str, Json] = field(default_factory=dict)
    previews: tuple[tuple[str, bytes], ...] = ()
    pixels: int = 0  # that were worked on, for the throughput; not kept


@dataclass(frozen=True, kw_only=True)
class Row:
    """An item as the journal has it."""

    key: str
    position: int
    number: int
    status: Status
    stage: str
    error_class: str
    error: str
    paths: dict[str, str]  # label -> path relative to OUT
    sizes: tuple[int, ...]  # of those files, in bytes
    meta: dict[str, Json]


@dataclass(frozen=True, kw_only=True)
class Input:
    """An INPUT of OUT. There are several only where all of them are tables; the first one's folder is the home."""

    file: str  # in full: which one it is
    place: str = ""  # the folder that its paths are told from, as it was first written; empty where that is not known
    title: str = ""  # what is given back is named after: no other INPUT of OUT has it
    described: str = ""
    command: Mapping[str, Any] = field(default_factory=dict)  # for `retry`


def _first_schema(db: sqlite3.Connection) -> None:
    db.execute(
        "CREATE TABLE items (key TEXT PRIMARY KEY, position INTEGER NOT NULL, number INTEGER NOT NULL, "
        "status TEXT NOT NULL, attempts INTEGER NOT NULL DEFAULT 0, stage TEXT NOT NULL DEFAULT '', "
        "error_class TEXT NOT NULL DEFAULT '', error TEXT NOT NULL DEFAULT '', "
        "outputs TEXT NOT NULL DEFAULT '{}', sizes TEXT NOT NULL DEFAULT '[]', meta TEXT NOT NULL DEFAULT '{}')"
    )
    db.execute("CREATE TABLE run (name TEXT PRIMARY KEY, value TEXT NOT NULL)")
    db.execute("CREATE TABLE sessions (id INTEGER PRIMARY KEY, record TEXT NOT NULL)")
    db.execute("CREATE TABLE warnings (text TEXT PRIMARY KEY)")
    db.execute(
        "CREATE TABLE previews (key TEXT, place INTEGER, label TEXT, jpeg BLOB, PRIMARY KEY (key, place)) WITHOUT ROWID"
    )
    db.execute("CREATE TABLE learnt (what TEXT PRIMARY KEY, size INTEGER NOT NULL)")


def _several_inputs(db: sqlite3.Connection) -> None:
    """Which INPUT an item came with first, and the name that it was given (empty: it was made before names were kept).

    The INPUTs themselves are a fact of the run, `inputs`; see `Journal.inputs` for runs that have none.
    """
    db.execute("ALTER TABLE items ADD COLUMN input INTEGER NOT NULL DEFAULT 0")
    db.execute("ALTER TABLE items ADD COLUMN name TEXT NOT NULL DEFAULT ''")


_MIGRATIONS: tuple[Callable[[sqlite3.Connection], None], ...] = (_first_schema, _several_inputs)

_COLUMNS = "key, position, number, status, stage, error_class, error, outputs, sizes, meta"
_END = (
    "UPDATE items SET status = ?, stage = ?, error_class = ?, error = ?, outputs = ?, sizes = ?, meta = ?, "
    "attempts = attempts + ? WHERE key = ?"
)


class Journal:
    """One open journal. Use it from one thread."""

    def __init__(self, db: sqlite3.Connection, path: Path) -> None:
        self._db = db
        self.path = path

    # --- opening -----------------------------------------------------------------------------------------------------

    @classmethod
    @contextmanager
    def open(cls, out: Path, *, durable: bool = False) -> Iterator["Journal"]:
        """The journal of the run in OUT, made where there is none. Raises OutputError where it cannot be written."""
        path = out / STATE / "journal.db"
        with _told(path):
            db = sqlite3.connect(path, isolation_level=None, timeout=10)
        try:
            with _told(path):
                db.execute("PRAGMA journal_mode=WAL")
                db.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
                db.execute("PRAGMA wal_autocheckpoint=256")
                _migrate(db)
            yield cls(db, path)
        finally:
            db.close()

    @staticmethod
    def is_in(out: Path) -> bool:
        """Whether OUT holds the journal of a run."""
        return (out / STATE / "journal.db").is_file()

    @classmethod
    @contextmanager
    def read(cls, out: Path) -> Iterator["Journal"]:
        """The journal of a run that may be at work, for reading. Raises InputError where there is none."""
        path = out / STATE / "journal.db"
        if not path.is_file():
            raise InputError(f"{out} holds no run of lightmill: there is no {STATE}/journal.db in it")
        db = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, isolation_level=None, timeout=10)
        try:
            yield cls(db, path)
        except sqlite3.DatabaseError as error:
            raise InputError(f"{path} cannot be read: {error}") from error
        finally:
            db.close()

    # --- the run -----------------------------------------------------------------------------------------------------

    def recall(self, name: str) -> Any:
        """A fact about the run, or None."""
        found = self._db.execute("SELECT value FROM run WHERE name = ?", (name,)).fetchone()
        return json.loads(found[0]) if found else None

    def remember(self, **facts: Json) -> None:
        with self._atomic():
            self._db.executemany(
                "INSERT OR REPLACE INTO run VALUES (?, ?)", [(name, json.dumps(value)) for name, value in facts.items()]
            )

    def inputs(self) -> list[Input]:
        """The INPUTs of OUT, in the order in which they came. A run of an earlier version knows the command of one."""
        found = self.recall("inputs")
        if found is None:
            command = self.recall("command")
            if command is None:
                return []
            file = str(command.get("input", ""))
            described = str(self.recall("source") or "")
            return [Input(file=file, title=Path(file).stem, described=described, command=command)]
        return [Input(**one) for one in found]

    def remember_inputs(self, inputs: Sequence[Input]) -> None:
        self.remember(inputs=[asdict(one) for one in inputs])

    # --- items -------------------------------------------------------------------------------------------------------

    def register(
        self, keys: Iterable[str], *, input: int = 0, name_of: Callable[[str, int], str] = lambda *_: ""
    ) -> None:
        """Make the journal's order that of `keys` (the source of that INPUT as it is now), and keep new items' names.

        New keys are added as pending, with the next free numbers, behind all items of earlier INPUTs. Keys that the
        source no longer has stay behind the one they followed when they ended, and are forgotten when they had not.
        Items that came with another INPUT stay where and as they are, whether or not `keys` has them too.
        """
        with self._atomic():
            others = {key for (key,) in self._db.execute("SELECT key FROM items WHERE input != ?", (input,))}
            keys = [key for key in keys if key not in others]
            known = self._keys_of(input)
            if known == keys:
                return
            if known:
                self._forget_all_but(keys, input)
                known = self._keys_of(input)
            old, reserved, free = set(known), self._reserved_numbers(), self._free_numbers()
            position = first = self._first_position(input)
            for position, key in enumerate(merged(known, keys), first):
                if key in old:
                    self._db.execute("UPDATE items SET position = ? WHERE key = ?", (position, key))
                else:
                    number = reserved[key] if key in reserved else next(free)
                    self._add(key, position, number, input=input, name=name_of(key, number))
            self._make_room(position + 1, input)

    def _keys_of(self, input: int) -> list[str]:
        query = "SELECT key FROM items WHERE input = ? ORDER BY position"
        return [key for (key,) in self._db.execute(query, (input,))]

    def _forget_all_but(self, keys: Iterable[str], input: int) -> None:
        self._db.execute("CREATE TEMP TABLE now (key TEXT PRIMARY KEY)")
        self._db.executemany("INSERT INTO now VALUES (?)", ((key,) for key in keys))
        self._forget_unfinished("input = ? AND key NOT IN (SELECT key FROM now)", (input,))
        self._db.execute("DROP TABLE now")

    def _forget_unfinished(self, where: str, values: tuple[object, ...]) -> None:
        """Inside a transaction. An item that was begun may have files: its number stays its own if it comes back."""
        gone = f"{where} AND status NOT IN ({_DONE})"
        begun = dict(self._db.execute(f"SELECT key, number FROM items WHERE {gone} AND attempts > 0", values))
        if begun:
            reserved = json.dumps(self._reserved_numbers() | begun)
            self._db.execute("INSERT OR REPLACE INTO run VALUES ('reserved_numbers', ?)", (reserved,))
        self._db.execute(f"DELETE FROM items WHERE {gone}", values)

    def _reserved_numbers(self) -> dict[str, int]:
        return self.recall("reserved_numbers") or {}

    def _free_numbers(self) -> Iterator[int]:
        (first,) = self._db.execute("SELECT coalesce(max(number) + 1, 0) FROM items").fetchone()
        reserved = set(self._reserved_numbers().values())
        return (number for number in count(first) if number not in reserved)

    def _first_position(self, input: int) -> int:
        query = "SELECT coalesce(max(position) + 1, 0) FROM items WHERE input < ?"
        return int(self._db.execute(query, (input,)).fetchone()[0])

    def _make_room(self, end: int, input: int) -> None:
        """Items of later INPUTs begin at position `end` or behind it."""
        (begin,) = self._db.execute("SELECT min(position) FROM items WHERE input > ?", (input,)).fetchone()
        if begin is not None and begin < end:
            self._db.execute("UPDATE items SET position = position + ? WHERE input > ?", (end - begin, input))

    def _add(self, key: str, position: int, number: int, *, input: int = 0, name: str = "") -> None:
        self._db.execute(
            "INSERT INTO items (key, position, number, status, input, name) VALUES (?, ?, ?, ?, ?, ?) "
            "ON CONFLICT (key) DO UPDATE SET position = excluded.position",
            (key, position, number, Status.PENDING, input, name),
        )

    def names(self, present: Collection[str], *, input: int) -> dict[str, str]:
        """Key -> the name it was given, of every item that may have files or get some.

        An item of that INPUT which it no longer has (it is not in `present`) counts only when something was made of it.
        """
        found = self._db.execute("SELECT key, name, status, input FROM items ORDER BY position")
        return {key: name for key, name, status, of in found if status in MADE or of != input or key in present}

    def numbers(self) -> Iterator[tuple[str, int]]:
        """(key, number) of every item, in any order."""
        yield from self._db.execute("SELECT key, number FROM items")

    def row(self, key: str) -> Row | None:
        found = self._db.execute(f"SELECT {_COLUMNS} FROM items WHERE key = ?", (key,)).fetchone()
        return _row(found) if found else None

    def manifest_lines(self) -> Iterator[str]:
        """A line of JSON for every item that ended, in the order of the source.

        Outputs and meta are in the journal as the manifest has them, and are not read and written anew.
        """
        query = (
            f"SELECT key, status, stage, error, outputs, meta FROM items WHERE status IN ({_DONE}) ORDER BY position"
        )
        for *texts, outputs, meta in self._db.execute(query):
            key, status, stage, error = (json.dumps(text, ensure_ascii=False) for text in texts)
            yield (
                f'{{"key": {key}, "status": {status}, "stage": {stage}, "error": {error}, '
                f'"outputs": {outputs}, "meta": {meta}}}\n'
            )

    def manifest_cells(self) -> Iterator[tuple[list[str], dict[str, str]]]:
        """The same for a table: [key, status, stage, error], and label -> path."""
        query = f"SELECT key, status, stage, error, outputs FROM items WHERE status IN ({_DONE}) ORDER BY position"
        for *cells, outputs in self._db.execute(query):
            yield cells, json.loads(outputs)

    def rows(self, *statuses: Status) -> Iterator[Row]:
        """All items that ended (or stand as told), in the order of the source."""
        wanted = ", ".join(f"'{status}'" for status in statuses) or _DONE
        for found in self._db.execute(f"SELECT {_COLUMNS} FROM items WHERE status IN ({wanted}) ORDER BY position"):
            yield _row(found)

    def output_labels(self) -> list[str]:
        """All labels of outputs, in the order in which the source comes to them."""
        query = (
            "SELECT o.key FROM items, json_each(items.outputs) o GROUP BY o.key ORDER BY min(items.position), min(o.id)"
        )
        return [label for (label,) in self._db.execute(query)]

    def output_count(self) -> int:
        (count,) = self._db.execute("SELECT count(*) FROM items, json_each(items.outputs)").fetchone()
        return int(count)

    def counts(self) -> dict[str, int]:
        """Status -> how many."""
        return dict(self._db.execute("SELECT status, count(*) FROM items GROUP BY status"))

    def failure_classes(self) -> dict[str, int]:
        """`stage:Class` -> how many failed so."""
        return dict(
            self._db.execute(
                "SELECT stage || ':' || error_class AS what, count(*) FROM items WHERE status = ? "
                "GROUP BY what ORDER BY count(*) DESC, what",
                (Status.FAILED,),
            )
        )

    def record(self, found: Iterable[tuple[str, int]], starts: Iterable[str], ends: Iterable[End]) -> None:
        """In one transaction: items that a streaming source came to (key, position), that were started, that ended."""
        with self._atomic():
            for key, position in found:
                self._add(key, position, position)
            started = set(starts)
            ends = list(ends)
            self._db.executemany(_END, [_end_values(end, started_now=end.key in started) for end in ends])
            started.difference_update(end.key for end in ends)
            self._db.executemany(
                "UPDATE items SET attempts = attempts + 1, status = ? WHERE key = ?",
                [(Status.RUNNING, key) for key in started],
            )
            for end in ends:
                if end.previews:
                    self._keep_previews(end)

    def _keep_previews(self, end: End) -> None:
        self._db.execute("DELETE FROM previews WHERE key = ?", (end.key,))
        self._db.executemany(
            "INSERT INTO previews VALUES (?, ?, ?, ?)",
            [(end.key, place, label, jpeg) for place, (label, jpeg) in enumerate(end.previews)],
        )

    def reopen(self, keys: Iterable[str]) -> None:
        """Take items up again: their outputs are gone, or a retry was asked for."""
        with self._atomic():
            self._db.executemany(
                "UPDATE items SET status = ?, stage = '', error_class = '', error = '' WHERE key = ?",
                [(Status.PENDING, key) for key in keys],
            )

    def settled_prefix(self, holds: Callable[[str, int], bool]) -> Settled | None:
        """The last item before which (itself included) everything has ended with its outputs in place."""
        last: Settled | None = None
        for found in self._db.execute(f"SELECT {_COLUMNS} FROM items ORDER BY position"):
            row = _row(found)
            if row.status not in ENDS or not outputs_hold(row, holds):
                break
            last = Settled(row.key, row.position, row.meta)
        return last

    def drop_unfinished(self, *, input: int = 0) -> None:
        """Forget items of that INPUT that a whole pass over the source did not meet again."""
        with self._atomic():
            self._forget_unfinished("input = ?", (input,))

    # --- the rest ----------------------------------------------------------------------------------------------------

    def add_session(self, record: Mapping[str, Json]) -> None:
        with self._atomic():
            self._db.execute("INSERT INTO sessions (record) VALUES (?)", (json.dumps(record),))

    def sessions(self) -> list[dict[str, Any]]:
        return [json.loads(record) for (record,) in self._db.execute("SELECT record FROM sessions ORDER BY id")]

    def set_warnings(self, warnings: Iterable[str]) -> None:
        with self._atomic():
            self._db.executemany("INSERT OR IGNORE INTO warnings VALUES (?)", [(text,) for text in warnings])

    def warnings(self) -> list[str]:
        return [text for (text,) in self._db.execute("SELECT text FROM warnings ORDER BY rowid")]

    def previews(self, most: int) -> list[tuple[str, list[tuple[str, bytes]]]]:
        """The contact sheet: (key, [(label, JPEG), …]) in the order of the source, evenly spread."""
        keys = [
            key
            for (key,) in self._db.execute(
                "SELECT DISTINCT p.key FROM previews p JOIN items i ON i.key = p.key ORDER BY i.position"
            )
        ]
        step = max(len(keys) / most, 1)
        chosen = [keys[int(i * step)] for i in range(min(most, len(keys)))]
        select = "SELECT label, jpeg FROM previews WHERE key = ? ORDER BY place"
        return [(key, self._db.execute(select, (key,)).fetchall()) for key in chosen]

    def learnt(self) -> dict[str, int]:
        return dict(self._db.execute("SELECT what, size FROM learnt"))

    def learn(self, sizes: Mapping[str, int]) -> None:
        with self._atomic():
            self._db.executemany("INSERT OR REPLACE INTO learnt VALUES (?, ?)", list(sizes.items()))

    @contextmanager
    def _atomic(self) -> Iterator[None]:
        with _told(self.path), self._db:  # commits, or rolls back on anything, Ctrl-C included
            self._db.execute("BEGIN IMMEDIATE")
            yield


def outputs_hold(row: Row, holds: Callable[[str, int], bool]) -> bool:
    """Whether every file that the row names is there in its size."""
    return row.status not in MADE or all(map(holds, row.paths.values(), row.sizes))


def merged(old: list[str], new: list[str]) -> Iterator[str]:
    """`new`, with what only `old` has behind the key that it followed there.

    >>> list(merged(["a", "b", "c"], ["a", "c", "d"]))
    ['a', 'b', 'c', 'd']
    """
    kept, followers = set(new), dict[str | None, list[str]]()
    anchor: str | None = None
    for key in old:
        if key in kept:
            anchor = key
        else:
            followers.setdefault(anchor, []).append(key)
    yield from followers.get(None, ())
    for key in new:
        yield key
        yield from followers.get(key, ())


def set_aside(out: Path) -> None:
    """Move the journal of an earlier run into a folder of its own, for `--fresh`."""
    state = out / STATE
    if not (state / "journal.db").exists():
        return
    number = 1
    while (place := state / f"before-{number}").exists():
        number += 1
    place.mkdir()
    for name in ("journal.db-wal", "journal.db-shm", "journal.db"):  # the log first: a journal never loses its log
        if (state / name).exists():
            os.replace(state / name, place / name)


def _migrate(db: sqlite3.Connection) -> None:
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if version > len(_MIGRATIONS):
        raise OutputError("this run was made by a newer lightmill: update lightmill, or choose another OUT")
    for number, migration in enumerate(_MIGRATIONS[version:], version + 1):
        with db:
            db.execute("BEGIN IMMEDIATE")
            migration(db)
            db.execute(f"PRAGMA user_version = {number}")


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """SQLite's errors in words that say what to do."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        full = "full" in str(error) or getattr(error, "sqlite_errorname", "") in ("SQLITE_FULL", "SQLITE_IOERR_WRITE")
        what = "the disk is full" if full else str(error)
        hint = "make room and give the same command again" if full else "choose another OUT, or use --fresh"
        raise OutputError(f"{what}: cannot write {path}; {hint}") from error


def _row(found: tuple[Any, ...]) -> Row:
    key, position, number, status, stage, error_class, error, outputs, sizes, meta = found
    return Row(
        key=key,
        position=position,
        number=number,
        status=Status(status),
        stage=stage,
        error_class=error_class,
        error=error,
        paths=json.loads(outputs),
        sizes=tuple(json.loads(sizes)),
        meta=json.loads(meta),
    )


def _end_values(end: End, *, started_now: bool) -> tuple[object, ...]:
    return (
        end.status,
        end.stage,
        end.error_class,
        end.error,
        _text({label: path for label, (path, _) in end.outputs.items()}),
        _text([size for _, size in end.outputs.values()]),
        _text(end.meta),
        int(started_now),
        end.key,
    )


def _text(value: object) -> str:
    return json.dumps(value, ensure_ascii=False) if value else "{}" if isinstance(value, Mapping) else "[]"
