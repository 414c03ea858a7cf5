"""Surfaces of the people of a sample match, unrolled: skin, hair, faces, kits with numbers."""

import math
from collections.abc import Callable
from functools import partial

import cv2
import numpy as np
from numpy.typing import NDArray

from lightmill.ops.srgb import to_linear
from lightmill.sample.match_body import PARTS
from lightmill.sample.match_looks import BLACK, WHITE, Colour, Look
from lightmill.sample.match_raster import Paint

Picture = NDArray[np.uint8]  # [rows, columns, 3] sRGB; the first row is the part's low end, the middle column is ahead

_TRUNK_PX = (150, 320)  # up the torso, around it
_LIMB_PX = (48, 48)
_HEAD_PX = (64, 96)
_DIGIT_M = 0.235


def paint_of(look: Look) -> Paint:
    """The surfaces of a player's parts, in the order of PARTS."""
    return Paint.of([to_linear(_painter(name)(look)) for name in PARTS])


def _painter(part: str) -> Callable[[Look], Picture]:
    kind, _, side = part.partition("_")
    return partial(_forearm, side="lr".index(side)) if kind in ("elbow", "forearm") else _PAINTED[kind]


def _plain(colour: Colour, size: tuple[int, int] = _LIMB_PX) -> Picture:
    return np.full((*size, 3), colour, np.uint8)


