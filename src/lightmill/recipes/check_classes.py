"""How much of each class the masks of a data set hold: what class weights are made from."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from lightmill.data.labels import IGNORE
from lightmill.engine.wording import count_of

Counts = Mapping[int, int]

_MOST_NAMED = 8  # classes in a line


@dataclass(frozen=True)
class Classes:
    """Of all masks that could be read."""

    names: Sequence[str]
    pixels: Counts  # class -> pixels
    pictures: Counts  # class -> pictures that show it
    shares: Mapping[int, float]  # class -> its share of the pixels of those pictures that are not ignored
    ignored: int  # pixels

    @classmethod
    def of(cls, maps: Iterable[Counts], names: Sequence[str]) -> "Classes":
        """maps: of every mask, class -> pixels, 255 for what is ignored; names: of the classes, by their numbers."""
        pixels, pictures, around = Counter[int](), Counter[int](), Counter[int]()
        ignored = 0
        for counts in maps:
            seen = {number: count for number, count in counts.items() if number != IGNORE}
            ignored += counts.get(IGNORE, 0)
            pixels.update(seen)
            pictures.update(seen.keys())
            around.update(dict.fromkeys(seen, sum(seen.values())))
        shares = {number: count / around[number] for number, count in pixels.items()}
        return cls(names, pixels, pictures, shares, ignored)

    def to_json(self) -> dict[str, Any]:
        """Pixels and pictures by class, and weights by median frequency (Eigen and Fergus 2015, section 6.3.2)."""
        middle = median(self.shares.values()) if self.shares else 0.0
        total = sum(self.pixels.values())
        found = [
            {
                "number": number,
                "name": name,
                "pixels": self.pixels.get(number, 0),
                "share": round(self.pixels.get(number, 0) / total, 9) if total else 0.0,
                "pictures": self.pictures.get(number, 0),
                "median_frequency_weight": round(middle / self.shares[number], 6) if number in self.shares else None,
            }
            for number, name in enumerate(self.names)
        ]
        return {"ignored_pixels": self.ignored, "classes": found}

    @property
    def said(self) -> str:
        """One line: how many there are, the rarest, and those that are nowhere."""
        total = sum(self.pixels.values())
        if not total:
            return "no mask holds any class"
        rarest = min(self.pixels, key=lambda number: self.pixels[number])
        share = 100 * self.pixels[rarest] / total
        found = count_of(len(self.pixels), "class", "classes")
        line = f"{found} in the masks, the rarest is {self.names[rarest]} with {share:.3g} % of the pixels"
        absent = [name for number, name in enumerate(self.names) if number not in self.pixels]
        if not absent:
            return line
        more = len(absent) - _MOST_NAMED
        left_out = f" and {more:,} more" if more > 0 else ""
        return f"{line}; nowhere: {', '.join(absent[:_MOST_NAMED])}{left_out}"
