"""Small values that options are made of: sizes in pixels, amounts of memory, counts or shares."""

import re
from dataclasses import dataclass
from typing import Self

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}


@dataclass(frozen=True)
class Size:
    """Width and height in pixels, written `1920x1080`."""

    width: int
    height: int

    def __post_init__(self) -> None:
        if not (1 <= self.width <= 65500 and 1 <= self.height <= 65500):
            raise ValueError(f"a size is from 1x1 to 65500x65500, got {self}")

    @classmethod
    def parse(cls, text: str) -> Self:
        """>>> Size.parse("1920x1080")
        Size(width=1920, height=1080)
        """
        found = re.fullmatch(r"\s*(\d+)\s*[xX×]\s*(\d+)\s*", text)
        if not found:
            raise ValueError(f"a size is written WIDTHxHEIGHT, as in 1920x1080, got {text!r}")
        return cls(int(found[1]), int(found[2]))

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"


def parse_bytes(text: str) -> int:
    """An amount of memory: a number of bytes, or one with K, M, G, T (powers of 1000) or Ki, Mi, Gi, Ti (of 1024).

    >>> parse_bytes("1.5GB"), parse_bytes("512MiB")
    (1500000000, 536870912)
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]i?|)b?\s*", text.lower())
    if not found:
        raise ValueError(f"an amount of memory is written as in 800MB or 4GiB, got {text!r}")
    return int(float(found[1]) * _UNITS[found[2]])


@dataclass(frozen=True)
class Budget:
    """How many may fail: a count (`20`), or a share of all (`5%`)."""

    count: int | None = None
    share: float | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """>>> Budget.parse("5%")
        Budget(count=None, share=0.05)
        """
        found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(%?)\s*", text)
        if not found or (not found[2] and "." in found[1]) or (found[2] and float(found[1]) > 100):
            raise ValueError(f"a number of failures is written as in 20 or 5%, got {text!r}")
        return cls(share=float(found[1]) / 100) if found[2] else cls(count=int(found[1]))

    def allows(self, failed: int, ended: int, total: int | None) -> bool:
        """Whether the run may go on after `failed` of `ended` items (of `total`, where that is known).

        A share is judged against the whole run; while that is unknown, from the 20th ended item on.
        """
        if self.count is not None:
            return failed <= self.count
        if self.share is None:
            return True
        if total is not None:
            return failed <= self.share * total
        return ended < 20 or failed <= self.share * ended

    def __str__(self) -> str:
        return f"{self.count}" if self.share is None else f"{100 * self.share:g}%"
