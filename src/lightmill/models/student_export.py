"""A student as an ONNX file, for whoever runs networks without torch. It is compared with torch before it counts."""

import io
import json
import os
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lightmill.engine.outputs import temporary_name, writing
from lightmill.errors import MissingExtra, ModelError
from lightmill.models.student import StudentConfig, load_student, read_student

if TYPE_CHECKING:
    import torch

    from lightmill.models.student_network import StudentNetwork

TOLERANCE = 1e-4  # how far its logits may be from torch's, of the largest logit or of 1
_OPSET = 18
_PACKAGES = "torch", "onnx", "onnxruntime"


def export_onnx(folder: Path, target: Path) -> float:
    """Writes the student of `folder` as the ONNX file `target`, and returns how far its logits are from torch's.

    Input `pixels`: float32 [batch, 3, height, width], RGB as (level / 255 - mean) / std; batch, height and width are
    free. Output `logits`: float32 [batch, C, height, width]; C = 1 wants a sigmoid, C > 1 a softmax. The file's
    metadata has `names`, `mean`, `std`, `size_hw`, `ignore`, `threshold`, `background` as JSON, and `lightmill`.

    All backbones come out as such a file but DINOv2 with registers: ONNX has no operator for how it resizes positions.

    What is compared is the served network, by ONNX Runtime, at two sizes of picture. Raises MissingExtra without onnx
    or onnxruntime, ModelError for a folder that holds no student and for a network that comes out different, and
    OutputError where nothing can be written any more; then nothing is written.
    """
    missing = [package for package in _PACKAGES if find_spec(package) is None]
    if missing:
        raise MissingExtra(f"exports to ONNX need {' and '.join(missing)}; run: pip install 'lightmill[train]'")
    config = read_student(folder)
    network = load_student(folder, config)
    content = _with_metadata(_exported(network, config), config)
    difference = _compared(content, network, config)
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        growing = target.parent / temporary_name(target.name)
        try:
            growing.write_bytes(content)
            os.replace(growing, target)
        finally:
            growing.unlink(missing_ok=True)
    return difference


def _exported(network: "StudentNetwork", config: StudentConfig) -> bytes:
    """By the exporter that traces: the newer one wants two packages more (onnxscript and its own), prints, and takes
    a hundred times as long for the same file."""
    import torch

    free = {0: "batch", 2: "height", 3: "width"}
    file = io.BytesIO()
    with warnings.catch_warnings():
        # it says of itself that it will go, and of sizes that they may be fixed: what comes of it is compared below
        warnings.simplefilter("ignore")
        try:
            torch.onnx.export(
                network,
                (torch.zeros(2, 3, *_odd(config)),),
                file,  # type: ignore[arg-type]  # a path, say its stubs; an open file too, says its document
                dynamo=False,
                opset_version=_OPSET,
                input_names=["pixels"],
                output_names=["logits"],
                dynamic_axes={"pixels": free, "logits": free},
            )
        except (torch.onnx.errors.OnnxExporterError, RuntimeError) as error:
            raise ModelError(f"this network cannot be exported to ONNX: {_first_line(error)}") from error
    return file.getvalue()


def _with_metadata(content: bytes, config: StudentConfig) -> bytes:
    import onnx

    model = onnx.load_model_from_string(content)
    kept = config.model_dump(
        mode="json", include={"names", "mean", "std", "size_hw", "ignore", "threshold", "background"}
    )
    values = {key: json.dumps(value, ensure_ascii=False) for key, value in kept.items()}
    onnx.helper.set_model_props(model, {"lightmill": config.lightmill, **values})
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def _compared(content: bytes, network: "StudentNetwork", config: StudentConfig) -> float:
    """The largest difference, as `TOLERANCE` counts it. Raises ModelError where it is larger."""
    import onnxruntime
    import torch

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what goes wrong is said below
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    generator = torch.Generator().manual_seed(0)
    worst = 0.0
    for shape in ((1, 3, *config.size_hw), (3, 3, *reversed(_odd(config)))):
        pixels = torch.randn(shape, generator=generator)
        with torch.inference_mode():
            wanted = network(pixels)
        worst = max(worst, _difference(session, pixels, wanted))
    if not worst <= TOLERANCE:  # NaN too
        raise ModelError(f"the ONNX file gives logits that are {worst:.2g} away from those of torch; it is not written")
    return worst


def _difference(session: Any, pixels: "torch.Tensor", wanted: "torch.Tensor") -> float:
    try:
        (found,) = session.run(None, {"pixels": pixels.numpy()})
    except Exception as error:  # ONNX Runtime has errors of its own, by the dozen
        raise ModelError(f"the ONNX file does not take pictures {list(pixels.shape)}: {_first_line(error)}") from error
    if found.shape != tuple(wanted.shape):
        raise ModelError(f"the ONNX file gives logits {list(found.shape)} and torch {list(wanted.shape)}")
    scale = max(1.0, float(wanted.abs().max()))
    return float(np.abs(found - wanted.numpy()).max()) / scale


def _odd(config: StudentConfig) -> tuple[int, int]:
    """A size that no stride divides."""
    high, wide = config.size_hw
    return high + 13, wide + 27


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
