import json
from pathlib import Path
from typing import Any, get_args

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import transformers
from PIL import Image
from tests.models.tiny import quiet
from torch.nn import functional as F  # noqa: N812 (the name that torch's documents give it)

from lightmill.errors import MissingExtra, ModelError
from lightmill.models import network_folder, student_export
from lightmill.models.backbones import TYPES, build_backbone, open_backbone
from lightmill.models.student import (
    StudentConfig,
    load_student,
    make_student,
    read_student,
    save_student,
    student_on,
)
from lightmill.models.student_backbone import BackboneEncoder
from lightmill.models.student_export import TOLERANCE, export_onnx
from lightmill.models.student_heads import DeepHeads, FeatureProjection
from lightmill.models.student_network import SIZES, Size, StudentNetwork, enlarged, enlarged_at, probabilities, spread
from lightmill.ops.segment_metrics import confusion, map_of_logits, map_of_probabilities, scores
from lightmill.train.label_losses import Seen, cross_entropy
from lightmill.train.segment_losses import SegmentLoss, features, labels_at, total

NAMES = ("sky", "road", "tree", "car")
STAGES: dict[str, Any] = {"hidden_sizes": [8, 8, 8, 16], "depths": [1, 1, 1, 1]}
VIT: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
VIT |= {"image_size": 32, "patch_size": 16}
BACKBONES: dict[str, dict[str, Any]] = {
    "convnext": STAGES,
    "convnextv2": STAGES,
    "dinov2": VIT | {"patch_size": 14},
    "dinov2_with_registers": VIT | {"num_register_tokens": 3},
    "dinov3_convnext": STAGES,
    "dinov3_vit": VIT | {"num_register_tokens": 2},
    "mobilenet_v2": {"depth_multiplier": 0.35},
    "regnet": STAGES | {"embedding_size": 8, "groups_width": 4},
    "resnet": STAGES | {"embedding_size": 8, "layer_type": "basic"},
    "vit": VIT,
}
RESNET = {"model_type": "resnet"} | BACKBONES["resnet"]


def config(**other: Any) -> StudentConfig:
    return StudentConfig.model_validate({"size": "nano", "names": NAMES, "size_hw": (64, 96)} | other)


