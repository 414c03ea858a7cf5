"""`lightmill captions OUT`: captions changed in bulk, shown as a diff first, undone and redone."""

import json
import re
import shlex
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from dataclasses import replace as with_fields
from pathlib import Path
from typing import TypeAlias

from lightmill.engine.naming import printable
from lightmill.errors import UsageError
from lightmill.export.captions_file import Captioned, CaptionsFile, Changed, Layer, main_layer, main_text
from lightmill.ops import tags as tag_lists
from lightmill.ops.caption_filter import Subject, count_tokens, parse_filter
from lightmill.ops.captions import with_prefix, with_suffix

Words: TypeAlias = Callable[[str], str]

REGEX_LIMIT_S = 2.0  # for one caption; a sound pattern takes microseconds
_START_LIMIT_S = 60.0
LONGEST = 1_000_000  # characters that --regex may put into one caption

# Regular expressions of a user can take for ever, and nothing in this process could stop them: they run in one that
# can be ended. Standard library only, one JSON text a line each way; null: longer than allowed.
_WORKER = """
import json, re, sys
find, replacement, longest = json.loads(sys.stdin.readline())
pattern = re.compile(find)
print("0", flush=True)
def put(found):
    global room
    text = found.expand(replacement)
    room -= len(text)
    if room < 0:
        raise OverflowError
    return text
for line in sys.stdin:
    room = longest
    try:
        answer = pattern.sub(put, json.loads(line))
    except OverflowError:
        answer = None
    print(json.dumps(answer), flush=True)
"""


@dataclass(frozen=True, kw_only=True)
class Edits:
    """What to change, and where. Fields are made in this order, whatever the order on the command line.

    Texts (`set_text`, `find`, `prefix`, `suffix`) are about the layer that trainers are given; tags about the layer
    `tags` of pictures that have a caption as well, else about the same one. `layer` names another. Where a picture
    has several layers of that name all are changed; where it has none, `set_text` and `add_tags` make it.
    """

    layer: str | None = None
    where: str | None = None  # of lightmill.ops.caption_filter
    set_text: str | None = None
    find: str | None = None
    replace: str | None = None  # with `regex`, \\1 and \\g<name> are groups
    regex: bool = False
    rename_tags: Sequence[str] = ()  # OLD=NEW
    remove_tags: Sequence[str] = ()  # here and below: tags, or several with commas
    add_tags: Sequence[str] = ()
    dedupe_tags: bool = False
    sort_tags: bool = False
    move_first: Sequence[str] = ()
    prefix: str = ""
    suffix: str = ""

    def __post_init__(self) -> None:
        """Raises UsageError for what cannot be meant."""
        if self.find == "":
            raise UsageError("--find: nothing to look for; --prefix and --suffix add text")
        if self.find is not None and self.replace is None:
            raise UsageError("--find needs --replace; --replace '' takes away what is found")
        if self.find is None and (self.replace is not None or self.regex):
            raise UsageError("--replace and --regex need --find")
        if self.layer is not None and not self.layer.strip():
            raise UsageError("--layer: the name is empty")

    def changes_something(self) -> bool:
        """Whether there is anything to do but to choose pictures."""
        given = (getattr(self, f.name) for f in fields(self) if f.name not in ("layer", "where", "set_text"))
        return self.set_text is not None or any(given)

    def as_typed(self) -> str:
        """The options, for the list of edits."""
        words: list[str] = []
        for field in fields(self):
            option, value = _OPTIONS.get(field.name, f"--{field.name}").replace("_", "-"), getattr(self, field.name)
            if isinstance(value, bool):
                words += [option] if value else []
            elif isinstance(value, str):
                words += [option, shlex.quote(value)] if value or field.default is None else []
            else:
                words += [word for one in value or () for word in (option, shlex.quote(one))]
        return " ".join(words)


