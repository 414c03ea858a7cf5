"""WebDataset: shards in TAR format, each sample a picture, its text and its record in three files of one name.

Names as all readers take them (`webdataset`, `datasets`, torchdata, DALI): plain ASCII, no dot before the suffix, no
folder, not beginning with `_`. Headers are USTAR and the same on every machine.
"""

import os
import re
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from lightmill.engine.outputs import Outputs
from lightmill.errors import UsageError
from lightmill.export.captioned import COLUMNS, Made, below_images, json_text, missing, record, short_hash, utf8
from lightmill.export.captions_file import MAIN_ORDER, Captioned, main_text

FOLDER: Final = "webdataset"
_BLOCK, _RECORD = 512, 10_240
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_ODD = re.compile(r"[^A-Za-z0-9_-]+")


class _Sample(NamedTuple):
    key: str
    picture: bytes
    suffix: str
    text: bytes
    record: bytes

    @property
    def size(self) -> int:
        """In the shard, headers and all."""
        return sum(_BLOCK + len(data) + -len(data) % _BLOCK for data in (self.picture, self.text, self.record))


def export_webdataset(
    outputs: Outputs,
    pictures: Iterable[Captioned],
    *,
    per_shard: int = 10_000,
    shard_bytes: int = 1 << 30,
    columns: Sequence[str] = COLUMNS,
    order: Sequence[str] = MAIN_ORDER,
) -> list[str]:
    """`webdataset/shard-000000.tar`, …: the next one begins after `per_shard` pictures or before `shard_bytes` bytes.

    A picture that is larger than that has a shard of its own. Members: `name.jpg` (or .png, .webp), `name.txt` (the
    main text, empty where there is none), `name.json` (`captioned.record`). A name that had to be changed has a hash
    of the picture's path; the key is in the record. Returns the shards.

    Raises UsageError for shards of nothing; NameCollision; OutputError.
    """
    if per_shard < 1 or shard_bytes < 1:
        raise UsageError(f"a shard holds 1 picture and 1 byte or more, not {per_shard} and {shard_bytes}")
    shards: list[str] = []
    with Made.open(outputs, FOLDER) as made:
        samples = _Shards(_samples(made, pictures, columns, order), per_shard=per_shard, shard_bytes=shard_bytes)
        while samples.has_more:
            shards.append(made.file(f"{FOLDER}/shard-{len(shards):06d}.tar", samples.next_shard()))
    return shards


class _Shards:
    """Cuts samples into shards; holds one sample that did not fit."""

    def __init__(self, samples: Iterator[_Sample], *, per_shard: int, shard_bytes: int) -> None:
        self._samples = samples
        self._waiting = next(samples, None)
        self._per_shard = per_shard
        self._shard_bytes = shard_bytes

    @property
    def has_more(self) -> bool:
        return self._waiting is not None

    def next_shard(self) -> Iterator[bytes]:
        """The bytes of the next shard."""
        count, size = 0, 0
        while sample := self._waiting:
            if count == self._per_shard or (count and size + sample.size > self._shard_bytes):
                break
            yield from _members(sample)
            count, size = count + 1, size + sample.size
            self._waiting = next(self._samples, None)
        yield bytes(2 * _BLOCK + -(size + 2 * _BLOCK) % _RECORD)  # two empty blocks, and the last record is a whole one


def _samples(
    made: Made, pictures: Iterable[Captioned], columns: Sequence[str], order: Sequence[str]
) -> Iterator[_Sample]:
    for picture in pictures:
        key = _key(picture.image)
        made.member(picture, f"{FOLDER}/{key}")
        try:
            with open(made.outputs.root / picture.image, "rb") as file:
                data = file.read()
        except FileNotFoundError as error:
            raise missing(picture) from error
        yield _Sample(
            key=key,
            picture=data,
            suffix=os.path.splitext(picture.image)[1].lower().replace(".jpeg", ".jpg"),
            text=utf8(main_text(picture, order)),
            record=utf8(json_text(record(picture, columns=columns, order=order))),
        )


def _members(sample: _Sample) -> Iterator[bytes]:
    for suffix, data in ((sample.suffix, sample.picture), (".txt", sample.text), (".json", sample.record)):
        header = tarfile.TarInfo(sample.key + suffix)
        header.size = len(data)
        yield header.tobuf(tarfile.USTAR_FORMAT)
        yield data
        yield bytes(-len(data) % _BLOCK)


def _key(image: str) -> str:
    """The sample's name: the picture's, where all readers take it.

    >>> _key("images/dog_1.jpg"), _key("images/a.b/dog 1.jpg")
    ('dog_1', 'a_b_dog_1-1b55dd7f')
    """
    stem = os.path.splitext(below_images(image))[0]
    if _PLAIN.fullmatch(stem):
        return stem
    plain = _ODD.sub("_", stem).strip("_-")[:48]
    return f"{plain}-{short_hash(image)}" if plain else short_hash(image)
