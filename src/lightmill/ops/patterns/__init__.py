"""Ten shadow patterns, as leaves or a blind cast them: drawn at random, and rendered from what was drawn.

Everything is laid out on an endless plane whose unit is the picture's diagonal and whose origin is the picture's
middle; a picture is a window on it. So a pattern is the same at every size and is not stretched by any aspect ratio.
"""

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from lightmill.ops.patterns.bars import curtain, fence, lattice, venetian, window
from lightmill.ops.patterns.leaves import branch, foliage
from lightmill.ops.patterns.params import Json, Params, Pattern, check_params, draw_pattern
from lightmill.ops.patterns.patches import cloud, screen, voronoi
from lightmill.ops.patterns.plane import Plane, resized

__all__ = ["Json", "Pattern", "draw_pattern", "render_pattern"]

_SHADOWS: dict[Pattern, Callable[[Params, Plane], NDArray[np.float32]]] = {
    Pattern.FOLIAGE: foliage,
    Pattern.VENETIAN: venetian,
    Pattern.WINDOW: window,
    Pattern.BRANCH: branch,
    Pattern.CURTAIN: curtain,
    Pattern.FENCE: fence,
    Pattern.VORONOI: voronoi,
    Pattern.LATTICE: lattice,
    Pattern.CLOUD: cloud,
    Pattern.SCREEN: screen,
}


def render_pattern(kind: Pattern | str, params: Mapping[str, Json], *, size_hw: tuple[int, int]) -> NDArray[np.float32]:
    """The shadow of a pattern: [H, W] float32, from 0 (fully lit) to 1 (fully shadowed).

    A pure function of its arguments: what `draw_pattern` gave, also after a way through JSON, renders to the same bytes
    each time. Raises ValueError, naming it, for an unknown kind, for a parameter that is missing, unknown, of another
    type or outside its range, and for a size below 1 x 1.

    >>> drawn = draw_pattern(Pattern.FENCE, np.random.default_rng(7))
    >>> render_pattern("fence", drawn, size_hw=(48, 64)).shape
    (48, 64)
    """
    kind = Pattern.of(kind)
    height, width = size_hw
    if height < 1 or width < 1:
        raise ValueError(f"a pattern is rendered at 1 x 1 px or more, got {height} x {width}")
    checked = check_params(kind, params)
    shadow = _SHADOWS[kind](checked, Plane.of(checked, size_hw))
    return resized(shadow, size_hw)