# a term of --where that compares a whole text: without * and ?, or in quotes, where they stand for themselves
_WHOLE = re.compile(
    r"""\b(tags|name|key|layer)[:=](?:"([^"\\]+)"|'([^'\\]+)'|([^\s"'*?()]+)(?=[\s)]|$))""", re.IGNORECASE
)
_NEVER_BARE = re.compile(r"[\s()\"'*]")
_OPTIONS = {"set_text": "--set", "rename_tags": "--rename-tag", "remove_tags": "--remove-tag", "add_tags": "--add-tag"}


@dataclass(frozen=True, kw_only=True)
class EditResult:
    """What was done, or would be."""

    lines: list[str]  # for people; of a diff they begin with "- " and "+ ", safe for any terminal
    changed: int  # pictures
    total: int  # pictures that there are
    number: int | None = None  # of the edit that was made, undone or redone


def edit_captions(
    out: Path,
    edits: Edits = Edits(),
    *,
    undo: bool = False,
    redo: bool = False,
    list_edits: bool = False,
    dry_run: bool = False,
    export: Callable[[Path], None] | None = None,
    shown: int = 50,
    count: Callable[[str], int] = count_tokens,
) -> EditResult:
    """Change the captions of OUT, take the last change back, make it again, or list all changes.

    `dry_run` changes nothing and shows what would be changed; the diff is at most `shown` pictures long. `count` counts
    the tokens of `--where`. Afterwards `export` makes the exports again, also where nothing changed: an earlier command
    may have been stopped before it came to that.

    Raises UsageError for options that do not go together, a filter or pattern that cannot be read, a pattern that
    takes longer than 2 s for one caption or makes a million characters of it, and where there is nothing to undo;
    InputError for captions that cannot be read; OutputError where a run is at work in OUT. All before any change.
    """
    if undo + redo + list_edits + edits.changes_something() != 1:
        raise UsageError(
            "give one of: options that change captions (--find, --add-tag, --set, …), --undo, --redo, --list"
        )
    if edits.where and not edits.changes_something():
        raise UsageError("--where goes with options that change captions, not with --undo, --redo and --list")
    captions = CaptionsFile(out)
    if list_edits:
        return _listed(captions)
    step = _stepped(captions, redo=redo, dry_run=dry_run, shown=shown) if undo or redo else None
    result = step or _edited(captions, edits, dry_run=dry_run, shown=shown, count=count)
    if export and not dry_run:
        export(out)
    return result


def _edited(
    captions: CaptionsFile, edits: Edits, *, dry_run: bool, shown: int, count: Callable[[str], int]
) -> EditResult:
    chosen = parse_filter(edits.where, count=count) if edits.where else None
    diff = _Diff(shown)
    total = matched = 0

    def change(picture: Captioned) -> tuple[Layer, ...]:
        nonlocal total, matched
        total += 1
        if chosen and not chosen(_subject(picture)):
            return picture.layers
        matched += 1
        after = changed(picture)
        diff.add(Changed(picture.key, picture.layers, after))
        return after

    number = None
    with _changing(edits) as changed:
        if dry_run:
            for picture in captions:
                change(picture)
        else:
            number = captions.edit(change, what=edits.as_typed())
    lines = diff.lines()
    lines.append(f"{diff.changed} of {total} pictures {'would change' if dry_run else 'changed'}")
    if edits.where and not matched:
        lines.append(f"no picture is as --where says{_hint(edits.where)}")
    return EditResult(lines=lines, changed=diff.changed, total=total, number=number)


def _hint(where: str) -> str:
    """What to type where a whole name was compared and a part of one may have been meant."""
    found = _WHOLE.search(where)
    if not found:
        return ""
    field, word = (group for group in found.groups() if group)
    part = f"{field}:*{_NEVER_BARE.sub('?', word)}*"
    return f"; {printable(found[0])} is compared whole, for a part of it: {printable(part)}"


