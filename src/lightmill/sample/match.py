"""A sample match on disk: footage of a ball game from two cameras, with exact boxes and identities.

For trying and testing everything that tells players apart. Two teams play quarter by quarter in front of a camera at
the `side` and one under the roof (`top`). Known players are in every quarter; the unknown ones come on in the last
quarter only, which is the test. Nobody changes shirts; the light, its colour and the cameras' aim change by quarter and
session. Two referees walk about: they have no boxes.
"""

import csv
import math
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lightmill.codecs.encode import ImageFormat, encode
from lightmill.errors import OutputError, UsageError
from lightmill.sample.match_camera import ANGLES, camera
from lightmill.sample.match_frame import Light, Seen, Shot
from lightmill.sample.match_plan import REFEREES, Match, Stream
from lightmill.types import Size

IMAGES, TRAIN, TEST, TRUTH, PLAYERS = "images", "train_meta.csv", "test_meta.csv", "test_labels.csv", "players.csv"
PATH = "{quarter}__{angle}__{session:02d}__{frame:02d}.jpg"  # of a frame, from the folder of images
UNKNOWN = -1  # the label of a player who is not in the training

_BOX = ("quarter", "angle", "session", "frame", "x", "y", "w", "h")
_SESSIONS_A_PART = 10  # a quarter is Q1-000, Q1-001, ..., with this many sessions each
_LEAST_VISIBLE = 0.25  # bodies of which less is visible have no box, as annotators do it
_DIRTY, _DIRTY_AREA = 0.005, 2.5  # share of training boxes that are far too large; how many times at least


class Row(NamedTuple):
    """One box; x, y, w, h in px of the frame."""

    quarter: str
    angle: str
    session: int
    frame: int
    x: int
    y: int
    w: int
    h: int
    player: int  # known players come before the unknown
    visible: float  # share of the body that is in the picture and not hidden


def write_match(
    folder: Path,
    *,
    players: int = 30,
    unknown: int = 8,
    quarters: int = 4,
    sessions: int = 25,
    frames: int = 10,
    size: tuple[int, int] = (1920, 1080),
    seed: int = 0,
    players_per_frame: int = 10,
    quality: int = 90,
    dirt: bool = True,
    threads: int | None = None,
) -> None:
    """Write folder/images/{quarter}__{angle}__{session:02d}__{frame:02d}.jpg and the tables of their boxes.

    train_meta.csv: quarter, angle, session, frame, x, y, w, h, label_id: all quarters but the last. test_meta.csv: the
    last one, without label_id. test_labels.csv: the rows of test_meta.csv with label_id (-1: not in the training),
    player (also of those) and visible (the share of the body that is in the picture and not hidden). players.csv: who
    is who. A box is that of the whole body, hidden parts too, in whole px, clamped to the frame; bodies of which less
    than a quarter is visible have none. The rows of a frame are in random order.

    unknown: of `players`, those who come on in the last quarter only. sessions: a quarter, of `frames` consecutive
    frames each, 5 a second. size: width and height in px. players_per_frame: at most; both teams have half of them.
    quality: of the JPEGs. dirt: one box in 200 of the training is far too large. threads: None is one a core; they
    change nothing but the time. Equal arguments give equal files.
    Raises UsageError for numbers that make no match, OutputError for a folder that cannot be made.
    """
    match = Match(
        players=players, unknown=unknown, quarters=quarters, sessions=sessions, frames=frames, size=Size(*size),
        seed=seed, players_per_frame=players_per_frame, dirt=dirt,
    )  # fmt: skip
    if not 1 <= quality <= 100:
        raise UsageError(f"the quality of JPEGs is 1 to 100, got {quality}")
    images = folder / IMAGES
    try:
        images.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise OutputError(f"cannot make the folder {folder}: {exc.strerror}; choose another one") from exc
    _ = match.people, match.hall  # before there are threads that would each make them

    def write(at: tuple[int, int]) -> list[Row]:
        return list(_write_session(match, *at, images=images, quality=quality))

    places = [(quarter, session) for quarter in range(quarters) for session in range(sessions)]
    with ThreadPoolExecutor(threads or os.cpu_count()) as pool:
        written = list(pool.map(write, places))
    last = (quarters - 1) * sessions
    train, test = (list(chain.from_iterable(some)) for some in (written[:last], written[last:]))
    _write_tables(folder, match, train=train, test=test)


