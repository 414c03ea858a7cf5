"""The command line: parses, calls one function, maps the end to an exit code. Knows recipes, nothing of pictures."""

import gc
import inspect
import json
import sys
from collections.abc import Callable, Mapping
from enum import StrEnum
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

from cyclopts import App, CycloptsError, Parameter

from lightmill import __version__
from lightmill.errors import InputError, LightmillError, UsageError
from lightmill.recipes.registry import RECIPES, SUMMARIES, recipe_class

if TYPE_CHECKING:
    from lightmill.engine.journal import Row
    from lightmill.engine.progress import Mode
    from lightmill.engine.run import RunResult
    from lightmill.recipes.base import Ending

_UNIONS = (Union, UnionType)
OUT_HELP = "The folder for everything that is made; a run in it is continued."
INTRODUCTION = """Piles of pictures in, training-ready data sets out: fast, exact, and none lost.

The same command again goes on where the last one ended."""
GROUPS = {  # the first word of commands of two
    "train": "Train a model on what the recipes made.",
    "evaluate": "Say what a trained model is worth.",
}


def run_command_line(arguments: list[str]) -> int:
    """Run one command. Exit code: 0 all well, 1 could not be done, 2 usage, 3 some items failed, 130 interrupted."""
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    try:
        app = _app(arguments[0] if arguments else "")
        gc.freeze()  # what is imported stays: the collector need not look at it again
        gc.enable()
        code = app(arguments, exit_on_error=False, print_error=False, result_action="return_value")
        return int(code or 0)
    except CycloptsError as error:
        name = " ".join(arguments[: 2 if " ".join(arguments[:2]) in RECIPES else 1])
        return _complain(f"{_plain(str(error))} (lightmill {name} --help lists the options)", 2)
    except LightmillError as error:
        if debug:
            raise
        return _complain(str(error), error.exit_code)


def _complain(text: str, code: int) -> int:
    sys.stderr.write(f"lightmill: {_shown(text)}\n")
    return code


def _shown(text: str) -> str:
    """One line that any terminal takes."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


def _plain(text: str) -> str:
    return " ".join(text.split())


def _flowing(text: str) -> str:
    """Paragraphs without the breaks of their lines: a terminal has its own width."""
    return "\n\n".join(map(_plain, text.split("\n\n")))


def _app(chosen: str) -> App:
    """The commands; only the chosen one with its options, so that no other recipe is imported."""
    app = App(
        name="lightmill", help=INTRODUCTION, help_format="plaintext", version=__version__, version_flags=["--version"]
    )
    groups = {name: App(name=name, help=text, sort_key=2, group="Recipes") for name, text in GROUPS.items()}
    for group in groups.values():
        app.command(group)
    for name in RECIPES:
        first, *second = name.split()
        command = _recipe_command(name) if first == chosen else _stub(SUMMARIES[name])
        (groups[first] if second else app).command(command, name=(second or [first])[0], sort_key=1, group="Recipes")
    for function in (status, retry, report):
        app.command(function, sort_key=3, group="Runs")
    app.command(captions, sort_key=4, group="More")
    app.command(rigs, sort_key=4, group="More")
    return app


def _stub(summary: str) -> Callable[[], None]:
    def command() -> None: ...

    command.__doc__ = summary
    return command


# --- recipes ---------------------------------------------------------------------------------------------------------


def _recipe_command(name: str) -> Callable[..., int]:
    """A function whose parameters are the recipe's options, for cyclopts to parse; pydantic reads the values."""
    recipe = recipe_class(name)

    def command(input: str, *middle: str, **values: Any) -> int:
        given = {field: value for field, value in values.items() if value is not None}
        given |= dict(zip(recipe.positional, middle, strict=False))
        options = _from_file(given.pop("config", None)) | given
        chosen = recipe.from_values(options)
        out = Path(middle[-1]) if len(middle) > len(recipe.positional) else chosen.default_out(Path(input))
        return _finish(chosen.run(Path(input), out), chosen.progress)

    parameters = [
        _positional(recipe.input_name, recipe.input_help),
        *(_positional(field, recipe.model_fields[field].description or "") for field in recipe.positional),
        _positional("out", OUT_HELP, optional=recipe.out_is_optional),
        *(_option(name, about) for name, about in recipe.model_fields.items() if name not in recipe.positional),
        _parameter("config", str, "A YAML file with options (`fps: 2`); the command line goes before it.", "Common"),
        _parameter("debug", bool, "Show tracebacks.", "Common"),
    ]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    command.__doc__ = _flowing(inspect.getdoc(recipe) or "")
    return command


def _positional(name: str, text: str, *, optional: bool = False) -> inspect.Parameter:
    about = Parameter(help=text, allow_leading_hyphen=True, show_default=False)
    default = None if optional else inspect.Parameter.empty
    annotation = Annotated[str | None, about] if optional else Annotated[str, about]
    return inspect.Parameter(name, inspect.Parameter.POSITIONAL_ONLY, default=default, annotation=annotation)


