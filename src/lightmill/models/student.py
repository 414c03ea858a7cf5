"""A student on the disk: what `lightmill train segment` writes, and all that runs, scores or exports it reads.

A folder with `config.json` (below) and `model.safetensors` (models/network_folder.py).
"""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from lightmill import __version__
from lightmill.models.network_folder import load_network_of, read_settings, save_folder

if TYPE_CHECKING:
    from lightmill.models.student_network import StudentNetwork

MODEL_TYPE = "lightmill-student"
_WHAT, _MADE_BY = "student", "lightmill train segment"

SIDES = 8, 8192  # px, of pictures: the least and the most
Side = Annotated[int, Field(ge=SIDES[0], le=SIDES[1])]
Level = Annotated[float, Field(allow_inf_nan=False)]
Spread = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Name = Annotated[str, Field(min_length=1, max_length=200)]


class StudentConfig(BaseModel):
    """What config.json holds: what is needed to make the network, to feed it and to read what it gives."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model_type: Literal["lightmill-student"] = "lightmill-student"
    version: Literal[1] = 1  # of this layout
    lightmill: str = __version__  # that wrote it
    size: Literal["nano", "tiny", "small", "base"] = "small"  # with a backbone, of the decoder alone
    backbone: dict[str, Any] | None = None  # `model_type` of transformers and its settings; None: an encoder of our own
    names: tuple[Name, ...] = Field(min_length=1, max_length=255)  # of the classes; one name: the foreground's
    background: tuple[Name, ...] = ()  # of those names, classes that are not what is looked for
    ignore: int = Field(255, ge=0, le=255)  # the value of a class map that it learnt nothing from
    size_hw: tuple[Side, Side]  # of the pictures that it was trained on, px
    mean: tuple[Level, Level, Level] = (0.485, 0.456, 0.406)  # of sRGB levels as 0..1
    std: tuple[Spread, Spread, Spread] = (0.229, 0.224, 0.225)
    threshold: float = Field(0.5, gt=0, lt=1)  # binary: the least probability of the foreground
    scores: dict[str, float | None] = {}  # of the validation when it was written

    @property
    def binary(self) -> bool:
        """Whether it tells one thing from all else: one logit, and a sigmoid."""
        return len(self.names) == 1

    @property
    def classes(self) -> int:
        """C, of its logits: 1 where it is binary."""
        return len(self.names)

    @model_validator(mode="after")
    def _names_fit(self) -> Self:
        if len(set(self.names)) < len(self.names):
            raise ValueError("two classes have the same name")
        if unknown := sorted(set(self.background) - set(self.names)):
            raise ValueError(f"background: there is no class {unknown[0]!r}")
        if not self.binary and self.ignore < len(self.names):
            raise ValueError(f"ignore is {self.ignore}, which is the class {self.names[self.ignore]!r}")
        return self


def save_student(folder: Path, network: "StudentNetwork", config: StudentConfig) -> None:
    """Puts a student into `folder`, instead of what was there; a folder is whole whenever it has that name.

    Raises OutputError where nothing can be written any more.
    """
    save_folder(folder, network, config)


def read_student(folder: Path) -> StudentConfig:
    """What config.json says. Raises ModelError, naming it, where it is none of a student."""
    return read_settings(folder, StudentConfig, what=_WHAT, made_by=_MADE_BY)


def load_student(folder: Path, config: StudentConfig | None = None) -> "StudentNetwork":
    """The network of a folder with its weights, float32, on the CPU, in eval mode.

    Raises ModelError, naming the file, where the settings make no network or the weights do not fill it.
    """
    return load_network_of(folder, partial(make_student, config or read_student(folder)), what=_WHAT)


def make_student(config: StudentConfig, *, dropout: float = 0.0) -> "StudentNetwork":
    """A network as `config` has it, with random weights from torch's generator, in training mode.

    Raises ModelError for settings of a backbone that make none.
    """
    from lightmill.models.backbones import build_backbone

    backbone = None if config.backbone is None else build_backbone(config.backbone)
    return student_on(backbone, config, dropout=dropout)


def student_on(backbone: Any, config: StudentConfig, *, dropout: float = 0.0) -> "StudentNetwork":
    """As `make_student`, on a backbone that has weights already (`lightmill.models.backbones.open_backbone`)."""
    from lightmill.models.student_backbone import BackboneEncoder
    from lightmill.models.student_network import SIZES, Encoder, ResidualEncoder, StudentNetwork

    widths = SIZES[config.size]
    encoder: Encoder = ResidualEncoder(widths) if backbone is None else BackboneEncoder(backbone)
    return StudentNetwork(encoder, classes=config.classes, decoder=widths.decoder, dropout=dropout)
