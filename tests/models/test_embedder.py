import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tests.models.tiny import pictures, quiet

from lightmill.data.augment import Augment
from lightmill.data.crops import resize_into
from lightmill.errors import ModelError, UsageError
from lightmill.models import network_folder
from lightmill.models.backbones import TYPES, build_backbone, channels_of, feature_map, open_backbone
from lightmill.models.embedder import CropEmbedder, middle
from lightmill.models.embedder_files import (
    EmbedderConfig,
    load_network,
    make_network,
    read_config,
    save_embedder,
    update_config,
)
from lightmill.models.embedder_network import EmbedderNetwork, GeM, frozen_backbone, parameter_groups

SMALL: dict[str, Any] = {"hidden_sizes": [8, 8, 8, 16], "depths": [1, 1, 1, 1]}
VIT: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
VIT |= {"image_size": 32, "patch_size": 16}
BACKBONES: dict[str, dict[str, Any]] = {
    "convnext": SMALL,
    "convnextv2": SMALL,
    "dinov2": VIT | {"patch_size": 14},
    "dinov2_with_registers": VIT | {"num_register_tokens": 3},
    "dinov3_convnext": SMALL,
    "dinov3_vit": VIT | {"num_register_tokens": 2},
    "mobilenet_v2": {"depth_multiplier": 0.35},
    "regnet": SMALL | {"embedding_size": 8, "groups_width": 4},
    "resnet": SMALL | {"embedding_size": 8, "layer_type": "basic"},
    "vit": VIT,
}
RESNET = {"model_type": "resnet"} | BACKBONES["resnet"]
HALF = (0.5, 0.5, 0.5)


def config(**other: Any) -> EmbedderConfig:
    given = {"backbone": RESNET, "embedding": 12, "size_hw": (64, 32), "mean": HALF, "std": HALF}
    return EmbedderConfig.model_validate(given | other)


