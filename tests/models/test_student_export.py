"""Students on backbones that see patches, as ONNX files: other sizes of picture are other numbers of tokens."""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from lightmill.errors import ModelError
from lightmill.models.student import StudentConfig, make_student, save_student
from lightmill.models.student_export import TOLERANCE, export_onnx

torch.set_num_threads(1)

TOKENS: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "image_size": 64,
}
BACKBONES: dict[str, dict[str, Any]] = {
    "vit": TOKENS | {"patch_size": 16},
    "dinov2": TOKENS | {"patch_size": 14},
    "dinov3_vit": TOKENS | {"patch_size": 16, "num_register_tokens": 2},
}


def saved(folder: Path, backbone: dict[str, Any]) -> torch.nn.Module:
    """Where tokens stand matters to its answers: embeddings of positions are as large as all else."""
    settings = StudentConfig(size="nano", names=("a", "b", "c"), size_hw=(64, 96), backbone=backbone)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = make_student(settings).eval()
        with torch.no_grad():
            for name, weights in made.named_parameters():
                if "position" in name:
                    weights.normal_()
    save_student(folder, made, settings)
    return made


@pytest.mark.parametrize("kind", BACKBONES)
def test_an_exported_student_that_sees_patches_is_that_of_torch(kind: str, tmp_path: Path) -> None:
    made = saved(tmp_path / "best", {"model_type": kind} | BACKBONES[kind])
    assert export_onnx(tmp_path / "best", tmp_path / "a.onnx") <= TOLERANCE
    session = onnxruntime.InferenceSession(tmp_path / "a.onnx", providers=["CPUExecutionProvider"])
    for shape in ((1, 3, 64, 96), (3, 3, 45, 131), (2, 3, 170, 32)):
        picture = torch.randn(shape, generator=torch.Generator().manual_seed(7))
        with torch.inference_mode():
            wanted = made(picture).numpy()
        (found,) = session.run(["logits"], {"pixels": picture.numpy()})
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4 * max(1, np.abs(wanted).max()))


def test_the_one_that_onnx_has_no_operator_for_is_refused(tmp_path: Path) -> None:
    """Its embeddings of positions are resized with anti-aliasing."""
    backbone = {"model_type": "dinov2_with_registers"} | TOKENS | {"patch_size": 16, "num_register_tokens": 2}
    saved(tmp_path / "best", backbone)
    with pytest.raises(ModelError, match=r"cannot be exported to ONNX: .*bicubic2d_aa"):
        export_onnx(tmp_path / "best", tmp_path / "a.onnx")
    assert not (tmp_path / "a.onnx").exists()