def network(settings: StudentConfig | None = None, *, seed: int = 0, dropout: float = 0.0) -> StudentNetwork:
    """With random weights, and statistics of a few batches."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = make_student(settings or config(), dropout=dropout)
        with torch.no_grad():
            for _ in range(20):
                made(torch.randn(4, 3, 64, 64))
        return made.eval()


def pixels(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("student") / "best"
    save_student(place, network(), config(background=("sky",), scores={"miou": 0.5}))
    return place


# --- the network -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "millions"), [("nano", 0.3), ("tiny", 1.0), ("small", 3.0), ("base", 8.0)])
def test_sizes_have_about_the_weights_they_promise(size: Size, millions: float) -> None:
    made = make_student(config(size=size, names=tuple(map(str, range(11)))))
    assert sum(weights.numel() for weights in made.parameters()) / 1e6 == pytest.approx(millions, rel=0.16)
    assert set(SIZES) == set(get_args(Size))


@pytest.mark.parametrize("hw", [(1, 1), (7, 200), (33, 65), (64, 96), (97, 31)])
@pytest.mark.parametrize("names", [("thing",), NAMES])
def test_any_size_of_picture_gives_logits_of_its_size(hw: tuple[int, int], names: tuple[str, ...]) -> None:
    made = network(config(names=names))
    with torch.inference_mode():
        logits = made(pixels(2, 3, *hw))
    assert logits.shape == (2, len(names), *hw)
    assert logits.dtype == torch.float32
    assert logits.isfinite().all()


def test_edges_are_repeated_inside_and_cut_off_again() -> None:
    made, picture = network(), pixels(1, 3, 50, 70)
    padded = torch.from_numpy(np.pad(picture.numpy(), ((0, 0), (0, 0), (0, 14), (0, 26)), mode="edge"))
    with torch.inference_mode():
        inside = (..., slice(49), slice(69))  # the last ones are mixed with what comes after
        torch.testing.assert_close(made(picture)[inside], made(padded)[inside], rtol=0, atol=1e-6)
        decoded = made.outputs(picture).decoded
    assert [tuple(each.shape[2:]) for each in decoded] == [(4, 5), (7, 9), (13, 18)]


def test_training_and_use_give_one_output() -> None:
    """B4.1: what is trained was one thing and what answered another. Here only batch norms and dropout ask."""
    made, picture = network(dropout=0.5), pixels(2, 3, 40, 50)
    with torch.inference_mode():
        wanted = made(picture)
        made.train()
        for part in made.modules():
            if isinstance(part, torch.nn.BatchNorm2d | torch.nn.Dropout2d):
                part.eval()
        assert torch.equal(made(picture), wanted)
        assert torch.equal(enlarged(made.outputs(picture).coarse)[..., :40, :50], wanted)


def test_pixels_that_training_looks_at_are_those_of_the_served_logits() -> None:
    """B4.1: a loss of other logits than those that are served. Every pixel, and at the edges too."""
    coarse = pixels(2, 5, 6, 9).double().requires_grad_()
    for first in ((0, 0), (0, 1), (1, 0), (1, 1)):
        wanted = enlarged(coarse)[..., first[0] :: 2, first[1] :: 2]
        found = enlarged_at(coarse, first=first)
        torch.testing.assert_close(found, wanted)
        slope = torch.randn_like(wanted)
        (theirs,), (ours,) = (torch.autograd.grad(each, coarse, slope) for each in (wanted, found))
        torch.testing.assert_close(ours, theirs)


def test_places_are_spread_as_torch_does() -> None:
    maps = pixels(2, 12, 3, 5)
    assert torch.equal(spread(maps, 2), F.pixel_shuffle(maps, 2))


def test_heads_of_the_training_are_no_part_of_the_network() -> None:
    """B4.1: what is saved, scored and exported has none of them."""
    made = network()
    before = set(made.state_dict())
    heads, projection = DeepHeads(made), FeatureProjection(made, channels=12)
    outputs = made.outputs(pixels(2, 3, 64, 96))
    assert [tuple(each.shape) for each in heads(outputs)] == [(2, 4, 4, 6), (2, 4, 8, 12)]
    assert projection(outputs, size_hw=(7, 9)).shape == (2, 12, 7, 9)
    assert projection(outputs, size_hw=(4, 6)).shape == (2, 12, 4, 6)
    assert set(made.state_dict()) == before
    assert not any(part in name for name in before for part in ("heads", "project"))


def test_the_sigmoid_comes_once() -> None:
    """B4.4: logits go below 0 and above 1; loss, shares and class map all mean the same."""
    made = network(config(names=("thing",)))
    with torch.inference_mode():
        logits = made(pixels(2, 3, 64, 64)) * 5
    assert float(logits.min()) < 0
    assert float(logits.max()) > 1
    labels = (pixels(2, 64, 64, seed=1) > 0).to(torch.uint8)
    shares = probabilities(logits)
    torch.testing.assert_close(shares, 1 / (1 + torch.exp(-logits)))
    wanted = F.binary_cross_entropy(shares[:, 0].double(), labels.double())
    torch.testing.assert_close(cross_entropy(Seen(logits.double(), labels)), wanted, rtol=1e-4, atol=0)
    assert torch.equal(map_of_logits(logits), map_of_probabilities(shares))
    torch.testing.assert_close(probabilities(pixels(1, 5, 4, 4).half()).sum(1), torch.ones(1, 4, 4))


@pytest.mark.parametrize("size", get_args(Size))
def test_a_new_network_neither_shouts_nor_whispers(size: Size) -> None:
    """Its maps vary by about 1 at every depth, its logits too, and the same seed gives the same weights."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        made = make_student(config(size=size))
        torch.manual_seed(5)
        again = make_student(config(size=size))
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in made.state_dict().items())
    logits, decoded = made.outputs(pixels(4, 3, 96, 96))
    assert all(0.3 < float(each.std().detach()) < 1.5 for each in (*decoded, logits))


