"""Who plays a sample match: teams in kits, players who differ in number, hair, skin, size, shoes, socks and sleeves."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from lightmill.sample.match_body import Shape

Colour = tuple[int, int, int]  # sRGB levels


class Kit(NamedTuple):
    """What a team wears."""

    shirt: Colour
    trim: Colour
    digits: Colour


_HOME = (
    Kit((232, 230, 226), (30, 52, 120), (28, 44, 105)),
    Kit((236, 233, 225), (170, 30, 38), (160, 24, 34)),
    Kit((228, 232, 232), (24, 104, 78), (18, 88, 66)),
)
_AWAY = (
    Kit((150, 26, 36), (236, 226, 214), (240, 236, 228)),
    Kit((28, 46, 108), (226, 190, 60), (240, 238, 232)),
    Kit((34, 36, 42), (214, 96, 32), (236, 232, 226)),
)
_REFEREE = Kit((112, 116, 122), (24, 24, 28), (112, 116, 122))
_SKINS: tuple[Colour, ...] = ((218, 174, 144), (176, 124, 92), (128, 82, 58), (98, 62, 46))
_HAIRS: tuple[Colour, ...] = ((26, 22, 20), (58, 40, 28), (112, 78, 44), (190, 154, 92))
_STYLES, _STYLE_SHARES = ("bald", "short", "afro", "tall", "bun", "long"), (0.16, 0.34, 0.14, 0.12, 0.12, 0.12)
_SHOES: tuple[Colour, ...] = ((236, 236, 236), (30, 30, 34), (196, 40, 44))
WHITE, BLACK = (232, 232, 230), (32, 32, 36)


@dataclass(frozen=True)
class Look:
    """One person's body and clothes. Numbers differ within a team; a referee's is None."""

    team: int  # 0 home, 1 away, -1 a referee
    number: int | None
    shape: Shape
    skin: Colour
    hair: Colour
    shoes: Colour
    socks: Colour
    sock_high: float  # share of the shank
    sleeves: tuple[Colour | None, Colour | None]  # on the left forearm and elbow, on the right
    tights: Colour | None  # below the shorts
    headband: Colour | None
    beard: bool
    kit: Kit


def players_of(seed: int, count: int) -> list[Look]:
    """`count` players, home and away in turn. The first of a seed are the same whatever the count."""
    rng = np.random.default_rng([seed, 0x6B697473])
    kits = _HOME[rng.integers(len(_HOME))], _AWAY[rng.integers(len(_AWAY))]
    numbers = [rng.permutation(100), rng.permutation(100)]
    return [_player(np.random.default_rng([seed, 1, i]), i % 2, int(numbers[i % 2][i // 2]), kits[i % 2])
            for i in range(count)]  # fmt: skip


def referees_of(seed: int, count: int) -> list[Look]:
    """Referees, in grey and without numbers."""
    return [_player(np.random.default_rng([seed, 2, i]), -1, None, _REFEREE) for i in range(count)]


def _player(rng: np.random.Generator, team: int, number: int | None, kit: Kit) -> Look:
    height = float(np.clip(rng.normal(1.96, 0.085), 1.76, 2.16)) - (0.12 if team < 0 else 0)
    hair = _STYLES[rng.choice(len(_STYLES), p=_STYLE_SHARES)]
    build = float(np.clip(rng.normal(1.0, 0.07) + 0.25 * (height - 1.96), 0.87, 1.2))
    accent = (WHITE, BLACK, kit.trim)

    def worn(share: float) -> Colour | None:
        colour = accent[rng.integers(len(accent))]
        return colour if rng.random() < share and team >= 0 else None

    return Look(
        team=team,
        number=number,
        shape=Shape(height, build, hair),
        skin=_near(_SKINS[rng.integers(len(_SKINS))], rng),
        hair=_HAIRS[rng.choice(len(_HAIRS), p=(0.5, 0.28, 0.12, 0.10))],
        shoes=BLACK if team < 0 else _SHOES[rng.choice(len(_SHOES), p=(0.42, 0.38, 0.2))],
        socks=BLACK if team < 0 or rng.random() < 0.3 else WHITE,
        sock_high=float(rng.choice((0.25, 0.5, 0.85))),
        sleeves=(worn(0.16), worn(0.16)),
        tights=BLACK if team < 0 else worn(0.15),
        headband=worn(0.22) if hair in ("short", "afro", "long", "bun") else None,
        beard=bool(rng.random() < 0.3),
        kit=kit,
    )


def _near(colour: Colour, rng: np.random.Generator) -> Colour:
    r, g, b = np.clip(np.array(colour) + rng.normal(0, 4, 3), 0, 255).astype(int)
    return int(r), int(g), int(b)
