"""The options that `prepare` and `caption` share: how pictures come out, and which of them are taken."""

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

import cv2
from pydantic import AfterValidator, Field, field_validator, model_validator

from lightmill.codecs.encode import ImageFormat, Subsampling
from lightmill.engine.items import Source
from lightmill.engine.journal import Journal, Row
from lightmill.engine.manifest import Columns
from lightmill.engine.pipeline import Pipeline
from lightmill.engine.run import RunResult
from lightmill.engine.stages import Each, Stage
from lightmill.ops.buckets import bucket_sizes
from lightmill.ops.fit import Colour, Fit
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
    SizeOption,
    StartTime,
    check_times,
    phrases,
    repeated,
    run_only,
)
from lightmill.recipes.devices import chosen_device
from lightmill.recipes.dry_run import dry_run
from lightmill.recipes.lit_models import open_scorer
from lightmill.recipes.masking import is_local_model
from lightmill.recipes.prepared import Preparer
from lightmill.recipes.scoring import Choice, score_columns, score_stages, wanted_columns
from lightmill.sources import open_source
from lightmill.types import Size

COLOURS: dict[str, Colour] = {"white": (255, 255, 255), "black": (0, 0, 0), "gray": (128, 128, 128)}
IMAGE = "image"  # the label of the picture in the manifest


def colour_of(text: str) -> Colour:
    """`white`, `black`, `gray` or `#rrggbb`. Raises ValueError.

    >>> colour_of("#ff8000"), colour_of("white")
    ((255, 128, 0), (255, 255, 255))
    """
    if text in COLOURS:
        return COLOURS[text]
    try:
        red, green, blue = bytes.fromhex(text.removeprefix("#"))
    except ValueError:
        raise ValueError(f"a colour is {', '.join(COLOURS)} or as in #ff8000, got {text!r}") from None
    return red, green, blue


def _checked(text: str) -> str:
    colour_of(text)
    return text


ColourOption = Annotated[str, AfterValidator(_checked)]


