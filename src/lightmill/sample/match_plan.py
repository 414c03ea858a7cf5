"""What is decided about a sample match before anything is drawn: who there is, who plays when, what is random."""

import math
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property

import numpy as np

from lightmill.errors import UsageError
from lightmill.sample.match_court import Hall
from lightmill.sample.match_frame import Person
from lightmill.sample.match_looks import Look, players_of, referees_of
from lightmill.sample.match_play import Session, play
from lightmill.types import Size

REFEREES = 2
_SIZE = Size(1920, 1080)


class Stream(IntEnum):
    """What random numbers are for."""

    PLAY = 10
    CAMERA = 11
    NOISE = 12
    LIGHT = 13
    ROWS = 14
    LINEUP = 15
    LABELS = 16
    SLIPS = 17


@dataclass(frozen=True, kw_only=True)
class Match:
    """All that decides a match. Equal ones are equal in every pixel.

    Raises UsageError for numbers that make no match.
    """

    players: int = 30
    unknown: int = 8
    quarters: int = 4
    sessions: int = 25  # a quarter
    frames: int = 10  # a session
    size: Size = _SIZE
    seed: int = 0
    players_per_frame: int = 10
    dirt: bool = True

    def __post_init__(self) -> None:
        known = self.players - self.unknown
        if not (self.unknown >= 0 and known >= 2 and self.players <= 200):
            raise UsageError(
                f"a match has up to 200 players, at least 2 of them known, got players={self.players} and "
                f"unknown={self.unknown}"
            )
        if self.quarters < 2:
            raise UsageError(f"a match has at least 2 quarters, as the last one is the test, got {self.quarters}")
        if min(self.sessions, self.frames, self.players_per_frame) < 1:
            raise UsageError(
                f"sessions, frames and players_per_frame are 1 or more, got {self.sessions}, {self.frames} and "
                f"{self.players_per_frame}"
            )
        if min(self.size.width, self.size.height) < 64:
            raise UsageError(f"the pictures of a match are 64x64 or larger, got {self.size}")

    @property
    def known(self) -> int:
        """How many players are in the training."""
        return self.players - self.unknown

    @cached_property
    def looks(self) -> list[Look]:
        """Of all players: home and away in turn, the unknown last."""
        return players_of(self.seed, self.players)

    @cached_property
    def numbers(self) -> list[int]:
        """What each player is called in the tables: neighbours in `looks` have nothing in common there."""
        rng = self.stream(Stream.LABELS)
        return [*rng.permutation(self.known).tolist(), *(self.known + rng.permutation(self.unknown)).tolist()]

    @cached_property
    def people(self) -> list[Person]:
        """Players and referees, ready to draw."""
        return [Person.of(look) for look in (*self.looks, *referees_of(self.seed, REFEREES))]

    @cached_property
    def hall(self) -> Hall:
        """Where it is played."""
        return Hall.of(self.seed)

    def stream(self, purpose: Stream, *of: int) -> np.random.Generator:
        """Random numbers of their own for a purpose, a quarter, a session, ...: who draws first changes nothing."""
        return np.random.default_rng([self.seed, purpose, *of])

    def lineups(self, quarter: int) -> list[list[int]]:
        """Who plays in each session, home first: those who have played least, so that all come on."""
        rng = self.stream(Stream.LINEUP, quarter)
        there = self.players if quarter == self.quarters - 1 else self.known
        teams = [np.arange(team, there, 2) for team in (0, 1)]
        wanted = math.ceil(self.players_per_frame / 2), self.players_per_frame // 2
        played = np.zeros(there)
        lineups = []
        for _ in range(self.sessions):
            tired = played + rng.random(there)
            lineup = [i for team, size in zip(teams, wanted, strict=True) for i in team[np.argsort(tired[team])][:size]]
            played[lineup] += 1
            lineups.append([int(i) for i in lineup])
        return lineups

    def session(self, quarter: int, session: int) -> Session:
        """How people move in it: those of its lineup in its order, then the referees."""
        lineup = self.lineups(quarter)[session]
        home = sum(i % 2 == 0 for i in lineup)
        rng = self.stream(Stream.PLAY, quarter, session)
        return play(home, len(lineup) - home, REFEREES, frames=self.frames, rng=rng)