@pytest.mark.parametrize("names", [("thing",), NAMES])
def test_every_weight_learns(names: tuple[str, ...]) -> None:
    made = make_student(config(names=names))
    heads = DeepHeads(made)
    labels = torch.randint(0, max(len(names), 2), (2, 64, 96), generator=torch.Generator().manual_seed(0))
    outputs = made.outputs(pixels(2, 3, 64, 96))
    chances = torch.Generator().manual_seed(0)
    total(SegmentLoss().supervised(outputs.coarse, heads(outputs), labels, chances=chances)).backward()
    for name, weights in [*made.named_parameters(), *heads.named_parameters()]:
        assert weights.grad is not None, name
        assert weights.grad.abs().sum() > 0, name


def test_amp_and_the_order_in_memory_change_logits_little() -> None:
    made, picture = network(), pixels(2, 3, 64, 96)
    with torch.inference_mode():
        wanted = made(picture)
        last = made.to(memory_format=torch.channels_last)(picture.contiguous(memory_format=torch.channels_last))
        torch.testing.assert_close(last, wanted, rtol=1e-4, atol=1e-4)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            half = made(picture)
    assert half.dtype == torch.float32
    assert float((half - wanted).abs().mean()) < 0.05 * float(wanted.std())


def test_pictures_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"pixels must be \[B, 3, H, W\], got \[3, 8, 8\]"):
        network()(pixels(3, 8, 8))


# --- backbones of transformers ---------------------------------------------------------------------------------------


def test_every_type_is_tried() -> None:
    assert set(BACKBONES) == set(TYPES)


@pytest.mark.parametrize("kind", BACKBONES)
def test_backbones_stand_before_the_same_decoder(kind: str) -> None:
    settings = config(backbone={"model_type": kind} | BACKBONES[kind])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = make_student(settings)
    picture = pixels(2, 3, 100, 130)
    outputs = made.outputs(picture)
    assert outputs.coarse.shape == (2, 4, 50, 65)
    sides = [130 / each.shape[-1] for each in outputs.decoded]
    assert sides == sorted(sides, reverse=True)
    assert 3.9 < sides[-1] <= 4  # so that what is fine is seen, whatever the backbone
    projected = FeatureProjection(made, channels=5)(outputs, size_hw=(6, 8))
    (outputs.coarse.square().mean() + total({0: features(projected, torch.ones(2, 5, 6, 8))})).backward()
    still = {name for name, weights in made.named_parameters() if weights.grad is None}
    assert all(name.startswith("encoder.backbone.") for name in still), still
    assert sum(weights.grad is not None for weights in made.encoder.backbone.parameters()) > 5


def test_maps_of_a_backbone_are_its_stages() -> None:
    backbone = build_backbone(RESNET | {"hidden_sizes": [8, 12, 16, 24]}).eval()
    encoder = BackboneEncoder(backbone)
    assert encoder.channels == (8, 12, 16, 24)
    picture = pixels(1, 3, 64, 96)
    with torch.inference_mode():
        maps = encoder(picture)
        wanted = backbone(pixel_values=picture, output_hidden_states=True).hidden_states[1:]
    assert [tuple(each.shape[2:]) for each in maps] == [(16, 24), (8, 12), (4, 6), (2, 3)]
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(maps, wanted, strict=True))


def test_stages_of_tokens_are_maps_too() -> None:
    """Swin gives its stages as tokens and as maps."""
    settings = transformers.Swinv2Config(
        embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 1, 1], window_size=8, image_size=64
    )
    with quiet():
        encoder = BackboneEncoder(transformers.Swinv2Model(settings))
    assert encoder.channels == (8, 16, 32, 64)
    maps = encoder(pixels(1, 3, 128, 64))
    assert [tuple(each.shape[2:]) for each in maps] == [(32, 16), (16, 8), (8, 4), (4, 2)]


def test_a_backbone_keeps_the_weights_that_it_came_with() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        backbone = open_backbone("random:resnet-tiny")
    before = {key: value.clone() for key, value in backbone.model.state_dict().items()}
    settings = config(backbone=backbone.settings, mean=backbone.mean, std=backbone.std)
    made = student_on(backbone.model, settings)
    assert made.training
    assert all(torch.equal(value, before[key]) for key, value in made.encoder.backbone.state_dict().items())
    assert make_student(settings).state_dict().keys() == made.state_dict().keys()


