"""What every recipe has: the common options, and the way from options to a run.

A recipe's options are one pydantic model. The command line, the YAML file, the Python call, the table in the docs and
the config that the journal compares all come from it.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Protocol, Self, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
    field_validator,
)

from lightmill import __version__
from lightmill.engine.items import Json
from lightmill.engine.naming import Naming
from lightmill.errors import UsageError
from lightmill.types import Budget, Size, parse_bytes

if TYPE_CHECKING:
    from lightmill.engine.journal import Row
    from lightmill.engine.run import Job, RunOptions, RunResult
    from lightmill.sources import SourceOptions

ARCHIVE_LIMIT_HELP = "Limits of a ZIP, as in size=4GB,count=2000000,ratio=500."


def _parsed(parse: Callable[[str], Any]) -> BeforeValidator:
    """From text; numbers too, since YAML makes numbers of what looks like one."""
    return BeforeValidator(lambda value: parse(str(value)) if isinstance(value, str | int | float) else value)


SizeOption = Annotated[Size, _parsed(Size.parse), PlainSerializer(str)]
BudgetOption = Annotated[Budget, _parsed(Budget.parse), PlainSerializer(str)]
BytesOption = Annotated[int, _parsed(parse_bytes), Field(gt=0)]


def sides(bounds: tuple[int, int]) -> AfterValidator:
    """Of a size: the least and the most that its width and its height may be, px."""
    least, most = bounds

    def checked(size: Size) -> Size:
        if not (least <= min(size.width, size.height) and max(size.width, size.height) <= most):
            raise ValueError(f"width and height are from {least} to {most} px here")
        return size

    return AfterValidator(checked)


# which frames of a video are taken; `check_times` says how they go together
FrameRate = Annotated[
    float | None,
    Field(gt=0, allow_inf_nan=False, description="Frames a second to take from a video (default: all)."),
]
StartTime = Annotated[
    float | None, Field(ge=0, allow_inf_nan=False, description="Where in the video to begin, in seconds.")
]
EndTime = Annotated[
    float | None, Field(gt=0, allow_inf_nan=False, description="Where in the video to end, in seconds.")
]
FramePick = Annotated[Literal["first", "sharpest"], Field(description="Which frame of each 1/fps to take.")]

# what is measured of pictures, and which of them are taken by that
Scored = Annotated[bool, Field(description="Add columns: sharpness, clipped_share, contrast, evenness.")]
ScoreModel = Annotated[str | None, Field(description="A CLIP model, for a column a --score-prompt.")]
KeepTop = Annotated[int | None, Field(ge=1, description="Look at all pictures first and take only the N best …")]
KeepBy = Annotated[str, Field(description="… by this score.")]


def run_only(default: Any, **more: Any) -> Any:
    """A field that says how to run, not what comes out: a resume does not compare it."""
    return Field(default, json_schema_extra={"run_only": True}, **more)


def repeated(**more: Any) -> Any:
    """A field that holds several values, each given by the option once more."""
    return Field((), json_schema_extra={"repeated": True}, **more)


def either_or(negative: str, **more: Any) -> Any:
    """A choice between two, off unless it is made: two flags, of which the other one is called `negative`."""
    return Field(False, json_schema_extra={"negative": negative}, **more)


class Ending(Protocol):
    """How a command ended."""

    @property
    def exit_code(self) -> int: ...

    @property
    def warnings(self) -> tuple[str, ...]: ...

    @property
    def remarks(self) -> tuple[str, ...]:
        """What there is to say at the end, before the closing lines."""
        ...

    @property
    def summary(self) -> str:
        """The closing lines; empty where nothing was done."""
        ...


class Options(BaseModel):
    """What a command of INPUT and OUT is given, checked before any work."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    name: ClassVar[str]  # on the command line
    path_options: ClassVar[Mapping[str, Callable[[str], bool]]] = {}  # option -> whether a value of it names a file
    positional: ClassVar[tuple[str, ...]] = ()  # options that stand between INPUT and OUT
    out_is_optional: ClassVar[bool] = False  # then `default_out` says where
    input_name: ClassVar[str] = "input"
    input_help: ClassVar[str] = "A folder of pictures, one picture, a table (.csv, .parquet), a .zip, or a video."

    threads: int = run_only(0, ge=0, description="CPU threads, of each worker (0: all cores this process may use).")
    fresh: bool = run_only(False, description="Start anew in an OUT that holds another run; deletes nothing.")
    progress: Literal["auto", "rich", "json", "none"] = run_only(
        "auto", description="Live display on a terminal, JSON lines otherwise (auto)."
    )

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> Self:
        """The options from texts or values. Raises UsageError naming the option, what it got and what it takes."""
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            raise UsageError("; ".join(_problem(cls, problem) for problem in error.errors())) from None

    def default_out(self, input: Path) -> Path:
        """Where to write when no OUT is given. Raises UsageError where it must be given."""
        raise UsageError(f"{self.name} {input} needs an OUT: the folder for everything that is made")

    def run(self, input: Path | str, out: Path | str) -> Ending:
        """Do the work, or what is left of it."""
        raise NotImplementedError(f"{type(self).__name__} does not say what its work is")

    @classmethod
    def run_only_fields(cls) -> set[str]:
        """Options that say how to run, not what comes out."""
        return {name for name, field in cls.model_fields.items() if is_run_only(field)}

    @staticmethod
    def version() -> str:
        return __version__

    def config(self, input: Path) -> dict[str, Json]:
        """What decides the outputs: every option but the run-only ones, and the INPUT."""
        options = self.model_dump(mode="json", exclude=self.run_only_fields())
        return {"input": str(input.resolve()), **self.absolute(options)}

    def absolute(self, options: dict[str, Json]) -> dict[str, Json]:
        """The options with files and folders named in full: the same run can be meant from anywhere."""
        named = {name: str(options[name]) for name in self.path_options if options.get(name)}
        return options | {
            name: str(Path(text).resolve()) for name, text in named.items() if self.path_options[name](text)
        }


