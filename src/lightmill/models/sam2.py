"""SAM 2 (Ravi et al. 2024) by points, by boxes, or by a grid of points that finds everything."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lightmill.errors import ModelError, UsageError
from lightmill.models.kinds import Image, Instances, Mask
from lightmill.models.pixels import PixelSpec, batches, mask_levels, read_pixel_spec, upsampled
from lightmill.models.sam3 import in_order
from lightmill.models.weights import HubModel, check_fits, load_weights, torch_dtype_for

if TYPE_CHECKING:
    import torch

SAM2_TYPES = "sam2", "sam2_video"  # the published weights are those of the video model, which hold this one
_DEFAULTS = {"size": {"height": 1024, "width": 1024}}
_GRID_BATCH = 64  # points of a grid that are asked at once, as in the authors' own mask generator
_GRID_SCORE = 0.88  # of a grid, what the model expects an IoU above this of ...
_GRID_STABILITY = 0.95  # ... and what hardly moves when the threshold does, is kept
_GRID_OVERLAP = 0.7  # two masks of a larger IoU are one thing
_LOWEST_LEVEL = 0.0  # of the mask logits: above it is the thing

Point = tuple[float, float, int]  # x and y as shares of width and height; 1 = on the thing, 0 = not on it
Box = tuple[float, float, float, float]  # left, top, right, bottom as shares of width and height


@dataclass(frozen=True)
class _Prompt:
    """Points [n, k, 2] with labels [n, k], or boxes [n, 4], in shares of the picture; n things are asked for."""

    points: "torch.Tensor | None" = None
    labels: "torch.Tensor | None" = None
    boxes: "torch.Tensor | None" = None


class Sam2(HubModel):
    """Finds the thing that `points` lie on (all of them one thing), what each of `boxes` holds, or, by `grid`, all.

    For one point, which may mean a part or a whole, the best of the model's three answers by its own expected IoU;
    several points and boxes have one answer. `grid=N` asks N x N points, three answers each, and keeps those with an
    expected IoU above `score` (0.88) whose area hardly depends on the threshold (stability above 0.95), and of any two
    that overlap by an IoU above 0.7 the better. Expected IoU is the score; for points and boxes `score` is 0: what is
    asked for is given, unless its mask is empty.

    Masks are those of transformers' `post_process_masks`: logits are brought to the picture's size (bilinear), and a
    pixel belongs to the thing where its logit is above 0. Levels are 255 * sigmoid(logit).
    """

    def __init__(
        self,
        name: str,
        *,
        points: Sequence[Point] = (),
        boxes: Sequence[Box] = (),
        grid: int = 0,
        score: float | None = None,
    ) -> None:
        """Raises UsageError unless exactly one of points, boxes and grid is given, in shares of the picture."""
        super().__init__(name)
        self.points = tuple((float(x), float(y), int(label)) for x, y, label in points)
        self.boxes = tuple((float(x0), float(y0), float(x1), float(y1)) for x0, y0, x1, y1 in boxes)
        self.grid = grid
        self.score = score if score is not None else _GRID_SCORE if grid else 0.0
        _check_prompts(self)
        self._spec: PixelSpec | None = None

    def check(self, device: str) -> None:
        """Raises ModelError where it cannot be had or does not fit."""
        found = self.found
        if found.model_type not in SAM2_TYPES:
            raise ModelError(f"{self.name} is a model of type {found.model_type or 'unknown'}, not SAM 2")
        read_pixel_spec(found.folder, defaults=_DEFAULTS)
        check_fits(found, device, factor=2.0 if self.grid else 1.5)

    def load(self, device: str) -> None:
        from transformers import Sam2Model

        self._spec = read_pixel_spec(self.found.folder, defaults=_DEFAULTS)
        model = load_weights(Sam2Model, self.found, device)
        model.prompt_encoder.shared_embedding.float()  # half precision would round a point's place
        self._model, self._device = model, device

    def unload(self) -> None:
        self._spec = None
        super().unload()

    def __call__(self, image: Sequence[Image]) -> list[Instances]:
        """[H, W, 3] uint8 of any sizes -> for each, what was asked for, best score first."""
        return self._looked_at(image)[0]

    def with_features(self, image: Sequence[Image]) -> tuple[list[Instances], list[NDArray[np.float32]]]:
        """What a call gives, and what the encoder saw of each picture: its coarsest map [D, h, w], of the whole of it.

        float32, whatever the model calculates with. For students that are to see likewise.
        """
        found, seen = self._looked_at(image)
        return found, [each.float().cpu().numpy() for each in seen]

    def _looked_at(self, image: Sequence[Image]) -> "tuple[list[Instances], list[torch.Tensor]]":
        import torch

        spec = self._spec
        model = self._loaded()
        assert spec is not None, "set by load, with the model"
        found = [Instances() for _ in image]
        maps = [torch.empty(0)] * len(found)
        with torch.inference_mode():
            for indices, pixels in batches(image, spec, device=self._device, dtype=torch_dtype_for(self._device)):
                seen = model.get_image_embeddings(pixels)
                for row, index in enumerate(indices):
                    maps[index] = seen[-1][row]
                if self.grid:
                    for row, index in enumerate(indices):
                        one = [level[row : row + 1] for level in seen]
                        found[index] = self._everything(one, pixels, image[index].shape[:2])
                    continue
                logits, scores = self._asked(seen, pixels, self._prompt())
                for row, index in enumerate(indices):
                    found[index] = self._answers(logits[row], scores[row], image[index].shape[:2])
        return found, maps

    def _prompt(self) -> _Prompt:
        import torch

        if self.boxes:
            return _Prompt(boxes=torch.tensor(self.boxes))
        points = torch.tensor([[(x, y) for x, y, _ in self.points]])
        return _Prompt(points, torch.tensor([[label for _, _, label in self.points]]))

    def _asked(
        self, seen: "list[torch.Tensor]", pixels: "torch.Tensor", prompt: _Prompt
    ) -> "tuple[torch.Tensor, torch.Tensor]":
        """Mask logits [pictures, things, answers, h, w] and their expected IoU [pictures, things, answers]."""
        import torch

        count, (height, width) = len(seen[0]), pixels.shape[-2:]
        size = torch.tensor([width, height], dtype=torch.float32)

        def repeated(share: "torch.Tensor | None") -> "torch.Tensor | None":
            return None if share is None else share.to(pixels.device).expand(count, *share.shape)

        points = None if prompt.points is None else prompt.points * size
        boxes = None if prompt.boxes is None else prompt.boxes * size.repeat(2)
        single = points is not None and points.shape[-2] == 1
        answer = self._model(
            image_embeddings=seen,
            input_points=repeated(points),
            input_labels=repeated(prompt.labels),
            input_boxes=repeated(boxes),
            multimask_output=single,
        )
        return answer.pred_masks.float(), answer.iou_scores.float()

    def _answers(self, logits: "torch.Tensor", scores: "torch.Tensor", size_hw: tuple[int, ...]) -> Instances:
        """Of each thing that was asked for in a picture, the best answer."""
        parts = []
        for number, (answers, expected) in enumerate(zip(logits, scores, strict=True)):
            best = int(expected.argmax())
            mask = sam2_mask(answers[best], size_hw)
            if mask.max() >= 128 and (self.score == 0 or float(expected[best]) > self.score):
                label = f"box {number + 1}" if self.boxes else "points"
                parts.append((min(max(float(expected[best]), 0.0), 1.0), mask, label))
        return in_order(parts)

    def _everything(self, seen: "list[torch.Tensor]", pixels: "torch.Tensor", size_hw: tuple[int, ...]) -> Instances:
        """What a grid of points finds in one picture."""
        import torch

        masks, scores = [], []
        grid = grid_points(self.grid)
        for start in range(0, len(grid), _GRID_BATCH):
            points = grid[start : start + _GRID_BATCH]
            prompt = _Prompt(points[:, None], torch.ones(len(points), 1, dtype=torch.long))
            logits, expected = (part.flatten(0, 2) for part in self._asked(seen, pixels, prompt))
            good = expected > self.score
            masks.append(logits[good])
            scores.append(expected[good])
        kept = grid_masks(torch.cat(masks), torch.cat(scores), size_hw)
        return in_order([(min(score, 1.0), mask, "grid") for score, mask in kept])


def _check_prompts(model: Sam2) -> None:
    if sum(map(bool, (model.points, model.boxes, model.grid))) != 1:
        raise UsageError(f"the model {model.name} finds what points, boxes or a grid show; give exactly one of these")
    if not all(0 <= x <= 1 and 0 <= y <= 1 and label in (0, 1) for x, y, label in model.points):
        raise UsageError(
            "a point is x,y,label: shares of width and height from 0 to 1, and 1 (on the thing) or 0 (not)"
        )
    if model.points and not any(label for _, _, label in model.points):
        raise UsageError("at least one point must lie on the thing (label 1)")
    if not all(0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1 for x0, y0, x1, y1 in model.boxes):
        raise UsageError(
            "a box is left,top,right,bottom: shares of width and height from 0 to 1, left < right, top < bottom"
        )
    if model.grid < 0 or model.grid > 256:
        raise UsageError(f"a grid has 1 to 256 points a side, got {model.grid}")
    if not 0 <= model.score <= 1:
        raise UsageError(f"--score is from 0 to 1, got {model.score}")


def grid_points(side: int) -> "torch.Tensor":
    """[side * side, 2] the middles of side x side equal cells, as shares of width and height, row by row."""
    import torch

    middles = (torch.arange(side) + 0.5) / side
    y, x = torch.meshgrid(middles, middles, indexing="ij")
    return torch.stack([x, y], dim=-1).reshape(-1, 2)


def sam2_mask(logits: "torch.Tensor", size_hw: tuple[int, ...]) -> Mask:
    """Mask logits [h, w] as a soft mask [H, W]."""
    full = upsampled(logits[None], (size_hw[0], size_hw[1]))[0]
    return mask_levels(full.sigmoid(), full > _LOWEST_LEVEL)


def grid_masks(
    logits: "torch.Tensor", scores: "torch.Tensor", size_hw: tuple[int, ...]
) -> Iterator[tuple[float, Mask]]:
    """Of mask logits [n, h, w], those that are stable at the size of the picture, each thing once, best score first."""
    best = scores.argsort(descending=True, stable=True)
    logits, scores = logits[best], scores[best]
    for number in distinct(logits > _LOWEST_LEVEL, [_stable(part, size_hw) for part in logits]):
        yield float(scores[number]), sam2_mask(logits[number], size_hw)


def _stable(logits: "torch.Tensor", size_hw: tuple[int, ...]) -> bool:
    """Whether the IoU of what lies above +1 and what lies above -1 exceeds 0.95, as in the authors' mask generator."""
    full = upsampled(logits[None], (size_hw[0], size_hw[1]))[0]
    inner, outer = int((full > _LOWEST_LEVEL + 1).sum()), int((full > _LOWEST_LEVEL - 1).sum())
    return inner > _GRID_STABILITY * outer


def distinct(masks: "torch.Tensor", wanted: Sequence[bool]) -> list[int]:
    """Of masks [n, h, w] of bool, best first, the indices of those `wanted` that overlap no better one of them.

    Greedy suppression by the IoU of the masks themselves (not of their boxes): above 0.7 two are one thing.
    """
    flat = masks.flatten(1).float()
    areas = flat.sum(1)
    kept: list[int] = []
    for number, useful in enumerate(wanted):
        if not useful:
            continue
        common = flat[kept] @ flat[number]
        union = areas[kept] + areas[number] - common
        if not bool((common > _GRID_OVERLAP * union).any()):
            kept.append(number)
    return kept