def test_a_backbone_without_maps_is_refused() -> None:
    with quiet():
        small = transformers.BertConfig(
            hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, vocab_size=9
        )
        model = transformers.BertModel(small)
    model.forward = lambda **_: transformers.modeling_outputs.BaseModelOutput(hidden_states=(torch.zeros(1, 9, 8),))
    with pytest.raises(ModelError, match="a model of type bert gives no maps"):
        BackboneEncoder(model)


# --- on the disk -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("other", [{}, {"names": ("thing",)}, {"backbone": RESNET}])
def test_a_student_comes_back_to_the_last_bit(tmp_path: Path, other: dict[str, Any]) -> None:
    """B4.1, 17: what was trained is what is read, with all that is needed to use it."""
    settings = config(**other)
    made = network(settings)
    save_student(tmp_path / "best", made, settings)
    again = load_student(tmp_path / "best")
    assert read_student(tmp_path / "best") == settings
    assert not again.training
    with torch.inference_mode():
        picture = pixels(2, 3, 50, 70)
        assert torch.equal(again(picture), made(picture))
    assert {path.name for path in (tmp_path / "best").iterdir()} == {"config.json", "model.safetensors"}
    assert [path.name for path in tmp_path.iterdir()] == ["best"]


def test_reading_a_student_leaves_random_numbers_alone(folder: Path) -> None:
    torch.manual_seed(3)
    wanted = torch.rand(4)
    torch.manual_seed(3)
    load_student(folder)
    assert torch.equal(torch.rand(4), wanted)


def test_settings_can_be_replaced_alone(folder: Path, tmp_path: Path) -> None:
    place = tmp_path / "best"
    save_student(place, load_student(folder), read_student(folder))
    before = (place / "model.safetensors").read_bytes()
    network_folder.save_settings(place, read_student(place).model_copy(update={"threshold": 0.3}))
    assert read_student(place).threshold == 0.3
    assert (place / "model.safetensors").read_bytes() == before


def test_a_write_that_dies_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """B4.25."""
    place, old, new = tmp_path / "best", network(), network(seed=1)
    save_student(place, old, config())

    def dies(growing: Path, folder: Path) -> None:
        assert (growing / "model.safetensors").is_file()
        raise KeyboardInterrupt

    monkeypatch.setattr(network_folder, "_replace_folder", dies)
    with pytest.raises(KeyboardInterrupt):
        save_student(place, new, config())
    monkeypatch.undo()
    assert torch.equal(load_student(place).head.weight, old.head.weight)
    assert [path.name for path in tmp_path.iterdir()] == ["best"]
    place.rename(tmp_path / ".best.before")  # killed between the two renames
    assert torch.equal(load_student(place).head.weight, old.head.weight)
    save_student(place, new, config())
    assert torch.equal(load_student(place).head.weight, new.head.weight)


def changed(folder: Path, target: Path, **other: Any) -> Path:
    """The same student with other settings in its config.json."""
    target.mkdir()
    settings = json.loads((folder / "config.json").read_text()) | other
    (target / "config.json").write_text(json.dumps(settings))
    (target / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    return target


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"backbone": {"model_type": "bert"}}, "config.json: a model of type bert is no backbone"),
        ({"backbone": RESNET | {"depths": [10**9, 1, 1, 1]}}, "depths is 1000000000, and 1024 is the most"),
        ({"size": "giant"}, r"config.json is not that of a student \(size: Input should be 'nano'"),
        ({"names": []}, "names: Tuple should have at least 1 item"),
        ({"names": ["a", "a", "b", "c"]}, "two classes have the same name"),
        ({"names": [f"class {number}" for number in range(300)]}, "names: Tuple should have at most 255 items"),
        ({"background": ["sea"]}, "background: there is no class 'sea'"),
        ({"ignore": 2}, "ignore is 2, which is the class 'tree'"),
        ({"size_hw": [0, 64]}, r"size_hw.0: .*greater than or equal to 8"),
        ({"std": [0.5, 0.0, 0.5]}, r"std.1: .*greater than 0"),
        ({"mean": [0.5, float("nan"), 0.5]}, r"mean.1: .*finite"),
        ({"threshold": 1.0}, r"threshold: .*less than 1"),
        ({"run_me": "rm"}, r"run_me: Extra inputs"),
        ({"model_type": "lightmill-embedder"}, "model_type: Input should be 'lightmill-student'"),
        (
            {"names": ["a", "b"], "background": []},
            r"model.safetensors does not fill the network of its config.json: head.bias is \(16,\)",
        ),
        ({"size": "tiny"}, r"model.safetensors does not fill the network"),
    ],
)
def test_hostile_settings_are_refused_by_file(
    folder: Path, tmp_path: Path, other: dict[str, Any], message: str
) -> None:
    """B4.2, 17: never a placeholder, and the message names the file."""
    with pytest.raises(ModelError, match=message) as raised:
        load_student(changed(folder, tmp_path / "bad", **other))
    assert str(tmp_path / "bad") in str(raised.value)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("half", "cannot be read .* get the student once more"),
        ("missing", "cannot be read .* get the student once more"),
        ("other", "does not fill the network"),
        ("config", "holds no student: .*config.json cannot be read"),
        ("text", r"config.json is not that of a student \(the file: Invalid JSON"),
    ],
)
def test_damaged_folders_are_refused_by_file(folder: Path, tmp_path: Path, damage: str, message: str) -> None:
    """B4.2, 3, 25."""
    bad = changed(folder, tmp_path / "bad")
    weights, settings = bad / "model.safetensors", bad / "config.json"
    if damage == "half":
        weights.write_bytes(weights.read_bytes()[:5000])
    elif damage == "missing":
        weights.unlink()
    elif damage == "other":
        save_student(bad, network(config(size="tiny")), config())
    elif damage == "config":
        settings.unlink()
    else:
        settings.write_text("{")
    with pytest.raises(ModelError, match=message) as raised:
        load_student(bad)
    assert str(bad) in str(raised.value)


