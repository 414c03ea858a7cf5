"""The options of `caption`, and what they mean to its parts."""

import re
from typing import ClassVar, Literal, NamedTuple, Self

from pydantic import Field, field_validator, model_validator

from lightmill.engine.items import Json
from lightmill.export.captions_file import MAIN_ORDER
from lightmill.export.sidecar import Edits
from lightmill.models.captioners import DType, Quantize
from lightmill.models.kinds import Captioner
from lightmill.models.processors import DEFAULT_PROMPT
from lightmill.models.template import DEFAULT
from lightmill.ops.captions import problem
from lightmill.ops.fit import Fit
from lightmill.recipes.base import listed, phrases, repeated, run_only
from lightmill.recipes.caption_exports import Export, ExportRule
from lightmill.recipes.caption_models import TEMPLATE, Wishes, is_server, is_tagger, open_by_name
from lightmill.recipes.captioning import Wording
from lightmill.recipes.masking import is_local_model, located
from lightmill.recipes.preparing import Preparing

_SAID_ALREADY = re.compile(r"(?<!\{)\{\s*(caption|tags)\s*\}")
Category = Literal["general", "artist", "copyright", "character", "meta", "rating"]


class Voices(NamedTuple):
    """Who is asked."""

    captioner: Captioner | None  # None: the template
    tagger: Captioner | None

    def described(self) -> dict[str, Json]:
        """Names and versions, for the config."""
        return {
            role: [located(model.name), model.version]
            for role, model in zip(("captioner", "tagger"), self, strict=True)
            if model
        }