def _torso(look: Look) -> Picture:
    """The shirt, with its number ahead and behind."""
    picture = _plain(look.kit.shirt, _TRUNK_PX)
    wide = _TRUNK_PX[1]
    for side in (wide // 4, 3 * wide // 4):  # under the arms
        picture[:, side - 9 : side + 9] = look.kit.trim
    if look.number is not None:
        for middle in (wide // 2, wide):
            _print_number(picture, look, middle)
    return picture


def _print_number(picture: Picture, look: Look, middle: int) -> None:
    """Print the number around a column; rows go up the body."""
    high, wide = _TRUNK_PX
    body_m = 0.235 * look.shape.height_m
    around_m = math.pi * 0.092 * look.shape.height_m * look.shape.build * (1 + 0.68)
    block = digits(str(look.number))
    tall = round(high * _DIGIT_M / body_m)
    broad = round(wide * _DIGIT_M / around_m * block.shape[1] / block.shape[0])
    cover = np.asarray(cv2.resize(block, (broad, tall), interpolation=cv2.INTER_AREA), np.float32)[::-1, :, None] / 255
    rows = slice(round(0.54 * high) - tall // 2, round(0.54 * high) - tall // 2 + tall)
    columns = (np.arange(broad) + middle - broad // 2) % wide
    under = picture[rows, columns].astype(np.float32)
    picture[rows, columns] = np.rint(under + cover * (np.array(look.kit.digits) - under))


def digits(text: str) -> Picture:
    """[100, W] 0..255: block digits, cut close."""
    drawn = []
    for digit in text:
        canvas = np.zeros((140, 120), np.uint8)
        cv2.putText(canvas, digit, (20, 115), cv2.FONT_HERSHEY_SIMPLEX, 3.9, 255, 19, cv2.LINE_AA)
        x, y, w, h = cv2.boundingRect(canvas)
        one = cv2.resize(canvas[y : y + h, x : x + w], (28 if digit == "1" else 62, 100), interpolation=cv2.INTER_AREA)
        drawn += [np.asarray(one, np.uint8), np.zeros((100, 12), np.uint8)]
    return np.concatenate(drawn[:-1], axis=1)


def _yoke(look: Look) -> Picture:
    """The shoulders, from right to left: skin beside the straps, a neck hole between them."""
    picture = _plain(look.kit.shirt, _HEAD_PX)
    rows, columns = _HEAD_PX
    bare = look.skin if look.team >= 0 else look.kit.shirt
    for strap, colour in ((0.20, look.kit.trim), (0.155, bare)):
        picture[: round(strap * rows)] = picture[rows - round(strap * rows) :] = colour
    neck = slice(round(0.36 * rows), round(0.64 * rows))
    picture[neck, : columns // 5] = picture[neck, columns - columns // 5 :] = look.skin  # its x points down
    return picture


def _pelvis(look: Look) -> Picture:
    picture = _plain(BLACK if look.team < 0 else look.kit.shirt)
    picture[round(0.8 * len(picture)) :] = look.kit.trim
    return picture


def _shorts(look: Look) -> Picture:
    picture = _plain(BLACK if look.team < 0 else look.kit.shirt)
    if look.team >= 0:
        picture[round(0.88 * len(picture)) :] = look.kit.trim
    return picture


def _thigh(look: Look) -> Picture:
    return _plain(look.tights or look.skin)


def _shank(look: Look) -> Picture:
    """From the knee down: skin or tights, then the sock."""
    picture = _thigh(look)
    picture[round((1 - look.sock_high) * len(picture)) :] = look.socks
    return picture


def _foot(look: Look) -> Picture:
    """From heel to toe; the front is up."""
    picture = _plain(look.shoes)
    rows, columns = _LIMB_PX
    picture[:, : columns // 6] = picture[:, columns - columns // 6 :] = WHITE if sum(look.shoes) < 600 else (150,) * 3
    picture[round(0.1 * rows) : round(0.45 * rows), 2 * columns // 5 : 3 * columns // 5] = look.socks
    return picture


def _shoulder(look: Look) -> Picture:
    return _plain(look.skin if look.team >= 0 else look.kit.shirt)


def _arm(look: Look) -> Picture:
    picture = _plain(look.skin)
    if look.team < 0:
        picture[: round(0.7 * len(picture))] = look.kit.shirt
    return picture


def _forearm(look: Look, *, side: int) -> Picture:
    return _plain(look.sleeves[side] or look.skin)


def _skin(look: Look) -> Picture:
    return _plain(look.skin)


def _hair(look: Look) -> Picture:
    return _plain(look.hair, _HEAD_PX)


def _head(look: Look) -> Picture:
    """The face is in the middle column; eyes, mouth and what grows."""
    rows, columns = _HEAD_PX
    picture = _plain(look.skin, _HEAD_PX)
    up = (np.arange(rows) + 0.5)[:, None] / rows
    round_ = np.abs((np.arange(columns) + 0.5)[None, :] / columns - 0.5)  # 0 ahead, 0.5 behind
    dark = tuple(int(0.55 * level) for level in look.skin)
    if look.beard:
        picture[(up < 0.36) & (up > 0.08) & (round_ < 0.27)] = look.hair
    picture[(np.abs(up - 0.285) < 0.02) & (round_ < 0.065)] = dark if not look.beard else (150, 90, 84)
    picture[(up > 0.36) & (up < 0.5) & (round_ < 0.028)] = tuple(int(0.86 * level) for level in look.skin)
    picture[(np.abs(up - 0.53) < 0.028) & (np.abs(round_ - 0.085) < 0.036)] = (26, 20, 18)
    picture[(np.abs(up - 0.61) < 0.018) & (np.abs(round_ - 0.085) < 0.055)] = look.hair
    if look.shape.hair != "bald":
        line = np.interp(round_, (0, 0.14, 0.22, 0.3, 0.5), (0.80, 0.76, 0.52, 0.42, 0.22))
        picture[up > line] = look.hair
    if look.headband is not None:
        picture[(up > 0.68) & (up < 0.80) & (round_ <= 0.5)] = look.headband
    return picture


_PAINTED: dict[str, Callable[[Look], Picture]] = {
    "pelvis": _pelvis, "torso": _torso, "yoke": _yoke, "neck": _skin, "head": _head, "hair": _hair, "shorts": _shorts,
    "thigh": _thigh, "knee": _thigh, "shank": _shank, "foot": _foot, "shoulder": _shoulder, "arm": _arm, "hand": _skin,
}  # fmt: skip
