"""Decomposers that need no weights: `lightmill.ops.albedo` behind the protocol of models."""

from collections.abc import Callable, Sequence
from typing import ClassVar

from lightmill import __version__
from lightmill.models.kinds import Decomposer, Image, Intrinsics, Mask
from lightmill.ops.albedo import Parts, lab, msr, retinex
from lightmill.ops.srgb import to_linear


class _Builtin:
    """One picture at a time on the CPU; nothing is loaded, and nothing can be missing."""

    name: ClassVar[str]
    take_apart: ClassVar[Callable[..., Parts]]
    version = __version__
    on_device = False

    def check(self, device: str) -> None:
        """It can always be had."""

    def load(self, device: str) -> None:
        """There is nothing to load."""

    def unload(self) -> None:
        """Nothing was loaded."""

    def __call__(self, image: Sequence[Image], mask: Sequence[Mask | None]) -> list[Intrinsics]:
        """uint8 [H, W, 3] sRGB each, with a mask [H, W] (128 and more counts) or None for the whole picture.

        picture = albedo * shading in linear light but for rounding, without a residual; the conventions are those of
        `lightmill.ops.albedo`. Raises ValueError where the two lists or an image and its mask do not match.
        """
        pairs = zip(image, mask, strict=True)
        return [Intrinsics(*self.take_apart(to_linear(pixels), mask=counts)) for pixels, counts in pairs]


class RetinexDecomposer(_Builtin):
    """Colour Retinex (Grosse et al. 2009): grey light that changes slowly, albedo that jumps."""

    name = "builtin:retinex"
    take_apart = staticmethod(retinex)


class MultiScaleDecomposer(_Builtin):
    """Multi-scale Retinex (Jobson et al. 1997), for comparison: no estimate of albedo."""

    name = "builtin:msr"
    take_apart = staticmethod(msr)


class LightnessDecomposer(_Builtin):
    """Lightness over its bilateral blur, for comparison: no estimate of albedo."""

    name = "builtin:lab"
    take_apart = staticmethod(lab)


BUILTIN: dict[str, type[Decomposer]] = {
    each.name: each for each in (RetinexDecomposer, MultiScaleDecomposer, LightnessDecomposer)
}