class Recipe(Options):
    """The options that every recipe has: what goes through pictures one by one, and loses none."""

    table_suffix: ClassVar[str] = "outputs"  # `<table>_with_<suffix>.csv`

    naming: Naming = Field(
        Naming.KEY,
        description="Output names: from the key (folders kept), its stem (folders dropped), or the row number.",
    )
    absolute_paths: bool = Field(False, description="Write output_image_path in full instead of relative to OUT.")
    limit: int | None = run_only(None, ge=1, description="Only the first N items.")
    workers: int = run_only(
        0, ge=0, description="Worker processes, with the extra `ray` (0: one; with --ray, one a machine or GPU)."
    )
    ray: str | None = run_only(None, description="Use the machines of a Ray cluster: auto, or host:port.")
    memory: BytesOption | None = run_only(
        None, description="Memory for pictures under way, as in 8GB (default: half of what is free)."
    )
    durable: bool = run_only(False, description="Wait for the disk at every file (fsync): survives power cuts, slower.")
    max_failures: BudgetOption | None = run_only(None, description="Stop when more items than this fail: 20, or 5%.")
    max_pixels: int = run_only(
        400_000_000, ge=1, description="Largest picture to decode, in pixels; a guard against bombs."
    )
    zip_limit: str | None = run_only(None, description=ARCHIVE_LIMIT_HELP)
    trace: Path | None = run_only(None, description="Write a Chrome trace of every stage of every item to this file.")

    # --- to be given by a recipe -------------------------------------------------------------------------------------

    def job(self, input: Path, out: Path) -> "Job":
        """The work that these options mean. Raises UsageError and InputError before anything is written."""
        raise NotImplementedError(f"{type(self).__name__} does not say what its work is")

    # --- what all share ----------------------------------------------------------------------------------------------

    def run(self, input: Path | str, out: Path | str, *, retry: "Callable[[Row], bool] | None" = None) -> "RunResult":
        """Do the work, or what is left of it."""
        from lightmill.engine.run import run

        return run(self.job(Path(input), Path(out)), self.run_options(), retry=retry)

    def command(self, input: Path) -> dict[str, Json]:
        """What `lightmill retry` needs to do this again from anywhere."""
        unset = {"fresh", "progress", "trace"}
        options = self.model_dump(mode="json", exclude_defaults=True, exclude=unset)
        return {"recipe": self.name, "input": _in_full(input), "options": self.absolute(options)}

    def run_options(self) -> "RunOptions":
        from lightmill.engine.run import RunOptions

        return RunOptions(
            limit=self.limit,
            threads=self.threads,
            workers=self.workers,
            ray=self.ray,
            naming=self.naming,
            fresh=self.fresh,
            durable=self.durable,
            max_failures=self.max_failures,
            memory_bytes=self.memory,
            progress=self.progress,
            trace=self.trace,
        )

    def source_options(self, out: Path, **more: Any) -> "SourceOptions":
        from lightmill.sources import SourceOptions, ZipLimit

        try:
            zip_limit = ZipLimit.parse(self.zip_limit) if self.zip_limit else ZipLimit()
        except ValueError as error:
            raise UsageError(f"--zip-limit: {error}") from None
        return SourceOptions(exclude=out, zip_limit=zip_limit, **more)