def _option(field: str, about: Any) -> inspect.Parameter:
    from lightmill.recipes.base import Recipe, is_several, negative_of, option_name, shown_default

    group = "Common" if field in Recipe.model_fields else "Options"
    default, text = shown_default(about), about.description or ""
    if default:
        text = f"{text} [default: {default}]"
    kind = list[str] if is_several(about) else _kind(about.annotation)
    negative = negative_of(about)
    return _parameter(field, kind, text, group, negative=option_name(negative) if negative else ())


def _kind(annotation: Any) -> Any:
    """What the help is to show for an option: choices and numbers as such, all else as text (pydantic reads it)."""
    plain = (
        [part for part in get_args(annotation) if part is not type(None)]
        if get_origin(annotation) in _UNIONS
        else [annotation]
    )
    if len(plain) == 1 and (plain[0] in (bool, int, float) or get_origin(plain[0]) is Literal):
        return plain[0]
    if len(plain) == 1 and isinstance(plain[0], type) and issubclass(plain[0], StrEnum):
        return Literal[tuple(member.value for member in plain[0])]
    return str


def _parameter(name: str, kind: Any, text: str, group: str, *, negative: str | tuple[()] = ()) -> inspect.Parameter:
    """`negative`: the name of the flag that says no."""
    hyphen = kind is not bool  # may lead a value: -0.01
    about = Parameter(help=text, show_default=False, group=group, negative=negative, allow_leading_hyphen=hyphen)
    annotation = Annotated[kind | None, about]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _from_file(path: str | None) -> dict[str, Any]:
    if path is None:
        return {}
    import yaml

    try:
        found = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"--config {path}: {_plain(str(error))}") from error
    if found is None:
        return {}
    if not isinstance(found, Mapping):
        raise UsageError(f"--config {path}: it should hold options, one a line, as in `fps: 2`")
    return {str(key).replace("-", "_"): value for key, value in found.items()}


def _finish(result: "Ending", progress: "Mode") -> int:
    """Warnings and closing lines, in the form of the progress before them: what reads JSON lines gets nothing else."""
    from lightmill.engine.progress import open_progress

    say = open_progress(progress).say
    for warning in result.warnings:
        say(f"warning: {warning}")
    for remark in result.remarks:
        say(remark)
    if progress != "none" or result.exit_code:
        for line in result.summary.splitlines():
            say(line)
    return result.exit_code


# --- runs ------------------------------------------------------------------------------------------------------------


def status(out: Path, /, *, as_json: Annotated[bool, Parameter(name="--json", negative=())] = False) -> int:
    """Show how the run in OUT stands; works while it runs.

    Parameters
    ----------
    out
        The folder of the run.
    as_json
        Print JSON.
    """
    from lightmill.engine.journal import Journal
    from lightmill.engine.summary import status_json, status_lines
    from lightmill.train.standing import training_in

    training = training_in(out)
    if training is None:
        with Journal.read(out) as journal:
            found = status_json(journal)
        lines = status_lines(found)
    else:
        found, lines = training.told, training.lines
    sys.stdout.write(json.dumps(found, indent=2) + "\n" if as_json else "".join(f"{line}\n" for line in lines))
    return 0


def _refuse_training(out: Path, what: str) -> None:
    from lightmill.train.standing import training_in

    if training_in(out) is not None:
        raise UsageError(f"{out} holds a training: {what}")


def retry(
    out: Path,
    /,
    *,
    only: str = "failed",
    threads: int | None = None,
    workers: int | None = None,
    progress: Literal["auto", "rich", "json", "none"] = "auto",
) -> int:
    """Do failed items of the run in OUT again, and nothing else; of all tables, where several share OUT.

    Parameters
    ----------
    out
        The folder of the run.
    only
        Which: `failed`, `failed:STAGE` or `failed:STAGE:CLASS`, as `lightmill status` names them.
    threads
        CPU threads, instead of as many as the run had.
    workers
        Worker processes, likewise; fewer of them leave more memory to each.
    progress
        auto, rich, json or none.
    """
    from lightmill.engine.journal import Journal
    from lightmill.recipes.base import Recipe

    wanted = _retry_rule(only)
    _refuse_training(out, "what it could not read is read again by the command that began it")
    with Journal.read(out) as journal:
        commands = [one.command for one in journal.inputs() if one.command]
    if not commands:
        raise UsageError(f"the run in {out} says no command that could be given again")
    how = {"progress": progress, "threads": threads, "workers": workers}
    given = {name: value for name, value in how.items() if value is not None}
    result: RunResult | None = None
    gone: list[InputError] = []
    for command in commands:
        recipe = recipe_class(command["recipe"]).from_values(command["options"] | given)
        assert isinstance(recipe, Recipe), "nothing else has a journal with commands"
        try:
            result = recipe.run(Path(command["input"]), out, retry=wanted)
        except InputError as error:  # of one table among several: the others are done all the same
            gone.append(error)
        if result and result.outcome == "interrupted":
            break
    code = _finish(result, progress) if result else 0
    if gone:
        raise gone[0]
    return code


