"""What commands that train share: lengths of time, what is said while it trains, and how it ended."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BeforeValidator, Field

from lightmill.engine.wording import duration
from lightmill.errors import UsageError
from lightmill.recipes.devices import chosen_device

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}
_TIMED = 20  # steps that say how long all will take


def seconds_of(text: str) -> float:
    """A length of time. Raises ValueError.

    >>> seconds_of("10m"), seconds_of("90"), seconds_of("1.5h")
    (600.0, 90.0, 5400.0)
    """
    unit = _UNITS.get(text[-1:])
    try:
        found = float(text[:-1] if unit else text) * (unit or 1.0)
    except ValueError:
        found = 0.0
    if not 0 < found < float("inf"):
        raise ValueError(f"a length of time is written 90s, 10m or 2h, got {text!r}")
    return found


def whole_numbers(value: Any) -> Any:
    """`11,254`, or a list of such: a tuple of whole numbers, 0 or more. Raises ValueError."""
    parts = value if isinstance(value, list | tuple) else [value]
    texts = [text.strip() for part in parts for text in str(part).split(",") if text.strip()]
    if not all(text.isdecimal() for text in texts):
        raise ValueError("values are whole numbers, as in 11,254")
    return tuple(int(text) for text in texts)


Duration = Annotated[
    float,
    BeforeValidator(lambda value: seconds_of(value) if isinstance(value, str) else value),
    Field(gt=0, allow_inf_nan=False),
]


DevicesOption: TypeAlias = Annotated[int, Field(ge=1)] | Literal["all"]


def devices_field(batch: str) -> Any:
    """`batch`: what each of the devices learns from in a step."""
    return Field(
        1,
        description=f"GPUs that train together, each with {batch} a step; all: those there are. With --device cpu: "
        "processes.",
        json_schema_extra={"run_only": True},  # the training compares their number, whatever it was called
    )


def number_of_devices(wanted: int | Literal["all"], device: str) -> int:
    """How many are to train together. Raises UsageError where there are not so many GPUs.

    `device`: as it was asked for; `auto` means processes on the CPU only where there is to be one.
    """
    chosen = chosen_device(device)
    if wanted == 1 or (wanted == "all" and chosen == "cpu"):
        return 1
    if chosen == "cpu":
        if device == "cpu":
            return int(wanted)
        raise UsageError(
            f"--devices {wanted}: there is no GPU here; with --device cpu, {wanted} processes train on the CPU"
        )
    import torch

    there = torch.cuda.device_count()
    if wanted == "all":
        return there
    if wanted > there:
        raise UsageError(f"--devices {wanted}: there {'is 1 GPU' if there == 1 else f'are {there} GPUs'} here")
    return wanted


@dataclass(frozen=True, kw_only=True)
class TrainingEnded:
    """How it went."""

    exit_code: int
    summary: str
    remarks: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


class Telling:
    """What is said while it trains: how long it will take, and every epoch.

    `epochs`: None where only the clock ends it. `shown`: columns of an epoch's row that are told. `note`: asked after
    each epoch for one more line.
    """

    def __init__(
        self,
        say: Callable[[str], None],
        *,
        epochs: int | None,
        max_time_s: float | None,
        shown: Callable[[str], bool],
        note: Callable[[], str],
    ) -> None:
        self._say, self._epochs, self._limit, self._shown, self._note = say, epochs, max_time_s, shown, note
        self._began, self._first, self._done, self._total = 0.0, 0, 0, 0

    def step(self, done: int, total: int) -> None:
        """After each step."""
        self._done, self._total = done, total
        if not self._began:
            self._began, self._first = time.monotonic(), done
        elif done - self._first == _TIMED:
            left = self._left_s(0.0)
            until = f", at most {duration(self._limit)} in all" if self._limit else ""
            what = f"{total:,} steps" if self._epochs else "steps until the time is over"
            self._say(f"{what}, {duration((time.monotonic() - self._began) / _TIMED)} each: {duration(left)}{until}")

    def epoch(self, row: Mapping[str, float | None]) -> None:
        """After each epoch."""
        told = [f"{name} {value:.3f}" for name, value in row.items() if self._shown(name) and value is not None]
        seconds = row.get("seconds") or 0.0
        of = f" of {self._epochs}" if self._epochs else ""
        left = self._left_s(seconds)
        until = f", about {duration(left)} left" if left > 0 else ""
        self._say(f"epoch {row['epoch']:g}{of} ({duration(seconds)}{until}): {', '.join(told)}")
        if note := self._note():
            self._say(note)

    def _left_s(self, elapsed_s: float) -> float:
        """By the pace of this run, validations and all, and by the clock."""
        done = self._done - self._first
        by_steps = (time.monotonic() - self._began) / done * (self._total - self._done) if done else 0.0
        return min(by_steps, max(self._limit - elapsed_s, 0.0)) if self._limit else by_steps


def nothing(line: str) -> None:
    """Says nothing."""