def _stepped(captions: CaptionsFile, *, redo: bool, dry_run: bool, shown: int) -> EditResult:
    number = captions.next_step(redo=redo)
    if number is None:
        raise UsageError("there is no undone edit to redo" if redo else "there is no edit to undo")
    diff = _Diff(shown)
    for changed in captions.changes(number):
        diff.add(changed if redo else Changed(changed.key, changed.after, changed.before))
    total, lines, done = sum(1 for _ in captions), diff.lines(), "redone" if redo else "undone"
    if dry_run:
        lines.append(f"edit {number} would be {done}: {diff.changed} of {total} pictures")
        return EditResult(lines=lines, changed=diff.changed, total=total, number=number)
    step = captions.redo() if redo else captions.undo()
    lines.append(f"edit {step.number} is {done}: {step.changed} of {total} pictures")
    if step.skipped:
        lines.append(f"{step.skipped} were left alone: they are gone, or have changed since")
    return EditResult(lines=lines, changed=step.changed, total=total, number=step.number)


def _listed(captions: CaptionsFile) -> EditResult:
    history = captions.history()
    lines = [
        f"{edit.number:4}  {edit.when}  {edit.changed:6} pictures  {printable(edit.what)}"
        + ("" if edit.stands else "  (undone)")
        for edit in history
    ]
    return EditResult(lines=lines or ["no edits yet"], changed=0, total=sum(1 for _ in captions))


class _Diff:
    """Changes as lines for people: the key and layer, what was, what is."""

    def __init__(self, shown: int) -> None:
        self.changed = 0
        self._shown = shown
        self._lines: list[str] = []

    def add(self, change: Changed) -> None:
        if change.before == change.after:
            return
        self.changed += 1
        if self.changed > self._shown:
            return
        for place in range(max(len(change.before), len(change.after))):
            before, after = (layers[place : place + 1] for layers in (change.before, change.after))
            if before != after:
                name = (before or after)[0].name
                self._lines.append(printable(f"{change.key} ({name})"))
                self._lines += [f"- {line}" for layer in before for line in _shown_lines(layer.text)]
                self._lines += [f"+ {line}" for layer in after for line in _shown_lines(layer.text)]

    def lines(self) -> list[str]:
        more = self.changed - self._shown
        return [*self._lines, *([f"… and {more} more pictures"] if more > 0 else [])]


def _shown_lines(text: str) -> list[str]:
    return [printable(line) for line in text.split("\n")]


def _subject(picture: Captioned) -> Subject:
    tags = picture.layer(_tag_layer(picture))
    return Subject(
        key=picture.key,
        caption=main_text(picture),
        tags=tag_lists.split_tags(tags.text) if tags else (),
        layers=[layer.name for layer in picture.layers],
        width=picture.width,
        height=picture.height,
    )


def _text_layer(picture: Captioned) -> str:
    main = main_layer(picture)
    return main.name if main else "edited"


def _tag_layer(picture: Captioned) -> str:
    main = main_layer(picture)
    return main.name if main and not (picture.layer("caption") and picture.layer("tags")) else "tags"


@contextmanager
def _changing(edits: Edits) -> Iterator[Callable[[Captioned], tuple[Layer, ...]]]:
    """A function that makes the edits on one picture. Raises UsageError."""
    on_tags = _tag_steps(edits)

    def changed(picture: Captioned) -> tuple[Layer, ...]:
        text_layer = edits.layer or _text_layer(picture)
        picture = _with_text(picture, text_layer, replaced, makes=edits.set_text is not None)
        picture = _with_text(picture, edits.layer or _tag_layer(picture), on_tags, makes=bool(edits.add_tags))
        return _with_text(picture, edits.layer or _text_layer(picture), framed).layers

    def framed(text: str) -> str:
        return with_suffix(with_prefix(text, edits.prefix), edits.suffix) if edits.prefix or edits.suffix else text

    def replaced(text: str) -> str:
        return substituted(text if edits.set_text is None else edits.set_text)

    with _substituting(edits) as substituted:
        yield changed


def _with_text(picture: Captioned, name: str, words: Words, *, makes: bool = False) -> Captioned:
    """The picture with all its layers of that name changed; with `makes`, with a new one where it has none."""
    if picture.layer(name) is None:
        made = words("") if makes else ""
        return with_fields(picture, layers=(*picture.layers, Layer(name, made))) if made else picture
    layers = (with_fields(one, text=words(one.text)) if one.name == name else one for one in picture.layers)
    return with_fields(picture, layers=tuple(layers))


