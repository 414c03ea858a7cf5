"""Students on disk: with random weights, and with weights that find colours, so that answers are known."""

from pathlib import Path
from typing import Any

import torch

from lightmill.models.student import StudentConfig, make_student, save_student

torch.set_num_threads(1)  # networks of this size gain nothing from more, and wait for them where the machine is busy

HW = (48, 64)
RED, GREEN = (1.0, -0.5, -0.5), (-0.5, 1.0, -0.5)  # of RGB as 0..1: a colour less what any grey has
SHARP = 40.0  # how fast logits rise with a colour; they are 0 where it reaches LEAST
LEAST = 0.3


def config_of(names: tuple[str, ...] = ("background", "red", "green"), **more: Any) -> StudentConfig:
    background = ("background",) if "background" in names else ()
    values: dict[str, Any] = {"size": "nano", "names": names, "background": background, "size_hw": HW}
    return StudentConfig(**values | more)


def random_student(folder: Path, config: StudentConfig, *, seed: int = 9, spread: float = 3.0) -> Path:
    """Weights as a training begins with; logits times `spread`, so that classes are told apart.

    With the seed given, six of seven classes are met in a picture of noise.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = make_student(config).eval()
    with torch.no_grad():
        network.head.weight.mul_(spread)
    save_student(folder, network, config)
    return folder


def colour_student(folder: Path, config: StudentConfig | None = None) -> Path:
    """Class 1 is what is red, class 2 what is green, by the mean of 2x2 pixels each; binary: red.

    Weights are 0 but along one path: stem, the stage at 1/4, which keeps the four places of the stem in features of
    their own, what the last join takes of it, head.
    """
    config = (config or config_of()).model_copy(update={"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)})
    network = make_student(config).eval()
    with torch.no_grad():
        for values in network.parameters():
            values.zero_()
        for part in network.modules():
            if isinstance(part, torch.nn.BatchNorm2d):
                part.weight.fill_(1)
        stem: Any = network.encoder
        join: Any = network.decoder.joins[0]
        for number, colour in enumerate((RED, GREEN)):
            stem.stem[0].weight[number, :, 1:, 1:] = torch.tensor(colour)[:, None, None] / 4
            row = number if config.binary else number + 1
            for part in range(4):
                place = 4 * number + part
                stem.stages[0][0][0].weight[place, number, 1 + part // 2, 1 + part % 2] = 1
                join.from_fine.weight[place, place] = 1
                join.last[0].weight[place, place, 1, 1] = 1
                if row < config.classes:
                    network.head.weight[4 * row + part, place] = SHARP
                    network.head.bias[4 * row + part] = -SHARP * LEAST
    save_student(folder, network, config)
    return folder