def _retry_rule(only: str) -> "Callable[[Row], bool]":
    kind, *rest = only.split(":", 2)
    if kind != "failed":
        raise UsageError(f"--only {only!r}: it is written failed, failed:STAGE or failed:STAGE:CLASS")
    stage, error_class = (*rest, "", "")[:2]
    return lambda row: stage in ("", row.stage) and error_class in ("", row.error_class)


def report(out: Path, /) -> int:
    """Write report.html of the run in OUT anew, and say where it is.

    Parameters
    ----------
    out
        The folder of the run.
    """
    from lightmill.engine.journal import Journal
    from lightmill.engine.outputs import Outputs
    from lightmill.engine.summary import SHEET, report_data, write_reports

    _refuse_training(out, "its report is written at its end, by the command that began it")
    with Journal.read(out) as journal:
        write_reports(Outputs(out), report_data(journal, SHEET), whole=False)
    sys.stdout.write(f"{out / 'report.html'}\n")
    return 0


# --- captions --------------------------------------------------------------------------------------------------------


_Texts = list[str] | None
_Flag = Annotated[bool, Parameter(negative=())]


def captions(
    out: Path,
    /,
    *,
    where: str | None = None,
    layer: str | None = None,
    set_text: Annotated[str | None, Parameter(name="--set")] = None,
    find: str | None = None,
    replace: str | None = None,
    regex: _Flag = False,
    rename_tags: Annotated[_Texts, Parameter(name="--rename-tag", negative=())] = None,
    remove_tags: Annotated[_Texts, Parameter(name="--remove-tag", negative=())] = None,
    add_tags: Annotated[_Texts, Parameter(name="--add-tag", negative=())] = None,
    dedupe_tags: _Flag = False,
    sort_tags: _Flag = False,
    move_first: Annotated[_Texts, Parameter(negative=())] = None,
    prefix: str = "",
    suffix: str = "",
    dry_run: _Flag = False,
    undo: _Flag = False,
    redo: _Flag = False,
    list_edits: Annotated[bool, Parameter(name="--list", negative=())] = False,
) -> int:
    """Edit the captions in OUT, many at once, and make its exports again; every edit can be undone.

    Parameters
    ----------
    out
        The folder of a run of `caption`.
    where
        Which pictures: `tags:cat and not tokens>75`; by tags, caption, name, key, layer, tokens, chars, width, height.
    layer
        Which text: caption, tags, existing, edited (default: the one that trainers are given).
    set_text
        Replace the whole text.
    find
        A text to look for; see --replace.
    replace
        What to put in its place.
    regex
        --find is a regular expression of Python; \\1 and \\g<name> in --replace are its groups.
    rename_tags
        OLD=NEW.
    remove_tags
        Tags to take out.
    add_tags
        Tags to add at the end.
    dedupe_tags
        Leave out tags that are there already.
    sort_tags
        Sort tags.
    move_first
        Tags to put first.
    prefix
        A text to put before all others.
    suffix
        A text to put behind.
    dry_run
        Show what would change; change nothing.
    undo
        Take back the last edit.
    redo
        Make it once more.
    list_edits
        List all edits.
    """
    from lightmill.recipes.caption import export_again
    from lightmill.recipes.caption_edits import Edits, edit_captions
    from lightmill.recipes.caption_exports import take_over_hand_edits

    edits = Edits(
        where=where,
        layer=layer,
        set_text=set_text,
        find=find,
        replace=replace,
        regex=regex,
        rename_tags=rename_tags or (),
        remove_tags=remove_tags or (),
        add_tags=add_tags or (),
        dedupe_tags=dedupe_tags,
        sort_tags=sort_tags,
        move_first=move_first or (),
        prefix=prefix,
        suffix=suffix,
    )
    if edits.changes_something() and not dry_run and take_over_hand_edits(out):
        export_again(out)  # what was edited by hand counts as exported from now on
    result = edit_captions(
        out, edits, undo=undo, redo=redo, list_edits=list_edits, dry_run=dry_run, export=export_again
    )
    for line in result.lines:
        sys.stdout.write(f"{_coloured(line)}\n")
    return 0


def _coloured(line: str) -> str:
    """A line of a diff, in colour on a terminal."""
    code = {"- ": 31, "+ ": 32}.get(line[:2])
    return f"\x1b[{code}m{line}\x1b[0m" if code and sys.stdout.isatty() else line


# --- more ------------------------------------------------------------------------------------------------------------


def rigs() -> int:
    """List the rigs of split360, with the share of the sphere that each sees."""
    from lightmill.recipes.rig_option import rig_table

    sys.stdout.write("".join(f"{line}\n" for line in rig_table()))
    return 0