def _write_session(match: Match, quarter: int, session: int, *, images: Path, quality: int) -> Iterator[Row]:
    lineup = match.lineups(quarter)[session]
    people = [match.people[i] for i in (*lineup, *range(match.players, match.players + REFEREES))]
    played = match.session(quarter, session)
    light = Light.of(match.stream(Stream.LIGHT, quarter), match.stream(Stream.LIGHT, quarter, session))
    shots = {}
    for view, angle in enumerate(ANGLES):
        rng = match.stream(Stream.CAMERA, quarter, session, view)
        seen_from = camera(angle, play_x=played.middle_x, rng=rng, size=match.size)
        shots[angle] = Shot(seen_from, light=light, hall=match.hall)
    part, number = divmod(session, _SESSIONS_A_PART)
    order, slips = (match.stream(purpose, quarter, session) for purpose in (Stream.ROWS, Stream.SLIPS))
    trains = quarter < match.quarters - 1
    for frame, (moments, ball) in enumerate(zip(played.moments, played.balls, strict=True)):
        for view, (angle, shot) in enumerate(shots.items()):
            rng = match.stream(Stream.NOISE, quarter, session, frame, view)
            pixels, seen = shot.frame(list(zip(people, moments, strict=True)), ball, rng=rng)
            name = PATH.format(quarter=_name(quarter, part), angle=angle, session=number, frame=frame)
            (images / name).write_bytes(encode(pixels, format=ImageFormat.JPG, quality=quality))
            for i in order.permutation(len(seen)):
                if seen[i].person < len(lineup) and seen[i].visible >= _LEAST_VISIBLE:
                    box = _box(seen[i], match.size)
                    if match.dirt and trains and slips.random() < _DIRTY:
                        box = _far_too_large(box, match.size, slips)
                    player = match.numbers[lineup[seen[i].person]]
                    yield Row(_name(quarter, part), angle, number, frame, *box, player, seen[i].visible)


def _name(quarter: int, part: int) -> str:
    return f"Q{quarter + 1}-{part:03d}"


def _box(seen: Seen, size: Size) -> tuple[int, int, int, int]:
    """x, y, w, h in whole px, clamped to the picture."""
    left, top = max(math.floor(seen.box[0]), 0), max(math.floor(seen.box[1]), 0)
    right, bottom = min(math.ceil(seen.box[2]), size.width), min(math.ceil(seen.box[3]), size.height)
    return left, top, right - left, bottom - top


def _far_too_large(box: tuple[int, int, int, int], size: Size, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """A slip of an annotator's hand; the box itself where the picture has no room for it."""
    x, y, w, h = box
    wide, high = (round(side * rng.uniform(1.8, 2.6)) for side in (w, h))
    left, top = max(x - round(rng.random() * (wide - w)), 0), max(y - round(rng.random() * (high - h)), 0)
    wide, high = min(wide, size.width - left), min(high, size.height - top)
    return (left, top, wide, high) if wide * high >= _DIRTY_AREA * w * h else box


def _write_tables(folder: Path, match: Match, *, train: list[Row], test: list[Row]) -> None:
    def label(row: Row) -> int:
        return row.player if row.player < match.known else UNKNOWN

    _write(folder / TRAIN, (*_BOX, "label_id"), ((*row[:8], row.player) for row in train))
    _write(folder / TEST, _BOX, (row[:8] for row in test))
    truth = ((*row[:8], label(row), row.player, f"{row.visible:.3f}") for row in test)
    _write(folder / TRUTH, (*_BOX, "label_id", "player", "visible"), truth)
    who = sorted(zip(match.numbers, match.looks, strict=True), key=lambda each: each[0])
    _write(
        folder / PLAYERS,
        ("player", "label_id", "team", "number", "height_m", "hair"),
        ((player, player if player < match.known else UNKNOWN, ("home", "away")[look.team], look.number,
          f"{look.shape.height_m:.2f}", look.shape.hair) for player, look in who),
    )  # fmt: skip


def _write(path: Path, columns: tuple[str, ...], rows: Iterable[tuple[object, ...]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(columns)
        table.writerows(rows)
