"""Rows of an index while it is made: plain lists, one entry a picture."""

from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass(slots=True)
class Rows:
    """All lists are of one length."""

    images: list[str] = field(default_factory=list)  # relative, with `/`
    masks: list[str] = field(default_factory=list)  # likewise; of COCO `file.json#id`; "" where there is none
    splits: list[str] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def add(self, image: str, mask: str, *, split: str = "", group: str = "", problem: str = "") -> None:
        """One more row."""
        self.images.append(image)
        self.masks.append(mask)
        self.splits.append(split)
        self.groups.append(group)
        self.problems.append(problem)

    def __len__(self) -> int:
        return len(self.images)

    def mask_files(self) -> Iterator[str]:
        """The file that every row's mask is in; "" where there is none."""
        return (mask.rpartition("#")[0] if ".json#" in mask else mask for mask in self.masks)
