"""Portraits into training data for relighting: foreground, albedo, and the same picture in other light."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import ClassVar, Literal, Self

import cv2
from pydantic import Field, field_validator, model_validator

from lightmill.engine.items import Json, Source
from lightmill.engine.journal import Journal, Row
from lightmill.engine.outputs import Outputs
from lightmill.engine.pipeline import Pipeline
from lightmill.engine.run import Job, RunResult
from lightmill.engine.run import run as run_job
from lightmill.engine.stages import Batch, Each, Fan, Save, To
from lightmill.errors import UsageError
from lightmill.export import instructpix2pix
from lightmill.models.segmenters import default_model, warnings_of
from lightmill.ops.lights import Light, Ranges
from lightmill.ops.quality import sharpness
from lightmill.recipes.base import (
    EndTime,
    FramePick,
    FrameRate,
    KeepBy,
    KeepTop,
    Recipe,
    Scored,
    ScoreModel,
    StartTime,
    check_times,
    listed,
    option_name,
    phrases,
    repeated,
    run_only,
)
from lightmill.recipes.devices import chosen_device
from lightmill.recipes.foreground import Foreground, without_masks
from lightmill.recipes.light_options import (
    BackdropOption,
    ElevationRange,
    ShareRange,
    ShininessRange,
    WeightsOption,
    spread_patterns,
)
from lightmill.recipes.lighting import (
    Backdrop,
    DeviceLightUp,
    LightUp,
    cast_shadows,
    decomposer_stage,
    given_lights,
    make_portrait,
    normals_stage,
    occlude,
    plan_lights,
    preview_output,
    take_lit,
)
from lightmill.recipes.lit_files import (
    OUTPUTS,
    Metadata,
    Output,
    all_files,
    light_files,
    light_label,
    shared_files,
    told_labels,
)
from lightmill.recipes.lit_models import LitModels, open_models
from lightmill.recipes.lit_pairs import apart_from_pairs, pairs_of
from lightmill.recipes.masking import MaskRule, is_local_model
from lightmill.recipes.masks import ALPHA
from lightmill.recipes.pictures import picture_stages
from lightmill.recipes.replay import Record, compare, read_record
from lightmill.recipes.scoring import Choice, score_columns, score_stages, wanted_columns
from lightmill.recipes.tables import write_table
from lightmill.sources import open_source

SCORES = {"score_model", "score_prompt"}
TIMES = {"start", "end"}  # a frame of a video is found by its key, among those of the same --fps and --pick


class Relight(Recipe):
    """Show portraits in other light, with their masks, albedo and everything that was drawn for them.

    INPUT is a table with a column image_path, a folder of pictures, one picture, a ZIP, or a video.
    """

    name: ClassVar[str] = "relight"
    table_suffix: ClassVar[str] = "relighting_outputs"
    out_is_optional: ClassVar[bool] = True
    path_options: ClassVar = {
        "masks": lambda value: value != ALPHA,
        "mask_model": is_local_model,
        "albedo": is_local_model,
        "normals": is_local_model,
        "score_model": is_local_model,
    }

    masks: str | None = Field(None, description="A folder of masks (255 = foreground), or `alpha`: the input's own.")
    mask_prompt: tuple[str, ...] = repeated(description="The foreground is what these words name: person.")
    mask_model: str | None = Field(None, description="What finds it, as `mask --model` (default: as there).")
    mask_score: float | None = Field(None, ge=0, le=1, description="Leave out what scores below this.")
    instances: Literal["union", "largest", "best"] = Field("union", description="Of several things that are found.")
    feather: float = Field(0.0, ge=0, le=0.5, description="Spread the mask's edge over this share of the diagonal.")
    min_foreground: float = Field(0.01, ge=0, le=1, description="Leave out pictures with less of it than this share.")
    albedo: str = Field("builtin:retinex", description="Takes pictures apart: builtin:retinex, builtin:msr, …")
    normals: str = Field("builtin:inflate", description="Says how surfaces face.")
    degrade: WeightsOption = Field(
        {"soft": 0.3, "hard": 0.2, "specular": 0.1, "advanced": 0.2, "patterns": 0.2},
        description="Kinds of light by weight: soft, hard, specular, advanced, patterns, or patterns by their names.",
    )
    ambient: ShareRange = Field((0.25, 0.6), description="Share of the light that comes from everywhere, LOW-HIGH.")
    elevation: ElevationRange = Field((10.0, 80.0), description="Of lamps above the picture's plane, in degrees.")
    opacity: ShareRange = Field((0.4, 0.9), description="Of shadows, LOW-HIGH.")
    gloss: ShareRange = Field((0.02, 0.12), description="Of highlights: share of the lamp's light, LOW-HIGH.")
    shininess: ShininessRange = Field((10.0, 100.0), description="Blinn-Phong exponent, LOW-HIGH.")
    variants: int = Field(1, ge=1, le=100, description="Lights a portrait; they share its mask and albedo.")
    seed: int = Field(0, ge=0, description="Of everything that is drawn; each picture draws by its own key.")
    background: BackdropOption = Field("gray", description="gray, original, or a colour as in #7f7f7f.")
    write: tuple[Output, ...] = Field(OUTPUTS, description="Which pictures to write, with commas.")
    export: tuple[Literal["instructpix2pix"], ...] = Field((), description="instructpix2pix: pairs with instructions.")
    score: Scored = False
    score_model: ScoreModel = None
    score_prompt: tuple[str, ...] = repeated(description="What CLIP is asked.")
    keep_top: KeepTop = None
    by: KeepBy = "sharpness"
    fps: FrameRate = None
    start: StartTime = None
    end: EndTime = None
    pick: FramePick = "first"
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Where models and light are worked out.")
    replay: bool = run_only(False, description="INPUT is a metadata.json: make its picture again.")

    _listed = listed("write", "export")
    _phrases = field_validator("mask_prompt", "score_prompt", mode="before")(phrases)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        check_times(fps=self.fps, start=self.start, end=self.end, pick=self.pick)
        missing = {"output", "input"} - set(self.write)
        if self.export and missing:
            raise ValueError(f"--export instructpix2pix needs --write with {' and '.join(sorted(missing))}")
        if bool(self.score_prompt) != bool(self.score_model):
            raise ValueError("--score-model and --score-prompt go together: what is asked, and who answers")
        found = {"mask_prompt", "mask_model", "mask_score", "instances"}
        if self.masks and self.model_dump(include=found, exclude_defaults=True):
            raise ValueError(
                "--masks gives the foreground; leave out --mask-prompt, --mask-model, --mask-score and --instances, "
                "or --masks"
            )
        return self

    # --- the run -----------------------------------------------------------------------------------------------------

    def run(self, input: Path | str, out: Path | str, *, retry: Callable[[Row], bool] | None = None) -> RunResult:
        """Do the work; before it, with --keep-top, look at all pictures; instead of it, with --replay, do one again."""
        input, out = Path(input), Path(out)
        if self.replay:
            return self._again(read_record(input), out, retry)
        if self.keep_top:
            scored = self._choice().run(self, self._source(input, out), input, out, device=chosen_device(self.device))
            if scored.outcome != "finished":
                return scored
        return super().run(input, out, retry=retry)

    def default_out(self, input: Path) -> Path:
        """A replay goes into the folder that one is in, under a name of its own."""
        return Path(f"{input.stem}_replay") if self.replay else super().default_out(input)

    def _again(self, record: Record, out: Path, retry: Callable[[Row], bool] | None) -> RunResult:
        """The picture of a metadata.json, made again and compared."""
        given = self.model_fields_set - {"replay"}
        how = given & self.run_only_fields()
        if given - how:
            options = ", ".join(option_name(name) for name in sorted(given - how))
            raise UsageError(f"--replay takes its options from the metadata; leave out {options}")
        recipe = type(self).from_values({**record.options, **self.model_dump(include=how)})
        source = record.source(recipe.source_options(out))
        job = recipe.job_of(source, record.input, out, lights=(record.light,))
        job = replace(job, config={**job.config, **record.config}, command=self.command(record.path))
        result = run_job(job, recipe.run_options(), retry=retry)
        return replace(result, remarks=(*result.remarks, compare(record, out)))

    def _source(self, input: Path, out: Path) -> Source:
        times = {"fps": self.fps, "start_s": self.start, "end_s": self.end, "pick": self.pick}
        source = open_source(input, self.source_options(out, threads=self.threads, sharpness=sharpness, **times))
        return without_masks(source, self.masks)

    def _choice(self) -> Choice:
        assert self.keep_top, "there is a choice only with --keep-top; please report this as a bug"
        return Choice(self.keep_top, self.by, self.score_model, self.score_prompt)

    def _models(self) -> LitModels:
        return open_models(
            albedo=self.albedo,
            normals=self.normals,
            mask=None if self.masks else self.mask_model or default_model(self.mask_prompt),
            prompts=self.mask_prompt,
            score=self.mask_score,
            scorer=self.score_model,
            score_prompts=self.score_prompt,
            seed=self.seed,
        )

    def _foreground(self, models: LitModels) -> Foreground:
        rule = MaskRule(instances=self.instances, feather=self.feather, soft=True)
        return Foreground(models.segmenter, rule, masks=self.masks, least=self.min_foreground)

    def job(self, input: Path, out: Path) -> Job:
        return self.job_of(self._source(input, out), input, out)

    def job_of(self, source: Source, input: Path, out: Path, *, lights: tuple[Light, ...] | None = None) -> Job:
        """The work on a source; `lights`: these instead of drawn ones."""
        device = chosen_device(self.device)
        models = self._models()
        models.check(device)
        foreground = self._foreground(models)
        choice = [self._choice().stage(out)] if self.keep_top and lights is None else []
        base: dict[str, Json] = {
            "lightmill": self.version(),
            "recipe": self.name,
            "input": str(input.resolve()),
            "device": device,
            "options": self._for_replay(),
            "models": models.described(),
        }
        return Job(
            recipe=self.name,
            version=self.version(),
            config=self.config(input) | {"device": device, "models": models.described()},
            command=self.command(input),
            source=source,
            out=out,
            make_pipeline=partial(
                self.pipeline,
                models,
                foreground,
                Metadata(base),
                choice,
                video=source.streams,
                device=device,
                lights=lights,
            ),
            device=device,
            check_names=apart_from_pairs if self.export else lambda _: None,
            warnings=warnings_of(models.segmenter),
            export=lambda outputs, journal: self._export(outputs, journal, source, input),
            columns=wanted_columns(self.score, self.score_model, self.keep_top),
        )

    def _for_replay(self) -> dict[str, Json]:
        """The options that one picture depends on, its light apart."""
        other = {"naming", "absolute_paths", "variants", "export", "score", "keep_top", "by", *SCORES, *TIMES}
        options = self.model_dump(mode="json", exclude_defaults=True, exclude=self.run_only_fields() | other)
        return self.absolute(options)

    def pipeline(
        self,
        models: LitModels,
        foreground: Foreground,
        metadata: Metadata,
        choice: list[Each],
        *,
        video: bool,
        device: str,
        lights: tuple[Light, ...] | None,
    ) -> Pipeline:
        """Find the foreground, take the picture apart, draw lights, and show it in each of them."""
        cv2.setNumThreads(1)  # the engine owns the threads; of every process that works
        wanted = frozenset(self.write)
        return Pipeline(
            *choice,
            *picture_stages(video=video, max_pixels=self.max_pixels),
            *(score_stages(models.scorer) if self.score or (models.scorer and not choice) else ()),
            *foreground.stages,
            decomposer_stage(models.decomposer, size=8),
            normals_stage(models.normals, size=8),
            Each(make_portrait, makes="portrait", name="portrait"),
            self._draw(lights),
            Each(cast_shadows, makes="shadows", name="shadows"),
            Each(occlude, makes="occlusion", name="occlusion"),
            *self._light_up(device),
            Each(shared_files, makes="shared", name="encode", wanted=wanted),
            Fan(
                part="variant",
                over=self._variants,
                stages=(
                    self._light(device),
                    Each(preview_output, name="preview"),
                    Each(light_files, makes="light_pngs", name="encode light", wanted=wanted),
                    Each(metadata, makes="metadata", name="metadata"),
                ),
                gathers={"light_pngs": "lit_files", "metadata": "metadatas"},
            ),
            Each(all_files, makes=("pngs", "jsons"), name="name files"),
            Save(pngs=To("{name}_{part}.png", "{part}"), jsons=To("{name}_{part}.json", "{part}")),
            given=("frame",) if video else (),
        )

    @property
    def _variants(self) -> dict[str, int]:
        return {"": 0} if self.variants == 1 else {f"v{i:02d}": i for i in range(self.variants)}

    def _draw(self, lights: tuple[Light, ...] | None) -> Each:
        if lights is not None:
            return Each(given_lights, makes="lights", name="lights", lights_given=lights)
        ranges = Ranges(
            ambient=self.ambient,
            elevation=self.elevation,
            opacity=self.opacity,
            gloss=self.gloss,
            shininess=self.shininess,
        )
        weights = spread_patterns(self.degrade)
        return Each(
            plan_lights,
            makes="lights",
            name="lights",
            seed=self.seed,
            weights=weights,
            ranges=ranges,
            variants=self.variants,
        )

    def _light_up(self, device: str) -> list[Batch]:
        if device == "cpu":
            return []
        return [Batch(DeviceLightUp(Backdrop.parse(self.background)), makes="lit_on_device", name="light", size=16)]

    def _light(self, device: str) -> Each:
        if device == "cpu":
            return Each(LightUp(Backdrop.parse(self.background)), makes="lit", name="light")
        return Each(take_lit, makes="lit", name="take")

    # --- at the end --------------------------------------------------------------------------------------------------

    def _export(self, outputs: Outputs, journal: Journal, source: Source, input: Path) -> list[str]:
        made: list[str] = []
        told = told_labels(self.write, self._variants)
        if self.export:
            labels = [light_label("output", variant) for variant in self._variants]
            lines = instructpix2pix.metadata_lines(pairs_of(outputs, journal, labels))
            outputs.write_if_changed(f"{instructpix2pix.FOLDER}/metadata.jsonl", lines)
            made.append(f"{instructpix2pix.FOLDER}/metadata.jsonl")
        return made + write_table(
            outputs,
            journal,
            source,
            input=input,
            suffix=self.table_suffix,
            absolute=self.absolute_paths,
            label=told[0],
            extra=lambda row: self._columns(row, told[1:], outputs.root),
        )

    def _columns(self, row: Row, labels: list[str], out: Path) -> dict[str, str]:
        """What the user's table gets besides: the other lights of each portrait, and scores."""
        folder = out.resolve() if self.absolute_paths else Path()
        paths = {f"output_image_path_{label.split('_')[0]}": row.paths.get(label, "") for label in labels}
        return {name: str(folder / path) if path else "" for name, path in paths.items()} | score_columns(row)