def _in_full(input: Path) -> str:
    """The INPUT as it is named from anywhere. A link to a file stays one: a table's paths go on from its folder."""
    return str(input.resolve() if input.is_dir() else input.parent.resolve() / input.name)


def is_run_only(field: Any) -> bool:
    """Whether a field says how to run, not what comes out."""
    return bool((field.json_schema_extra or {}).get("run_only"))


def is_repeated(field: Any) -> bool:
    """Whether the option may be given several times."""
    return bool((field.json_schema_extra or {}).get("repeated"))


def is_several(field: Any) -> bool:
    """Whether the option holds any number of values: such may be given again and again, and most take commas too."""
    return get_origin(field.annotation) is tuple and get_args(field.annotation)[-1] is Ellipsis


def negative_of(field: Any) -> str | None:
    """The flag that says no, where there is one."""
    return (field.json_schema_extra or {}).get("negative")


def shown_default(field: Any) -> str:
    """The default as a user would write it; empty where there is none to speak of."""
    default = field.get_default(call_default_factory=True)
    if default is None or default is False or default == () or field.is_required():
        return ""
    for about in field.metadata:
        if isinstance(about, PlainSerializer):
            default = about.func(default)  # type: ignore[call-arg]  # ours take the value alone
    return ",".join(map(str, default)) if isinstance(default, tuple) else str(default)


def option_name(field: str) -> str:
    """The field as it is written on the command line."""
    return "--" + field.replace("_", "-")


def _problem(recipe: type[Options], problem: Any) -> str:
    """One of pydantic's findings as a sentence."""
    where = [str(part) for part in problem["loc"]]
    name = where[0] if where else ""
    if problem["type"] == "extra_forbidden":
        from difflib import get_close_matches

        near = get_close_matches(name, recipe.model_fields, n=1)
        return f"there is no option {option_name(name)}" + (f"; did you mean {option_name(near[0])}?" if near else "")
    what = str(problem["msg"]).removeprefix("Value error, ")
    what = what[0].lower() + what[1:]
    if not name:
        return what
    return f"{option_name(name)} {problem['input']!r}: {what}" if name in recipe.model_fields else f"{name}: {what}"


def listed(*fields: str) -> Any:
    """A validator for options that take several words: `colmap,nerfstudio`, or a list of such texts."""
    return field_validator(*fields, mode="before")(phrases)


def phrases(value: Any) -> Any:
    """Texts that commas or list items part, without blanks around them: `person, tripod`."""
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list | tuple) or not all(isinstance(text, str) for text in texts):
        return value
    return tuple(part.strip() for text in texts for part in text.split(",") if part.strip())


def check_times(*, fps: float | None, start: float | None, end: float | None, pick: str) -> None:
    """Raises ValueError where the options for the frames of a video do not go together."""
    if end is not None and end <= (start or 0):
        raise ValueError(f"--end {end:g} must be after --start {start or 0:g}")
    if pick == "sharpest" and fps is None:
        raise ValueError("--pick sharpest needs --fps: it takes the sharpest frame of each 1/fps")
