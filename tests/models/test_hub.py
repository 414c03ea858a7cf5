"""What a model's name means, and what is said where the model cannot be had. No test here uses a network."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import torch
import transformers
from huggingface_hub import errors
from tests.models import tiny

from lightmill.errors import MissingExtra, ModelError
from lightmill.models import hub
from lightmill.models.hub import Found, find_model, hub_error
from lightmill.models.weights import check_fits, load_weights, torch_dtype_for

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def segformer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.segformer(tmp_path_factory.mktemp("segformer"))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hub's cache that is empty, and no network."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "cache"


def into_cache(cache: Path, model: Path, *, revision: str = "main") -> Path:
    """As `hf download acme/tiny` leaves it."""
    repo = cache / "models--acme--tiny"
    shutil.copytree(model, repo / "snapshots" / COMMIT)
    (repo / "refs").mkdir(exist_ok=True)
    (repo / "refs" / revision).write_text(COMMIT, "ascii")
    return repo / "snapshots" / COMMIT


def test_a_folder_is_found(segformer: Path) -> None:
    found = find_model(str(segformer))
    assert found.folder == segformer
    assert found.name == str(segformer)
    assert found.model_type == "segformer"
    assert found.weight_bytes == (segformer / "model.safetensors").stat().st_size
    assert found.config == json.loads((segformer / "config.json").read_text("utf-8"))


def test_a_diffusers_folder_is_found(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text('{"_class_name": "MarigoldNormalsPipeline"}', "utf-8")
    for part, size in (("unet", 1000), ("vae", 500)):
        (tmp_path / part).mkdir()
        (tmp_path / part / "diffusion_pytorch_model.safetensors").write_bytes(bytes(size))
        (tmp_path / part / "diffusion_pytorch_model.fp16.safetensors").write_bytes(bytes(size // 2))
        (tmp_path / part / "diffusion_pytorch_model.bin").write_bytes(bytes(size))
    found = find_model(str(tmp_path))
    assert found.config["_class_name"] == "MarigoldNormalsPipeline"
    assert found.weight_bytes == 1500  # each weight once


def test_the_version_of_a_folder_is_that_of_its_files(segformer: Path, tmp_path: Path) -> None:
    same = shutil.copytree(segformer, tmp_path / "same")
    (same / "README.md").write_text("changes no answer", "utf-8")
    version = find_model(str(segformer)).version
    assert version.startswith("blake2:")
    assert find_model(str(same)).version == version

    settings = same / "preprocessor_config.json"
    settings.write_text(settings.read_text("utf-8").replace("64", "65"), "utf-8")
    assert find_model(str(same)).version != version


@pytest.mark.parametrize("place", [0, 3_000_000 // 15 * 7 + 5, 3_065_535])  # head, a middle piece, tail
def test_the_version_of_large_weights_is_that_of_pieces(segformer: Path, tmp_path: Path, place: int) -> None:
    folder = shutil.copytree(segformer, tmp_path / "model")
    weights = bytearray(3_065_536)
    (folder / "model.safetensors").write_bytes(weights)
    version = find_model(str(folder)).version
    weights[place] = 1
    (folder / "model.safetensors").write_bytes(weights)
    assert find_model(str(folder)).version != version


def test_what_is_in_the_cache_needs_no_network(segformer: Path, cache: Path) -> None:
    snapshot = into_cache(cache, segformer)
    found = find_model("acme/tiny")
    assert found.folder == snapshot
    assert found.version == COMMIT
    assert find_model(f"acme/tiny@{COMMIT}").version == COMMIT
    with pytest.raises(ModelError, match="hf download acme/tiny --revision v2` once on a connected machine"):
        find_model("acme/tiny@v2")


def test_part_of_a_model_in_the_cache_is_none(segformer: Path, cache: Path) -> None:
    snapshot = into_cache(cache, segformer)
    (snapshot / "model.safetensors").rename(snapshot / "model-00001-of-00002.safetensors")
    parts = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (snapshot / "model.safetensors.index.json").write_text(json.dumps({"weight_map": parts}), "utf-8")
    for name in ("acme/tiny", str(snapshot)):
        with pytest.raises(ModelError, match=r"is incomplete: model-00002-of-00002\.safetensors is missing"):
            find_model(name)
    (snapshot / "model-00001-of-00002.safetensors").unlink()
    with pytest.raises(ModelError, match="has no weights"):
        find_model("acme/tiny")


def test_offline_says_what_to_do(cache: Path) -> None:
    with pytest.raises(ModelError, match=r"acme/tiny is neither .*offline\): run `hf download acme/tiny` once"):
        find_model("acme/tiny")


@pytest.mark.parametrize("name", ["nowhere", "./nowhere/at-all", "/a/b/c", "a b/c", "acme/tiny@", "C:\\models"])
def test_neither_folder_nor_hub_id(name: str) -> None:
    with pytest.raises(ModelError, match=r"no such folder, and a model of a hub is named ORG/NAME\[@REVISION\]"):
        find_model(name)


def test_a_folder_that_is_no_model(segformer: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"neither config\.json nor model_index\.json"):
        find_model(str(tmp_path))
    with pytest.raises(ModelError, match="is a file; give the folder"):
        find_model(str(segformer / "model.safetensors"))
    (tmp_path / "config.json").write_text('{"model_type": "sam3"}', "utf-8")
    with pytest.raises(ModelError, match=r"has no weights: no \.safetensors"):
        find_model(str(tmp_path))
    (tmp_path / "config.json").write_text("{", "utf-8")
    with pytest.raises(ModelError, match=r"config\.json is not JSON"):
        find_model(str(tmp_path))


def of_status(status: int) -> dict[str, Any]:
    return {"response": errors.Response(status, request=SimpleNamespace())}


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (errors.GatedRepoError("", **of_status(403)), "gated: accept its licence at https://huggingface.co/acme/tiny,"),
        (errors.RepositoryNotFoundError("", **of_status(404)), "the hub has no such model"),
        (errors.RevisionNotFoundError("", **of_status(404)), "acme/tiny has no revision v2"),
        (errors.DisabledRepoError("", **of_status(403)), "disabled"),
        (errors.LocalEntryNotFoundError(""), "hf download acme/tiny --revision v2"),
        (errors.HFValidationError(""), "no hub id ORG/NAME"),
        (errors.HfHubHTTPError("503 Server Error\nmore", **of_status(503)), "HfHubHTTPError: 503 Server Error; start"),
        (OSError(28, "No space left on device"), "could not be downloaded: OSError: .*No space left"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_each_way_in_which_a_hub_fails(error: Exception, said: str) -> None:
    with pytest.raises(ModelError, match=said):
        raise hub_error("acme/tiny@v2", error)


def test_without_the_extra(segformer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "find_spec", lambda package: None if package == "transformers" else object())
    with pytest.raises(MissingExtra, match=r"needs transformers; run: pip install 'lightmill\[models\]'"):
        find_model(str(segformer))


def test_what_does_not_fit_is_refused(segformer: Path) -> None:
    found = find_model(str(segformer))
    check_fits(found, "cpu")
    huge = Found(found.folder, "acme/huge", found.version, 10**15, found.config)
    with pytest.raises(ModelError, match=r"acme/huge needs about 1396983\.9 GiB in this machine's memory, and .* free"):
        check_fits(huge, "cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what is said without a CUDA device")
def test_a_device_that_is_not_there(segformer: Path) -> None:
    with pytest.raises(ModelError, match="no CUDA device for cuda; give --device cpu"):
        check_fits(find_model(str(segformer)), "cuda")


def test_numbers_on_the_cpu() -> None:
    assert torch_dtype_for("cpu") == torch.float32


def test_damaged_weights(segformer: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(segformer, tmp_path / "model")
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(ModelError, match="cannot be loaded: SafetensorError"):
        load_weights(transformers.SegformerForSemanticSegmentation, find_model(str(folder)), "cpu")


def test_weights_of_another_kind_are_refused_rather_than_filled_up(segformer: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(segformer, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text("utf-8"))
    config["depths"] = [2, 1, 1, 1]
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    with pytest.raises(ModelError, match=r"do not fill a model of type segformer: segformer\..* is missing"):
        load_weights(transformers.SegformerForSemanticSegmentation, find_model(str(folder)), "cpu")


def test_weights_without_safetensors(segformer: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(segformer, tmp_path / "model")
    model = transformers.SegformerForSemanticSegmentation.from_pretrained(segformer)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    found = find_model(str(folder))
    assert found.weight_bytes == (folder / "pytorch_model.bin").stat().st_size
    loaded = load_weights(transformers.SegformerForSemanticSegmentation, found, "cpu")
    for one, other in zip(model.parameters(), loaded.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_bin_that_would_run_code_is_not_run(segformer: Path, tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "ran",)

    folder = shutil.copytree(segformer, tmp_path / "model")
    torch.save({"weight": Trap()}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_weights(transformers.SegformerForSemanticSegmentation, find_model(str(folder)), "cpu")
    assert not (tmp_path / "ran").exists()
