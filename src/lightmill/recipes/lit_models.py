"""The models of relight, opened by name and told apart in metadata."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lightmill.engine.items import Json
from lightmill.models.kinds import Decomposer, Model, NormalEstimator, Scorer, Segmenter
from lightmill.models.openers import open_decomposer, open_normals
from lightmill.models.segmenters import open_segmenter
from lightmill.recipes.masking import located


@dataclass(frozen=True)
class LitModels:
    """Who finds the foreground, takes pictures apart, says how surfaces face, and judges."""

    decomposer: Decomposer
    normals: NormalEstimator
    segmenter: Segmenter | None
    scorer: Scorer | None

    def check(self, device: str) -> None:
        """Raises what a model raises that cannot be had, before any picture is touched."""
        for _, model in self._named():
            model.check(device if model.on_device else "cpu")

    def described(self) -> dict[str, Json]:
        """Names and versions, for the config and the metadata."""
        return {role: {"model": located(model.name), "version": model.version} for role, model in self._named()}

    def _named(self) -> Iterator[tuple[str, Model]]:
        roles = {"mask": self.segmenter, "albedo": self.decomposer, "normals": self.normals, "score": self.scorer}
        return ((role, model) for role, model in roles.items() if model)


def open_scorer(name: str | None, prompts: Sequence[str]) -> Scorer | None:
    """A CLIP model, where one is named."""
    if name is None:
        return None
    from lightmill.models.clip import open_clip

    return open_clip(name, prompts=prompts)


def open_models(
    *,
    albedo: str,
    normals: str,
    mask: str | None,
    prompts: Sequence[str],
    score: float | None,
    scorer: str | None,
    score_prompts: Sequence[str],
    seed: int,
) -> LitModels:
    """Raises UsageError for names that are none, and what finding a model raises; nothing is loaded."""
    return LitModels(
        decomposer=open_decomposer(albedo, seed=seed),
        normals=open_normals(normals, seed=seed),
        segmenter=open_segmenter(mask, prompts=prompts, score=score, options="--mask-") if mask else None,
        scorer=open_scorer(scorer, score_prompts),
    )