# --- ONNX ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "other",
    [
        {},
        {"names": ("thing",)},
        *[{"backbone": {"model_type": kind} | BACKBONES[kind]} for kind in ("resnet", "convnext", "mobilenet_v2")],
    ],
)
def test_an_exported_student_is_that_of_torch(tmp_path: Path, other: dict[str, Any]) -> None:
    """Within 1e-4, for other sizes and numbers of pictures than it was exported with."""
    settings = config(**other)
    made = network(settings)
    save_student(tmp_path / "best", made, settings)
    target = tmp_path / "there" / "student.onnx"
    assert export_onnx(tmp_path / "best", target) <= TOLERANCE
    session = onnxruntime.InferenceSession(target, providers=["CPUExecutionProvider"])
    for shape in ((1, 3, 64, 96), (3, 3, 45, 131), (2, 3, 160, 32)):
        picture = pixels(*shape, seed=7)
        with torch.inference_mode():
            wanted = made(picture).numpy()
        (found,) = session.run(["logits"], {"pixels": picture.numpy()})
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4)
    assert [path.name for path in target.parent.iterdir()] == ["student.onnx"]


def test_the_file_says_how_to_use_it(folder: Path, tmp_path: Path) -> None:
    export_onnx(folder, tmp_path / "a.onnx")
    model = onnx.load(tmp_path / "a.onnx")
    onnx.checker.check_model(model, full_check=True)
    said = {each.key: each.value for each in model.metadata_props}
    settings = read_student(folder)
    assert json.loads(said["names"]) == list(NAMES)
    assert json.loads(said["mean"]) == list(settings.mean)
    assert json.loads(said["std"]) == list(settings.std)
    assert (json.loads(said["size_hw"]), json.loads(said["ignore"])) == ([64, 96], 255)
    assert (json.loads(said["threshold"]), json.loads(said["background"])) == (0.5, ["sky"])
    assert said["lightmill"] == settings.lightmill
    assert [each.name for each in model.graph.input] == ["pixels"]


def test_an_export_that_comes_out_different_is_not_written(folder: Path, tmp_path: Path) -> None:
    content = student_export._exported(network(seed=1), config())
    with pytest.raises(ModelError, match=r"gives logits that are .* away from those of torch; it is not written"):
        student_export._compared(content, network(), config())
    with pytest.raises(ModelError, match="holds no student"):
        export_onnx(tmp_path / "nothing", tmp_path / "a.onnx")
    assert not (tmp_path / "a.onnx").exists()


