"""Captioners that say what a test tells them to, through the same protocol as models of transformers."""

from collections.abc import Callable, Sequence

from lightmill.models.kinds import Answer, Ask, Image

Say = Callable[[Image, Ask], "Answer | str"]


class Scripted:
    """Says what `say` makes of a picture and a question; notes every question, and how often it was loaded."""

    on_device = True

    def __init__(self, say: Say, *, name: str = "test/scripted") -> None:
        self.name = name
        self.version = "1"
        self.asked: list[Ask] = []
        self.sizes: list[tuple[int, int]] = []  # (width, height) of the pictures
        self.loads = 0
        self._say = say

    def check(self, device: str) -> None:
        """It can always be had."""

    def load(self, device: str) -> None:
        self.loads += 1

    def unload(self) -> None:
        """There is nothing to unload."""

    def __call__(self, image: Sequence[Image], ask: Sequence[Ask]) -> list[Answer]:
        self.asked += ask
        self.sizes += [(picture.shape[1], picture.shape[0]) for picture in image]
        said = [self._say(picture, question) for picture, question in zip(image, ask, strict=True)]
        return [one if isinstance(one, Answer) else Answer(one) for one in said]