def _tag_steps(edits: Edits) -> Words:
    renamed = [_renaming(wish) for wish in edits.rename_tags]
    removed, added, first = (
        [tag for wish in wishes for tag in tag_lists.split_tags(wish)]
        for wishes in (edits.remove_tags, edits.add_tags, edits.move_first)
    )

    def on_tags(text: str) -> str:
        before = tags = tag_lists.split_tags(text)
        for old, new in renamed:
            tags = tag_lists.rename_tag(tags, old, new)
        tags = tag_lists.add_tags(tag_lists.remove_tags(tags, removed), added)
        tags = tag_lists.dedupe_tags(tags) if edits.dedupe_tags else tags
        tags = tag_lists.sort_tags(tags) if edits.sort_tags else tags
        tags = tag_lists.move_first(tags, first)
        return text if tags == before else tag_lists.join_tags(tags)  # how others put commas is not ours to change

    return on_tags


def _renaming(wish: str) -> tuple[str, str]:
    """OLD and NEW, parted by the first `=` that has no backslash before it."""
    parts = [part.replace("\\=", "=").strip() for part in re.split(r"(?<!\\)=", wish, maxsplit=1)]
    if len(parts) != 2 or not all(parts):
        raise UsageError(f"--rename-tag {wish!r}: wanted OLD=NEW; --remove-tag takes a tag away")
    return parts[0], parts[1]


@contextmanager
def _substituting(edits: Edits) -> Iterator[Words]:
    find, replacement = edits.find, edits.replace or ""
    if find is None:
        yield lambda text: text
    elif not edits.regex:
        yield lambda text: text.replace(find, replacement)
    else:
        _check_pattern(find, replacement)
        worker = _Substitution(find, replacement)
        try:
            yield worker
        finally:
            worker.close()


def _check_pattern(find: str, replacement: str) -> None:
    try:
        pattern = re.compile(find)
    except (re.error, OverflowError, RecursionError) as error:
        raise _pointed("--find", find, error) from error
    try:
        pattern.sub(replacement, "")
    except (re.error, IndexError) as error:
        raise _pointed("--replace", replacement, error) from error


def _pointed(option: str, text: str, error: Exception) -> UsageError:
    reason, place = getattr(error, "msg", str(error)), getattr(error, "pos", None)
    if place is None:
        return UsageError(f"{option}: {reason}: {text}")
    return UsageError(f"{option}: {reason} (column {place + 1})\n  {printable(text)}\n  {' ' * place}^")


class _Substitution:
    """`re.sub` in a process of its own, which is ended where it takes too long. For one thread."""

    def __init__(self, find: str, replacement: str) -> None:
        self._find = find
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-c", _WORKER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            encoding="ascii",
        )
        self._answer([find, replacement, LONGEST], limit_s=_START_LIMIT_S)

    def __call__(self, text: str) -> str:
        replaced = self._answer(text, limit_s=REGEX_LIMIT_S)
        if replaced is None:
            raise UsageError(f"--replace would put more than {LONGEST} characters into one caption")
        return str(replaced)

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()

    def _answer(self, question: object, *, limit_s: float) -> object:
        late = threading.Event()

        def end() -> None:
            late.set()
            self._process.kill()

        timer = threading.Timer(limit_s, end)
        timer.start()
        try:
            return json.loads(self._asked(json.dumps(question)))
        except (OSError, ValueError) as error:  # it is gone, in the middle of a line perhaps
            why = (
                f"takes more than {limit_s:g} s for one caption" if late.is_set() else "cannot be applied to a caption"
            )
            raise UsageError(f"--find: the pattern {why}: {self._find}") from error
        finally:
            timer.cancel()

    def _asked(self, line: str) -> str:
        if not self._process.stdin or not self._process.stdout:
            return ""
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        return self._process.stdout.readline()
