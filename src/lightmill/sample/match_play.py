"""How people move in one session of a sample match: a small simulation, smooth in time.

Attackers run from spot to spot around a hoop, defenders keep between them and it, all keep apart; now and then both
teams run to the other end.
"""

import math
from dataclasses import dataclass

import numpy as np

from lightmill.sample.match_body import Moment
from lightmill.sample.match_camera import Reals
from lightmill.sample.match_court import HOOP_X_M, LENGTH_M, WIDTH_M

FRAMES_PER_S = 5
_STEPS = 10  # of the simulation in a frame
_WARM_UP_S = 2.0
_APART_M = 0.85
_BALL_M = 0.122


@dataclass(frozen=True)
class Session:
    """A short run of consecutive frames."""

    moments: list[list[Moment]]  # [frame][person]: home, away, referees
    balls: list[tuple[float, float, float]]  # [frame] m
    middle_x: float  # m, where the play is


def play(home: int, away: int, referees: int, *, frames: int, rng: np.random.Generator) -> Session:
    """`home` and `away` players and referees over `frames` frames, FRAMES_PER_S of them a second."""
    return _Play(home, away, referees, rng).run(frames)


class _Play:
    """The state of all people: rows of arrays."""

    def __init__(self, home: int, away: int, referees: int, rng: np.random.Generator) -> None:
        self._rng = rng
        self._count = home + away + referees
        attacking = rng.random() < 0.5
        at_home, at_away = np.arange(home), home + np.arange(away)
        self._attack, self._defence = (at_home, at_away) if attacking else (at_away, at_home)
        self._referees = home + away + np.arange(referees)
        self._side = 1.0 if rng.random() < 0.5 else -1.0
        self._shift = 0.0  # of all spots, towards the other end
        self._runs = rng.random() < 0.3  # to the other end
        self.at = self._spots()
        self._goal = self.at.copy()
        self._velocity = np.zeros((self._count, 2))
        self._heading = rng.uniform(-math.pi, math.pi, self._count)
        self._phase = rng.uniform(0, 2 * math.pi, self._count)
        self._pace = rng.uniform(1.6, 4.0, self._count)
        self._until = rng.uniform(0, 1.5, self._count)
        self._moods = rng.uniform(0, 2 * math.pi, (2, self._count)), rng.uniform(0.5, 1.6, (2, self._count))
        self._carrier = int(rng.choice(self._attack)) if len(self._attack) else 0
        self._time = 0.0

    def _spots(self) -> Reals:
        """New places to go to [N, 2] m."""
        rng, hoop = self._rng, np.array([self._side * HOOP_X_M, 0.0])
        spots = np.zeros((self._count, 2))
        turn = np.linspace(-1.35, 1.35, max(len(self._attack), 1)) + rng.normal(0, 0.2, max(len(self._attack), 1))
        far = rng.uniform(2.0, 8.2, len(turn))
        around = np.stack([-self._side * far * np.cos(turn), far * np.sin(turn)], axis=1)
        spots[self._attack] = hoop + around[: len(self._attack)]
        guarded = np.resize(spots[self._attack], (len(self._defence), 2)) if len(self._attack) else hoop
        spots[self._defence] = hoop + (guarded - hoop) * rng.uniform(0.55, 0.85, (len(self._defence), 1))
        spots[self._referees] = np.stack(
            [hoop[0] - self._side * rng.uniform(1, 10, len(self._referees)),
             np.resize([-6.6, 6.8], len(self._referees)) + rng.normal(0, 0.3, len(self._referees))], axis=1,
        )  # fmt: skip
        spots += rng.normal(0, 0.35, spots.shape)
        spots[:, 0] -= self._side * self._shift
        edge = np.array([LENGTH_M / 2 + 0.3, WIDTH_M / 2 + 0.3])
        return np.clip(spots, -edge, edge)

    def run(self, frames: int) -> Session:
        for _ in range(round(_WARM_UP_S * FRAMES_PER_S * _STEPS)):
            self._step()
        if self._runs:
            self._shift, self._until = 2 * HOOP_X_M - 8, np.minimum(self._until, self._time + 0.4)
            self._pace += 2.6
        moments, balls = [], []
        for _ in range(frames):
            moments.append(self._moments())
            balls.append(self._ball())
            for _ in range(_STEPS):
                self._step()
        players = np.array([[moment.at for moment in row[: len(self._attack) + len(self._defence)]] for row in moments])
        return Session(moments, balls, float(np.median(players[..., 0])))

    def _step(self) -> None:
        dt = 1 / (FRAMES_PER_S * _STEPS)
        self._time += dt
        due = self._until < self._time
        if due.any():
            self._goal[due] = self._spots()[due]
            self._until[due] = self._time + self._rng.uniform(0.8, 2.6, int(due.sum()))
        way = self._goal - self.at
        far = np.hypot(way[:, 0], way[:, 1])[:, None] + 1e-9
        wanted = way / far * np.minimum(self._pace[:, None], far / 0.5) * (far > 0.25)
        push = (wanted - self._velocity) / 0.35
        off = self.at[:, None] - self.at[None]
        apart = np.hypot(off[..., 0], off[..., 1]) + np.eye(self._count) * 9 + 1e-6
        push += (off / apart[..., None] * (np.maximum(1.3 * _APART_M - apart, 0) * 30)[..., None]).sum(axis=1)
        self._velocity += dt * np.clip(push, -14, 14)
        self.at = self.at + dt * self._velocity
        self._turn(dt)

    def _turn(self, dt: float) -> None:
        speed = np.hypot(self._velocity[:, 0], self._velocity[:, 1])
        to_ball = self.at[self._carrier] - self.at
        if len(self._attack):
            to_ball[self._carrier] = np.array([self._side * HOOP_X_M, 0]) - self.at[self._carrier]
        look = np.where((speed > 1.3)[:, None], self._velocity, to_ball)
        turn = np.angle(np.exp(1j * (np.arctan2(look[:, 1], look[:, 0]) - self._heading)))
        self._heading += np.clip(turn * 5, -5.5, 5.5) * dt
        self._phase += dt * 2 * math.pi * speed / (0.8 + 0.42 * speed)

    def _mood(self, which: int) -> Reals:
        """[N] -1..1, slow."""
        start, rate = self._moods
        mood: Reals = np.sin(start[which] + rate[which] * self._time * 2)
        return mood

    def _moments(self) -> list[Moment]:
        guards = np.zeros(self._count)
        guards[self._defence] = 1
        crouch = np.clip(0.18 + 0.4 * guards + 0.25 * self._mood(0), 0, 0.85)
        arms = np.clip(0.3 * guards + 0.55 * self._mood(1) - 0.1, 0, 0.8)
        crouch[self._referees] = arms[self._referees] = 0
        to_ball = self.at[self._carrier] - self.at
        gaze = np.angle(np.exp(1j * (np.arctan2(to_ball[:, 1], to_ball[:, 0]) - self._heading)))
        return [
            Moment((float(self.at[i, 0]), float(self.at[i, 1])),
                   (float(self._velocity[i, 0]), float(self._velocity[i, 1])), float(self._heading[i]),
                   float(self._phase[i]), float(crouch[i]), float(arms[i]), float(np.clip(gaze[i], -1.1, 1.1)))
            for i in range(self._count)
        ]  # fmt: skip

    def _ball(self) -> tuple[float, float, float]:
        """Beside the one who dribbles it."""
        i = self._carrier
        angle = self._heading[i] - 0.7
        bounce = abs(math.cos(math.pi * self._time / 0.55))
        x, y = self.at[i] + 0.55 * np.array([math.cos(angle), math.sin(angle)])
        return float(x), float(y), _BALL_M + 0.85 * bounce
