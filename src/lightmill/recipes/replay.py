"""Metadata read back: the picture it tells of, the options, the light, and what its files were."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightmill.engine.items import Item, Json, Source
from lightmill.engine.journal import Journal
from lightmill.errors import InputError, RunError
from lightmill.ops.lights import Light
from lightmill.recipes.lit_files import digest
from lightmill.sources import SourceOptions, open_source
from lightmill.sources.files import FileRef

_NEEDED = ("lightmill", "recipe", "input", "picture", "options", "light", "models", "files_blake2b")


@dataclass(frozen=True)
class Record:
    """What a metadata.json says."""

    path: Path
    version: str  # of the Lightmill that wrote it
    input: Path
    key: str
    picture: Path | None  # where the picture lay, if it was a file of its own
    pixels_digest: str
    options: Mapping[str, Any]
    light: Light
    models: Mapping[str, Json]
    digests: Mapping[str, str]  # label -> of the file

    @property
    def config(self) -> dict[str, Json]:
        """What tells this replay from others: each has an OUT of its own."""
        return {"replay": self.path.name, "light": digest(json.dumps(self.light.to_json()).encode())[:8]}

    def source(self, options: SourceOptions) -> Source:
        """The one picture. Raises InputError where it is gone."""
        if self.picture is not None:
            if not self.picture.is_file():
                raise InputError(f"the picture that {self.path} tells of is gone: {self.picture}")
            ref = FileRef(str(self.picture), self.key)
            return _One(Item(self.key, ref), described=f"picture {self.picture}", streams=False)
        whole = open_source(self.input, options)
        for item in whole.items():
            if item.key == self.key:
                return _One(item, described=f"{item.key} of {whole.described}", streams=whole.streams)
        raise InputError(f"{self.input} no longer holds {self.key}, which {self.path} tells of")


class _One:
    """One item of a source, under the key that it has there: its mask is found by it."""

    def __init__(self, item: Item, *, described: str, streams: bool) -> None:
        self._item = item
        self.described = described
        self.warnings: list[str] = []
        self.streams = streams

    def items(self, after: object = None) -> Any:
        if after is None:
            yield self._item

    def estimated_count(self) -> int:
        return 1


def read_record(path: Path) -> Record:
    """Raises InputError for anything but a metadata.json of relight."""
    try:
        found = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise InputError(f"{path} is no JSON; give a <name>_metadata.json that relight wrote") from error
    missing = [name for name in _NEEDED if not isinstance(found, dict) or name not in found]
    if missing or found["recipe"] != "relight":
        raise InputError(f"{path} is no metadata of relight: it says no {', '.join(missing) or 'relight'}")
    picture = found["picture"]
    try:
        return Record(
            path=path,
            version=str(found["lightmill"]),
            input=Path(found["input"]),
            key=str(picture["key"]),
            picture=Path(picture["path"]) if picture["path"] else None,
            pixels_digest=str(picture["pixels_blake2b"]),
            options=dict(found["options"]),
            light=Light.from_json(found["light"]),
            models=dict(found["models"]),
            digests=dict(found["files_blake2b"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} is damaged, or of another release of Lightmill: {error}") from error


def compare(record: Record, out: Path) -> str:
    """That every file came out as recorded, in words. Raises RunError where one did not, with the likely reason."""
    with Journal.read(out) as journal:
        row = next(row for row in journal.rows() if row.key == record.key)
    if not row.paths:
        raise RunError(f"the picture could not be made again: {row.error}")
    made = {label: digest((out / path).read_bytes()) for label, path in row.paths.items() if label != "metadata"}
    differ = [label for label, value in made.items() if record.digests.get(label) not in (None, value)]
    if not differ:
        return f"made again, byte for byte: {', '.join(made)}"
    raise RunError(
        f"{', '.join(differ)} came out otherwise than {record.path.name} says; {_why(record, out, row.paths, differ)}"
    )


def _why(record: Record, out: Path, paths: Mapping[str, str], differ: Sequence[str]) -> str:
    now = json.loads((out / paths["metadata"]).read_text("utf-8"))
    if now["picture"]["pixels_blake2b"] != record.pixels_digest:
        return "the picture itself has changed since"
    if "mask" in differ and record.options.get("masks"):
        return "its mask has changed since"
    if now["models"] != record.models:
        return f"it was made with {_models(record.models)}, and here are {_models(now['models'])}"
    if now["lightmill"] != record.version:
        return f"it was made by Lightmill {record.version}, and this is {now['lightmill']}"
    return "light was worked out on another device or processor: the CPU's bytes are only the CPU's"


def _models(models: Mapping[str, Any]) -> str:
    return ", ".join(f"{about['model']} {about['version']}" for about in models.values())