class Preparing(Recipe):
    """What makes OUT/images of the pictures of INPUT."""

    path_options: ClassVar = {"score_model": is_local_model}

    format: Literal[ImageFormat.JPG, ImageFormat.PNG, ImageFormat.WEBP] = Field(
        ImageFormat.JPG, description="Of the pictures in OUT/images."
    )
    quality: int = Field(95, ge=1, le=100, description="Of JPEG and WebP.")
    subsampling: Subsampling = Field("420", description="Of the colours of a JPEG.")
    effort: int | None = Field(None, ge=1, le=9, description="Makes PNG smaller and slower (default: the fastest).")
    matte: ColourOption = Field(
        "white", description="Transparent pictures are laid on it: white, black, gray, or as in #ff8000."
    )
    keep_alpha: bool = Field(False, description="Keep transparency instead, in PNG and WebP.")
    keep_metadata: bool = Field(
        False, description="Keep EXIF and the like: all in a copied JPEG, dates and GPS position in other files."
    )
    reencode: Literal["auto", "always"] = Field(
        "auto", description="auto: a JPEG that needs no change of its pixels is copied, without its metadata."
    )
    verify: Literal["markers", "decode"] = Field(
        "markers",
        description="Of a JPEG that is copied: see that it is whole from first marker to last, or decode it too.",
    )
    fit: Fit = Field(
        Fit.NONE,
        description="none; inside, cover or pad: to --size; bucket: to the size of the trainer's list that suits it.",
    )
    size: SizeOption | None = Field(None, description="For --fit inside, cover and pad: WIDTHxHEIGHT.")
    resolution: int = Field(1024, ge=64, le=16384, description="For --fit bucket: buckets have this number squared px.")
    bucket_step: int = Field(64, ge=1, le=1024, description="Sides of buckets are multiples of it.")
    bucket_min: int = Field(512, ge=1, description="The shortest side of a bucket.")
    bucket_max: int = Field(2048, ge=1, le=16384, description="The longest side of a bucket.")
    no_upscale: bool = Field(False, description="Never enlarge a picture.")
    crop: Literal["center", "salient"] = Field(
        "center", description="What a crop keeps: the middle, or what stands out."
    )
    min_side: int | None = Field(None, ge=1, description="Leave out pictures with a shorter side.")
    max_aspect: float | None = Field(
        None, ge=1, allow_inf_nan=False, description="Leave out pictures with one side more than N times the other."
    )
    drop_duplicates: Literal["exact", "near"] | None = Field(
        None, description="Of pictures that are the same, to the pixel or nearly, take only the largest, sharpest one."
    )
    score: Scored = False
    score_model: ScoreModel = None
    score_prompt: tuple[str, ...] = repeated(description="What CLIP is asked.")
    keep_top: KeepTop = None
    by: KeepBy = "sharpness"
    fps: FrameRate = None
    start: StartTime = None
    end: EndTime = None
    pick: FramePick = "first"
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="Where models work; auto: CUDA where there is one."
    )
    dry_run: bool = run_only(False, description="Say what would happen; write nothing.")

    _phrases = field_validator("score_prompt", mode="before")(phrases)

    @model_validator(mode="after")
    def _goes_together(self) -> Self:
        check_times(fps=self.fps, start=self.start, end=self.end, pick=self.pick)
        wants_size = self.fit in (Fit.INSIDE, Fit.COVER, Fit.PAD)
        if wants_size and self.size is None:
            raise ValueError(f"--fit {self.fit} needs --size, as in --size 1024x1024")
        if self.size is not None and not wants_size:
            raise ValueError(f"--size is for --fit inside, cover or pad, not {self.fit}; leave one of them out")
        if self.keep_alpha and self.format is ImageFormat.JPG:
            raise ValueError("--keep-alpha: a JPEG holds no transparency; choose --format png or webp")
        if self.effort is not None and self.format is not ImageFormat.PNG:
            raise ValueError(f"--effort is for PNG; a {self.format} has --quality")
        if bool(self.score_prompt) != bool(self.score_model):
            raise ValueError("--score-model and --score-prompt go together: what is asked, and who answers")
        if self.fit is Fit.BUCKET:
            self._buckets()  # refuses what makes no list
        return self

    # --- the run -----------------------------------------------------------------------------------------------------

    def run(self, input: Path | str, out: Path | str, *, retry: Callable[[Row], bool] | None = None) -> RunResult:
        """Do the work; before it, where pictures are chosen, look at all of them; with --dry-run only say what."""
        input, out = Path(input), Path(out)
        if self.dry_run:
            source = self.source(input, out)
            self.check(source)
            return dry_run(
                self,
                source,
                input,
                out,
                choice=self.choice(),
                make_pipeline=self.plan_pipeline,
                device=chosen_device(self.device),
                also=partial(self.dry_remarks, out),
            )
        if choice := self.choice():
            looked = choice.run(self, self.source(input, out), input, out, device=chosen_device(self.device))
            if looked.outcome != "finished":
                return looked
        return super().run(input, out, retry=retry)

    def dry_remarks(self, out: Path, journal: Journal) -> Iterable[str]:  # noqa: ARG002 (for recipes with captions)
        """What a dry run is to say besides, of what the stages of `plan_pipeline` noted."""
        return ()

    def check(self, source: Source) -> None:  # noqa: ARG002 (for recipes with words that a table's columns fill)
        """Refuse what a run would refuse before its first picture. Raises UsageError, MissingExtra, ModelError."""
        if scorer := open_scorer(self.score_model, self.score_prompt):
            scorer.check(chosen_device(self.device))

    def source(self, input: Path, out: Path) -> Source:
        """Where pictures come from. Raises InputError."""
        times: dict[str, Any] = {"fps": self.fps, "start_s": self.start, "end_s": self.end, "pick": self.pick}
        return open_source(input, self.source_options(out, threads=self.threads, sharpness=sharpness, **times))

    def choice(self) -> Choice | None:
        """What is to be known of all pictures before any is made; None where each is judged by itself."""
        if self.keep_top is None and self.drop_duplicates is None:
            return None
        return Choice(
            self.keep_top,
            self.by,
            self.score_model,
            self.score_prompt,
            self.drop_duplicates,
            self.min_side,
            self.max_aspect,
        )

    # --- parts of the pipeline ---------------------------------------------------------------------------------------

    def picture_stages(self, chosen: list[Each], *, video: bool, wants_pixels: bool) -> list[Stage]:
        """Stages that make `image`, `mapping` and `file`; with scores in the item's meta, where they are wanted."""
        cv2.setNumThreads(1)  # the engine owns the threads; of every process that works
        scorer = None if chosen else open_scorer(self.score_model, self.score_prompt)
        scored = score_stages(scorer) if not chosen and (self.score or scorer) else []
        preparer = self.preparer(wants_pixels=wants_pixels or bool(scored))
        return [*chosen, *preparer.stages(video=video), *scored]

    def plan_pipeline(self, chosen: list[Each], *, video: bool) -> Pipeline:
        """For a dry run."""
        stages = self.preparer(wants_pixels=False).plans(video=video)
        return Pipeline(*chosen, *stages, given=("frame",) if video else ())

    def preparer(self, *, wants_pixels: bool) -> Preparer:
        """How pictures come out, as the stages take it."""
        return Preparer(
            format=self.format,
            quality=self.quality,
            subsampling=self.subsampling,
            effort=self.effort,
            matte=None if self.keep_alpha else colour_of(self.matte),
            keep_metadata=self.keep_metadata,
            reencode=self.reencode,
            verify=self.verify,
            fit=self.fit,
            size=self.size,
            resolution=self.resolution,
            buckets=self._buckets() if self.fit is Fit.BUCKET else (),
            bucket_step=self.bucket_step,
            no_upscale=self.no_upscale,
            crop=self.crop,
            min_side=self.min_side,
            max_aspect=self.max_aspect,
            max_pixels=self.max_pixels,
            wants_pixels=wants_pixels,
        )

    def _buckets(self) -> tuple[Size, ...]:
        return tuple(bucket_sizes(self.resolution, step=self.bucket_step, least=self.bucket_min, most=self.bucket_max))

    @property
    def manifest_columns(self) -> Columns | None:
        """What manifest.csv says besides."""
        return wanted_columns(self.score, self.score_model, self.keep_top, self.drop_duplicates)

    @property
    def image_path(self) -> str:
        """Where pictures are saved."""
        return f"images/{{name}}.{self.format.suffix}"


def columns_of(row: Row) -> dict[str, str]:
    """What a table gets of every picture: its size in OUT, and its scores."""
    mapping = row.meta.get("mapping")
    size = mapping.get("size") if isinstance(mapping, dict) else None
    sides = dict(zip(("width", "height"), map(str, size), strict=True)) if isinstance(size, list) else {}
    return sides | score_columns(row)


def size_of(row: Row) -> tuple[int, int]:
    """(width, height) of the picture that a row is about, in OUT."""
    mapping: Any = row.meta["mapping"]
    width, height = mapping["size"]
    return int(width), int(height)