def test_without_onnx_the_extra_is_named(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(student_export, "find_spec", lambda package: None if package == "onnx" else object())
    with pytest.raises(MissingExtra, match=r"exports to ONNX need onnx; run: pip install 'lightmill\[train\]'"):
        export_onnx(folder, tmp_path / "a.onnx")


# --- learning --------------------------------------------------------------------------------------------------------


def eight(folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """The middle of eight pictures, uint8 [8, 128, 160, 3] and their labels [8, 128, 160]: eleven classes and void."""
    names = sorted(path.stem for path in (folder / "images").iterdir())[::45][:8]
    part = np.s_[150:278, 200:360]
    images = [np.asarray(Image.open(folder / "images" / f"{name}.jpg"))[part] for name in names]
    masks = np.stack([np.asarray(Image.open(folder / "masks" / f"{name}.png"))[part] for name in names])
    return torch.from_numpy(np.stack(images)), torch.from_numpy(np.where(masks == 11, np.uint8(255), masks))  # 11: void


def drawn_eight() -> tuple[torch.Tensor, torch.Tensor]:
    """Eight pictures of shapes in noise, where the shared data is absent; classes 0..4."""
    rng = np.random.default_rng(0)
    colours = rng.integers(30, 220, (5, 3))
    labels = np.zeros((8, 128, 160), np.uint8)
    for each, number in zip(np.repeat(np.arange(8), 4), np.tile(np.arange(1, 5), 8), strict=True):
        centre = tuple(int(place) for place in rng.integers(20, 120, 2))
        cv2.circle(labels[each], centre, int(rng.integers(10, 26)), int(number), -1)
    images = np.clip(colours[labels] + rng.normal(0, 12, (*labels.shape, 3)), 0, 255).astype(np.uint8)
    return torch.from_numpy(images), torch.from_numpy(labels)


def overfitted(
    images: torch.Tensor, labels: torch.Tensor, *, steps: int, rate: float, classes: int
) -> tuple[StudentNetwork, torch.Tensor]:
    """A nano student that saw nothing else, and what it is fed with."""
    batch = ((images.float() / 255 - 0.45) / 0.225).permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = make_student(config(names=tuple(map(str, range(classes)))))
        heads = DeepHeads(made)
    made = made.to(memory_format=torch.channels_last)
    chances = torch.Generator().manual_seed(0)
    optimiser = torch.optim.AdamW([*made.parameters(), *heads.parameters()], lr=rate, weight_decay=0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=rate, total_steps=steps, pct_start=0.06)
    for _ in range(steps):
        outputs = made.outputs(batch)
        loss = total(SegmentLoss().supervised(outputs.coarse, heads(outputs), labels, chances=chances))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return made.eval(), batch


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("where", ["camvid", "drawn"])
def test_eight_pictures_are_learnt_by_heart(where: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """Mean IoU of the served network, read back from its folder: 0.98 and more. B4.1."""
    if where == "camvid":
        images, labels = eight(request.getfixturevalue("shared_data") / "camvid" / "train")
        names, steps = tuple("abcdefghijk"), 600
    else:
        images, labels = drawn_eight()
        names, steps = tuple("abcde"), 200
    made, batch = overfitted(images, labels, steps=steps, rate=0.02, classes=len(names))
    save_student(tmp_path / "best", made, config(names=names))
    with torch.inference_mode():
        found = map_of_logits(load_student(tmp_path / "best")(batch))
    assert scores(confusion(labels, found, classes=len(names))).mean_iou >= 0.98


def test_a_thing_is_found_after_few_steps() -> None:
    """The short one of the above: a binary student, bright squares in noise, some pictures empty."""
    rng = np.random.default_rng(1)
    labels = torch.zeros(6, 64, 64, dtype=torch.uint8)
    for each in range(4):
        y, x = rng.integers(4, 36, 2)
        labels[each, y : y + 20, x : x + 20] = 1
    images = torch.from_numpy(rng.integers(0, 90, (6, 64, 64, 3)).astype(np.uint8)) + 140 * labels[..., None]
    made, batch = overfitted(images, labels, steps=40, rate=0.01, classes=1)
    with torch.inference_mode():
        found = map_of_logits(made(batch))
    assert scores(confusion(labels, found, classes=2)).iou[1] > 0.9
    assert not found[4:].any()
    coarse = labels_at(labels, size_hw=(16, 16))
    assert torch.equal(coarse, labels[:, 2::4, 2::4])