def network(settings: EmbedderConfig | None = None, *, seed: int = 0) -> EmbedderNetwork:
    """With random weights, and statistics of a few batches."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = make_network(settings or config()).train()
        for _ in range(3):
            made(torch.randn(8, 3, 64, 32))
        return made.eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("embedder") / "best"
    save_embedder(place, network(), config(thresholds={"": 0.4, "top": 0.3}, labels=("a", "b")))
    return place


def loaded(name: Path, **options: Any) -> CropEmbedder:
    made = CropEmbedder(name, **options)
    made.check("cpu")
    made.load("cpu")
    return made


# --- the network -----------------------------------------------------------------------------------------------------


def test_every_type_is_tried() -> None:
    assert set(BACKBONES) == set(TYPES)


@pytest.mark.parametrize("kind", BACKBONES)
def test_backbones_give_maps_and_learn(kind: str) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        backbone = build_backbone({"model_type": kind} | BACKBONES[kind])
        made = EmbedderNetwork(backbone, embedding=6, pooling="mean").train()
    pixels = torch.rand(2, 3, 96, 64, generator=torch.Generator().manual_seed(0))
    maps = feature_map(backbone, pixels)
    step = BACKBONES[kind].get("patch_size", 32)
    assert maps.shape == (2, channels_of(backbone), 96 // step, 64 // step)
    before, after = made(pixels)
    assert before.shape == after.shape == (2, 6)
    (before.square().sum() + (after * torch.arange(6)).sum()).backward()
    still = {name for name, weights in made.named_parameters() if weights.grad is None}
    # the neck's for good; what masks patches in pre-training; what a ConvNeXt does to a mean that is not taken here
    unused = {"neck.bias", "backbone.embeddings.mask_token", "backbone.layernorm.weight", "backbone.layernorm.bias"}
    assert still <= unused
    assert not any("layernorm" in name for name in still) or kind.startswith("convnext")


@pytest.mark.parametrize("kind", ["dinov2_with_registers", "vit", "dinov3_vit", "dinov3_convnext"])
def test_tokens_lie_where_their_patches_are(kind: str) -> None:
    backbone = build_backbone({"model_type": kind} | BACKBONES[kind]).eval()
    pixels = torch.rand(1, 3, 96, 64)
    with torch.inference_mode():
        more = {"interpolate_pos_encoding": True} if kind == "vit" else {}
        tokens = backbone(pixel_values=pixels, **more).last_hidden_state[0]
        maps = feature_map(backbone, pixels)[0]
    high, wide = maps.shape[1:]
    for row in range(high):
        for column in range(wide):
            torch.testing.assert_close(maps[:, row, column], tokens[len(tokens) - high * wide + row * wide + column])


def test_gem_follows_its_formula() -> None:
    maps = torch.rand(3, 5, 4, 2, dtype=torch.float64) * 10
    for power in (1.0, 3.0, 6.5):
        wanted = maps.pow(power).mean((2, 3)).pow(1 / power)
        torch.testing.assert_close(GeM(power=power)(maps), wanted.float(), rtol=1e-5, atol=1e-6)


def test_gem_takes_values_below_the_smallest_as_that_and_learns_from_empty_maps() -> None:
    pool = GeM(power=8.0)
    maps = torch.full((1, 2, 3, 3), -1.0)
    maps[0, 1] = 60_000
    half = maps.half().requires_grad_()
    found = pool(half)
    torch.testing.assert_close(found.detach(), torch.tensor([[1e-6, 59_999.0]]), rtol=1e-3, atol=0)
    found.sum().backward()
    assert half.grad is not None
    assert half.grad.isfinite().all()
    assert pool.power.grad is not None
    assert pool.power.grad.isfinite()


def test_the_neck_stands_between_the_two_features() -> None:
    """Luo et al. 2019: distances before the neck, angles behind it; its bias stays 0."""
    made = network().train()
    pixels = torch.randn(16, 3, 64, 32)
    before, after = made(pixels)
    spread = before.var(0, unbiased=False)
    torch.testing.assert_close(after, (before - before.mean(0)) / (spread + 1e-5).sqrt(), atol=1e-4, rtol=1e-4)
    assert not made.neck.bias.requires_grad
    made.eval()
    torch.testing.assert_close(made.embed(pixels), torch.nn.functional.normalize(made(pixels).after))


def test_without_an_embedding_there_is_no_linear_layer() -> None:
    made = network(config(embedding=0))
    assert made.dimensions == 16
    assert "reduce.weight" not in made.state_dict()


def test_a_frozen_backbone_neither_learns_nor_counts() -> None:
    """A4.5."""
    made = network().train()
    frozen_backbone(made, frozen=True)
    before = {key: value.clone() for key, value in made.backbone.state_dict().items()}
    made(torch.randn(8, 3, 64, 32)).after.sum().backward()
    assert all(torch.equal(value, before[key]) for key, value in made.backbone.state_dict().items())
    assert all(weights.grad is None for weights in made.backbone.parameters())
    assert made.neck.training
    frozen_backbone(made, frozen=False)
    made(torch.randn(8, 3, 64, 32)).after.square().sum().backward()
    assert all(weights.grad is not None for weights in made.backbone.parameters())


def test_norms_and_biases_have_no_decay_and_backbones_a_rate_of_their_own() -> None:
    made = network()
    groups = parameter_groups(made, decay=0.1, backbone_rate=0.5)
    found = {id(weights): (group["scale"], group["weight_decay"]) for group in groups for weights in group["params"]}
    assert len(found) == len(list(made.parameters()))
    for name, weights in made.named_parameters():
        wanted = (0.5 if name.startswith("backbone.") else 1.0, 0.1 if weights.ndim > 1 else 0.0)
        assert found[id(weights)] == wanted, name


# --- backbones by name -----------------------------------------------------------------------------------------------


def test_random_backbones_are_known_by_name() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        one = open_backbone("random:resnet-tiny")
        torch.manual_seed(3)
        again = open_backbone("random:resnet-tiny")
    first, second = one.model.state_dict(), again.model.state_dict()
    assert all(torch.equal(value, second[key]) for key, value in first.items())
    with pytest.raises(UsageError, match=r"no random backbone 'resnet81'; did you mean resnet18\?"):
        open_backbone("random:resnet81")


def test_stored_backbones_come_with_their_weights_and_colours(tmp_path: Path) -> None:
    """A classifier in a folder: its head is left out, a pooler that it has not is not missed."""
    settings = transformers.ViTConfig(**VIT, num_labels=3)
    with quiet():
        stored = transformers.ViTForImageClassification(settings)
        stored.save_pretrained(tmp_path)
    pixels = {"image_processor_type": "ViTImageProcessor", "size": {"height": 32, "width": 32}}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(pixels | {"image_mean": HALF, "image_std": HALF}))
    backbone = open_backbone(str(tmp_path))
    assert (backbone.mean, backbone.std) == (HALF, HALF)
    wanted = stored.vit.state_dict()
    found = backbone.model.state_dict()
    assert found.keys() == wanted.keys()
    assert all(torch.equal(value, wanted[key]) for key, value in found.items())
    again = build_backbone(backbone.settings).state_dict()  # what is kept of its settings makes the same network
    assert {key: value.shape for key, value in again.items()} == {key: value.shape for key, value in wanted.items()}


def test_stored_models_of_other_kinds_are_refused(tmp_path: Path) -> None:
    small = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    with quiet():
        transformers.BertModel(transformers.BertConfig(**small, vocab_size=9)).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="a model of type bert is no backbone here; those are convnext"):
        open_backbone(str(tmp_path))


# --- on the disk -----------------------------------------------------------------------------------------------------


def test_an_embedder_comes_back_to_the_last_bit(folder: Path) -> None:
    made, again = network(), load_network(folder)
    assert not again.training
    pixels = torch.randn(2, 3, 64, 32)
    with torch.inference_mode():
        assert torch.equal(made.embed(pixels), again.embed(pixels))
    assert {path.name for path in folder.parent.iterdir()} == {"best"}


def test_thresholds_are_per_view_with_one_for_all(folder: Path, tmp_path: Path) -> None:
    settings = read_config(folder)
    assert (settings.threshold("top"), settings.threshold("side")) == (0.3, 0.4)
    assert config().threshold("top") is None
    save_embedder(tmp_path / "a", network(), settings)
    before = (tmp_path / "a" / "model.safetensors").read_bytes()
    update_config(tmp_path / "a", settings.model_copy(update={"thresholds": {"": 0.7}}))
    assert read_config(tmp_path / "a").threshold("top") == 0.7
    assert (tmp_path / "a" / "model.safetensors").read_bytes() == before
    assert {path.name for path in (tmp_path / "a").iterdir()} == {"config.json", "model.safetensors"}


def test_a_write_that_dies_leaves_what_was_there(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place, old, new = tmp_path / "best", network(), network(seed=1)
    save_embedder(place, old, config())

    def dies(growing: Path, folder: Path) -> None:
        assert (growing / "model.safetensors").is_file()
        raise KeyboardInterrupt

    monkeypatch.setattr(network_folder, "_replace_folder", dies)
    with pytest.raises(KeyboardInterrupt):
        save_embedder(place, new, config())
    monkeypatch.undo()
    assert torch.equal(load_network(place).neck.weight, old.neck.weight)
    assert torch.equal(load_network(place).state_dict()["reduce.weight"], old.state_dict()["reduce.weight"])
    assert [path.name for path in tmp_path.iterdir()] == ["best"]


def changed(folder: Path, target: Path, **other: Any) -> Path:
    """The same embedder with other settings in its config.json."""
    target.mkdir()
    settings = json.loads((folder / "config.json").read_text()) | other
    (target / "config.json").write_text(json.dumps(settings))
    (target / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    return target


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"backbone": {"model_type": "bert"}}, "config.json: a model of type bert is no backbone"),
        ({"backbone": {"model_type": "timm_backbone", "use_pretrained_backbone": True}}, "type timm_backbone is no"),
        (
            {"backbone": RESNET | {"depths": [10**9, 1, 1, 1]}},
            "config.json: depths is 1000000000, and 1024 is the most",
        ),
        ({"backbone": RESNET | {"hidden_sizes": [10**12] * 4}}, "hidden_sizes is 1000000000000"),
        ({"backbone": RESNET | {"hidden_sizes": [8] * 5000}}, "hidden_sizes has 5000 entries"),
        ({"embedding": -1}, r"config.json is not that of an embedder \(embedding: .*greater than or equal to 0"),
        ({"size_hw": [0, 128]}, r"size_hw.0: .*greater than or equal to 8"),
        ({"std": [0.5, 0.0, 0.5]}, r"std.1: .*greater than 0"),
        ({"mean": [0.5, float("nan"), 0.5]}, r"mean.1: .*finite"),
        ({"run_me": "rm"}, r"run_me: Extra inputs"),
        ({"model_type": "resnet"}, "model_type: Input should be 'lightmill-embedder'"),
    ],
)
def test_hostile_settings_are_refused_by_file(
    folder: Path, tmp_path: Path, other: dict[str, Any], message: str
) -> None:
    with pytest.raises(ModelError, match=message) as raised:
        load_network(changed(folder, tmp_path / "bad", **other))
    assert str(tmp_path / "bad" / "config.json") in str(raised.value)


def test_settings_that_name_code_run_none(folder: Path, tmp_path: Path) -> None:
    code = tmp_path / "evil.py"
    code.write_text(f"open({str(tmp_path / 'executed')!r}, 'w')")
    bad = RESNET | {
        "auto_map": {"AutoModel": "evil.Model", "AutoConfig": "evil.Config"},
        "_name_or_path": str(tmp_path),
    }
    load_network(changed(folder, tmp_path / "bad", backbone=bad))  # what is not used is not looked at
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("damage", ["half", "missing", "other", "more"])
def test_damaged_weights_are_refused_by_file(folder: Path, tmp_path: Path, damage: str) -> None:
    place = changed(folder, tmp_path / "bad")
    path = place / "model.safetensors"
    weights = load_file(folder / "model.safetensors")
    if damage == "half":
        path.write_bytes(path.read_bytes()[:-100])
    elif damage == "missing":
        save_file({key: value for key, value in weights.items() if key != "neck.weight"}, path)
    elif damage == "other":
        save_file(weights | {"reduce.weight": torch.zeros(3, 3)}, path)
    else:
        save_file(weights | {"zzz": torch.zeros(1)}, path)
    wanted = {
        "half": "cannot be read",
        "missing": r"neck.weight is missing, wanted \(12,\) \(1 in all\)",
        "other": r"reduce.weight is \(3, 3\), wanted \(12, 16\)",
        "more": r"zzz is \(1,\), wanted none",
    }
    with pytest.raises(ModelError, match=wanted[damage]) as raised:
        load_network(place)
    assert str(path) in str(raised.value)


def test_other_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"holds no embedder: .*config\.json cannot be read"):
        read_config(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ModelError, match=r"config\.json is not that of an embedder \(the file: Invalid JSON"):
        read_config(tmp_path)
    with quiet():
        transformers.ResNetModel(transformers.ResNetConfig(**BACKBONES["resnet"])).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="is a model of type resnet, not one that `lightmill train reid` made"):
        CropEmbedder(tmp_path).check("cpu")
    with pytest.raises(ModelError, match="there is no such folder"):
        CropEmbedder(tmp_path / "absent").check("cpu")


# --- in use ----------------------------------------------------------------------------------------------------------


def test_crops_become_embeddings_as_in_validation(folder: Path) -> None:
    crops = pictures((64, 32), (150, 60), (20, 90), (1, 1))
    found = loaded(folder)(crops)
    batch = torch.zeros((4, 64, 32, 3), dtype=torch.uint8)
    for crop, place in zip(crops, batch.numpy(), strict=True):
        resize_into(crop, place)
    with torch.inference_mode():
        wanted = load_network(folder).embed(Augment.off(mean=HALF, std=HALF)(batch)).numpy()
    assert all(each.shape == (12,) and each.dtype == np.float32 for each in found)
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    assert loaded(folder)([]) == []


def test_what_a_crop_gets_does_not_depend_on_its_batch(folder: Path) -> None:
    crops, embedder = pictures(*[(90, 40)] * 5), loaded(folder)
    together = embedder(crops)
    assert all(np.array_equal(one, embedder([crop])[0]) for one, crop in zip(together, crops, strict=True))


def test_views_are_the_crop_and_its_middle_never_mirrored(folder: Path) -> None:
    """A4.22."""
    (crop,) = pictures((100, 50))
    embedder = loaded(folder)
    parts = [embedder([np.ascontiguousarray(middle(crop, zoom=zoom))])[0] for zoom in (1.0, 0.92, 0.85)]
    wanted = np.sum(parts, axis=0)
    (found,) = loaded(folder, views=True)([crop])
    np.testing.assert_allclose(found, wanted / np.linalg.norm(wanted), atol=1e-5)
    assert middle(crop, zoom=0.9).shape == (90, 45, 3)
    assert middle(crop[:1, :1], zoom=0.5).shape == (1, 1, 3)


def test_it_is_a_model_like_others(folder: Path) -> None:
    embedder = CropEmbedder(folder)
    assert embedder.on_device
    assert embedder.name == str(folder)
    assert embedder.version.startswith("blake2:")
    assert embedder.config.labels == ("a", "b")
    again = pickle.loads(pickle.dumps(embedder))
    with pytest.raises(RuntimeError, match="called before it was loaded"):
        again(pictures((8, 8)))
    again.load("cpu")
    assert len(again(pictures((8, 8)))) == 1
    again.unload()
    with pytest.raises(RuntimeError, match="called before it was loaded"):
        again(pictures((8, 8)))
