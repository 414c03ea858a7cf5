"""How a training runs, whatever it trains: steps, rates, averages, when it ends."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

# options that may differ between a training and its resumption: they do not change what a step computes
FREE = frozenset({"device", "max_time_s", "patience", "tensorboard"})


def at_least_0(default: float, description: str) -> Any:
    """A field that holds 0 or more: how much something counts, say."""
    return Field(default, ge=0, allow_inf_nan=False, description=description)


class LoopSettings(BaseModel):
    """What a user says of the loop. The defaults suit a small network, on a CPU, in minutes."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    epochs: int = Field(20, ge=1, description="How often all is gone through.")
    limit_train: int = Field(0, ge=0, description="Batches an epoch at most, for a quick try; 0: all.")
    rate: float = Field(2e-3, gt=0, allow_inf_nan=False, description="The learning rate (of AdamW) at its highest.")
    decay: float = at_least_0(0.05, "Weight decay (of AdamW).")
    warmup: float = Field(
        0.05, ge=0, lt=1, description="Share of the training in which the learning rate rises; then it falls."
    )
    clip: float = at_least_0(5.0, "Cut gradients to this norm; 0: leave them as they are.")
    ema: float = Field(
        0.995, ge=0, lt=1, description="Judge and keep averaged weights; share of the average kept each step, 0: none."
    )
    patience: int = Field(0, ge=0, description="Stop after so many epochs without a better score; 0: never.")
    amp: Literal["auto", "off", "bf16", "fp16"] = Field(
        "auto", description="Numbers of 16 bits; auto: where the device is faster with them."
    )
    seed: int = Field(0, ge=0, lt=1 << 63, description="Of all that is drawn: splits, weights, batches, variations.")
    tensorboard: bool = Field(
        True, description="Write logs for TensorBoard too.", json_schema_extra={"negative": "no_tensorboard"}
    )


class LoopOptions(LoopSettings):
    """All that decides how a loop runs, beside its data."""

    given_as: ClassVar[Mapping[str, str]] = {}  # field -> option, where that is not its name

    size_hw: tuple[int, int] = Field(description="Height and width of the pictures, px.")
    accumulate: int = Field(1, ge=1, description="Batches that one step learns from.")
    max_time_s: float | None = Field(
        None, gt=0, description="Time limit, s; the rate comes down by then. Such a training is no other's twin."
    )
    device: str = Field("cpu", description="cpu, cuda, or cuda:N.")
    devices: int = Field(1, ge=1, description="Processes that train together; on CUDA each on a device of its own.")

    @property
    def bound_by(self) -> dict[str, object]:
        """What a resumed training must have the same."""
        return {key: value for key, value in self.model_dump(mode="json").items() if key not in FREE}

    @classmethod
    def told(cls, name: str, before: Any, now: Any) -> str:
        """What a user is told of an option that is not what it was: as it is given to a command."""
        option = cls.given_as.get(name, f"--{name.replace('_', '-')}")
        if isinstance(before, dict):
            return f"another {option}"
        return f"{option} {_written(name, before)}, not {_written(name, now)}"


def _written(name: str, value: Any) -> str:
    if name == "size_hw":
        return f"{value[1]}x{value[0]}"
    if isinstance(value, list):
        return ",".join(map(str, value))
    return "none" if value in (None, "") else str(value)