class Captioning(Preparing):
    """What is said of pictures, by whom, and in which files it is written."""

    path_options: ClassVar = {"score_model": is_local_model, "model": is_local_model, "tagger": is_local_model}

    model: str = Field(
        TEMPLATE,
        description="template (no weights), a folder or hub id of a model of transformers, openai:URL#MODEL, or "
        "wd:NAME for a tagger.",
    )
    template: str = Field(DEFAULT, description="For --model template; variables as in --prompt, and {date} {size}.")
    prompt: str = Field(
        "", description="What models are asked; {name} {folder} {tags} {caption} {trigger} and columns are variables."
    )
    tagger: str | None = Field(
        None, description="A tagger beside the model: wd:NAME. Its tags are a layer of their own."
    )
    existing: Literal["auto", "layer", "use", "ignore"] = Field(
        "auto",
        description="Captions that are there: use (ask only about the others), keep as a layer, or ignore them "
        "(auto: use with the template, else layer).",
    )
    trigger: str = Field("", description="A word that every caption begins with.")
    prefix: str = Field("", description="What stands before every caption.")
    suffix: str = Field("", description="What stands behind every caption.")
    forbid: tuple[str, ...] = repeated(description="Words and phrases to take out of captions.")
    max_tokens: int = Field(256, ge=1, description="Of a caption, as the model counts them.")
    temperature: float = Field(0.0, ge=0, le=10, description="0: the likeliest words; above: drawn, by --seed.")
    top_p: float | None = Field(None, gt=0, le=1, description="Draw from the likeliest that have this probability.")
    top_k: int | None = Field(None, ge=1, description="Draw from so many likeliest.")
    repetition_penalty: float | None = Field(None, gt=0, description="Above 1: words that were there are less likely.")
    dtype: DType = Field("auto", description="Of the weights; auto: float32 on the CPU, else half precision.")
    quantize: Quantize | None = Field(None, description="Load weights in 4 or 8 bits (bitsandbytes).")
    retries: int = Field(2, ge=0, le=20, description="More tries, with other seeds, for what is no caption.")
    script: str | None = Field(
        None, description="Of captions: latin, cyrillic, japanese, …, any (default: Latin, or what the prompt says)."
    )
    captions_per_image: int = Field(1, ge=1, le=50, description="Several captions, drawn with seeds of their own.")
    seed: int = Field(0, ge=0, description="Of everything that is drawn; each picture draws by its own key.")
    threshold: float = Field(0.35, ge=0, le=1, description="Of a tagger: the least probability of a tag …")
    character_threshold: float = Field(0.85, ge=0, le=1, description="… and of a character.")
    tag_categories: tuple[Category, ...] = Field(
        ("general", "character"), description="Of a tagger: general, artist, copyright, character, meta, rating."
    )
    batch: int = run_only(8, ge=1, le=1024, description="Pictures that a model is given at once.")
    concurrency: int = run_only(8, ge=1, le=256, description="Requests to a server under way at once.")
    timeout: float = run_only(120.0, gt=0, allow_inf_nan=False, description="Of a request to a server, in seconds.")
    export: tuple[Export, ...] = run_only(
        ("sidecar",),
        description="sidecar, kohya, imagefolder, jsonl, csv, webdataset, aitoolkit; zip: each of them as a ZIP too.",
    )
    captions: Edits = run_only(
        Edits.KEEP, description="What was edited by hand since the last run: keep, overwrite, or append to it."
    )
    caption_suffix: Literal[".txt", ".caption"] = run_only(".txt", description="Of text files beside pictures.")
    text_order: tuple[Literal["edited", "caption", "tags", "existing"], ...] = run_only(
        MAIN_ORDER, description="The first of these layers that a picture has is its text for trainers."
    )
    repeats: int = run_only(1, ge=1, description="Of --export kohya: N in the folder N_concept.")
    concept: str = run_only("pictures", description="Of --export kohya: the concept in N_concept.")
    concept_by_folder: bool = run_only(False, description="Of --export kohya: folders of INPUT are the concepts.")
    per_shard: int = run_only(10_000, ge=1, description="Of --export webdataset: pictures a shard.")

    _listed = listed("tag_categories", "export", "text_order")
    _forbidden = field_validator("forbid", mode="before")(phrases)

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        self.wording.of("picture")  # refuses a trigger that is forbidden
        problem("picture", prompt="", cut_off=False, script=self.script)  # refuses a script that is not known
        draws = self.model != TEMPLATE and not is_tagger(self.model) and self.temperature > 0
        if self.captions_per_image > 1 and not draws:
            raise ValueError("--captions-per-image needs a model that draws: --temperature 0.6, say, and --model")
        if self.model == TEMPLATE and self.prompt:
            raise ValueError("--prompt is for models; the template is given by --template")
        if self.tagger and not is_tagger(self.tagger):
            raise ValueError(f"--tagger {self.tagger}: a tagger is wd:NAME, or a folder with a model.onnx")
        return self

    # --- what they mean ----------------------------------------------------------------------------------------------

    @property
    def wording(self) -> Wording:
        """What is done to every caption at its end."""
        return Wording(trigger=self.trigger, prefix=self.prefix, suffix=self.suffix, forbidden=self.forbid)

    @property
    def wishes(self) -> Wishes:
        """What is asked of models."""
        return Wishes(
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            repetition_penalty=self.repetition_penalty,
            dtype=self.dtype,
            quantize=self.quantize,
            concurrency=self.concurrency,
            timeout_s=self.timeout,
            threshold=self.threshold,
            character_threshold=self.character_threshold,
            categories=self.tag_categories,
        )

    @property
    def asked(self) -> str:
        """The prompt with its variables. Models of transformers have one of their own; servers have not."""
        return self.prompt or (DEFAULT_PROMPT if is_server(self.model) else "")

    @property
    def uses_existing(self) -> bool:
        """Whether a caption that is there already is taken instead of a new one."""
        if self.existing != "auto" or self.model != TEMPLATE:
            return self.existing == "use"
        return not _SAID_ALREADY.search(self.template)

    @property
    def expected_script(self) -> str | None:
        """Tags may be in any script."""
        return "any" if is_tagger(self.model) and self.script is None else self.script

    @property
    def export_rule(self) -> ExportRule:
        """Which exports are made, and how."""
        return ExportRule(
            exports=self.export,
            edits=self.captions,
            suffix=self.caption_suffix,
            order=self.text_order,
            trigger=self.trigger,
            repeats=self.repeats,
            concept=self.concept,
            by_folder=self.concept_by_folder,
            per_shard=self.per_shard,
            bucketed=self.fit is Fit.BUCKET,
        )

    def voices(self) -> Voices:
        """The models; nothing is loaded. Raises UsageError for names that are none."""
        return Voices(
            None if self.model == TEMPLATE else open_by_name(self.model, self.wishes),
            open_by_name(self.tagger, self.wishes) if self.tagger else None,
        )
