"""Captions without a model, and the variables of prompts: the words that are already there.

People who train LoRAs write much of a caption by hand from what they know: the trigger word, what the folder and the
file are called, when a picture was taken and how large it is. `captions_from` writes that; `filled` puts the same
variables into a prompt. Both are pure: no pixels, no files.

A template is text with `{VARIABLE}`; `{{` and `}}` are braces. Variables are those of `VARIABLES` and the columns of
the user's table, which do not hide them. Values are put in as they are: braces in them mean nothing.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from datetime import date
from difflib import get_close_matches
from pathlib import PurePosixPath

from lightmill.errors import UsageError

DEFAULT = "{trigger}, {folder}, {name}, {date}, {size}"
VARIABLES = {
    "trigger": "the word of --trigger",
    "name": "the words of the file name",
    "folder": "the words of the nearest folder whose name has some",
    "date": "the day on which the picture was taken: 3 May 2021",
    "size": "portrait, landscape or square, and high resolution from 1600x1200 pixels on",
    "tags": "the tags that the picture has already",
    "caption": "the caption that the picture has already",
}

_PIECE = re.compile(r"\{\{|\}\}|\{(?P<variable>[^{}]*)\}|[{}]")
_SQUARE = 1.05  # the longer side by the shorter one: up to here people see a square
_HIGH_RESOLUTION = 1600 * 1200  # px
_MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
)  # fmt: skip

_FRAME = re.compile(r"#\d+(\.\d+)?$")  # which frame of a video a key means: clip.mp4#00012.400
_UUID = re.compile(r"(?<![0-9a-z])[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}(?![0-9a-z])", re.IGNORECASE)
# what cameras, telephones and programs call files, with the numbers that follow
_NUMBERED = re.compile(
    r"(?<![^\W_])("
    r"_?mg|img(_e)?|mvimg|fb[\W_]?img|imag|dsc|dscf|dscn|dsci|cimg|hpim|kimg|sdc|sam|pict|pxl|gopr|gp|gx|gh|dji|vid|"
    r"mov|p(?=\d{4})|wa(?=\d{4})|whatsapp[\W_]?(image|video)|signal(?=-\d{4}-)|screen[\W_]?shot|image|picture|pic|"
    r"photo|scan|frame|untitled|unnamed|download|copy|clip|video|v"
    r")[\W_]*\d+(?![^\W_])([\W_]*(at[\W_]+)?\d+(?![^\W_]))*",
    re.IGNORECASE,
)
_COPY = re.compile(r"^copy[\W_]+of[\W_]+|[\W_]+copy$", re.IGNORECASE)
_CAMERAS_FOLDER = re.compile(r"[1-9]\d\d[0-9A-Z_]{5}")  # 100CANON: JEITA CP-3461 (DCF), 3.2
_NEVER = frozenset({"img", "mvimg", "dsc", "dscf", "dscn", "pxl", "dji"})
# names of files and folders that, alone, say nothing of what is in a picture
_ALONE = frozenset(
    {
        *("picture", "pictures", "pic", "pics", "image", "images", "imgs", "photo", "photos", "dcim", "camera", "scan"),
        *(
            "screenshot",
            "frame",
            "frames",
            "clip",
            "video",
            "copy",
            "new",
            "final",
            "edit",
            "edited",
            "untitled",
            "unnamed",
        ),
        *("data", "dataset", "datasets", "train", "training", "val", "test", "input", "output", "outputs", "export"),
        *("exports", "download", "downloads", "raw", "jpg", "jpeg", "png", "webp", "tiff", "heic", "mp", "cr2", "nef"),
        *("arw", "dng", "macosx"),
    }
)
_HASH = re.compile(r"(?=.*\d)(?=.*[a-f])[0-9a-f]{8,}|[0-9a-f]{20,}", re.IGNORECASE)
_CHANGES = re.compile(r"(?<=\d)(?=\D)|(?<=\D)(?=\d)")
_NUMBER = re.compile(r"\d+([xT]\d+)?Z?", re.IGNORECASE)  # 0012, 1024x768, 20210503T142211Z
_WORD_AND_NUMBER = re.compile(r"\d{2,}(?P<after>[^\W\d_]{3,})|(?P<before>[^\W\d_]{3,})\d+")


def captions_from(
    template: str,
    *,
    key: str,
    row: Mapping[str, str] | None = None,
    taken: str = "",
    width: int = 0,
    height: int = 0,
    trigger: str = "",
    tags: str = "",
    caption: str = "",
) -> str:
    """The caption that a template gives for a picture: one line, without the parts that its variables left empty.

    Parts are what stands between commas: those that come out empty or twice are left out, so one template does for
    pictures that have a date and for those that have none. The arguments are those of `values_of`.

    Raises UsageError as `check_template`.

    >>> captions_from(DEFAULT, key="10_red foxes/IMG_1234_atDawn.jpg", trigger="ohwx", width=800, height=600)
    'ohwx, red foxes, at dawn, landscape'
    """
    values = values_of(
        key=key, row=row, taken=taken, width=width, height=height, trigger=trigger, tags=tags, caption=caption
    )
    parts: dict[str, str] = {}
    for part in filled(template, values).split(","):
        text = " ".join(part.split())
        parts.setdefault(text.casefold(), text)
    return ", ".join(filter(None, parts.values()))


def values_of(
    *,
    key: str,
    row: Mapping[str, str] | None = None,
    taken: str = "",
    width: int = 0,
    height: int = 0,
    trigger: str = "",
    tags: str = "",
    caption: str = "",
) -> dict[str, str]:
    """The value of each variable for one picture; what is not known is empty.

    `key`: an item's, a path with /. `row`: the user's own columns, each a variable unless it is called like one of
    `VARIABLES`. `taken`: a date as EXIF or ISO 8601 has it. `width`, `height`: in pixels.
    """
    return dict(row or {}) | {
        "trigger": trigger,
        "name": " ".join(name_words(key)),
        "folder": " ".join(folder_words(key)),
        "date": date_words(taken),
        "size": ", ".join(size_words(width, height)),
        "tags": tags,
        "caption": caption,
    }


def filled(template: str, values: Mapping[str, str]) -> str:
    """A template with its variables replaced and all else as it is. Raises UsageError as `check_template`.

    >>> filled("Describe {name}. Answer as {{...}}.", {"name": "a {fox}"})
    'Describe a {fox}. Answer as {...}.'
    """
    check_template(template, columns=values)

    def value(piece: re.Match[str]) -> str:
        variable = piece["variable"]
        return piece[0][0] if variable is None else values[variable.strip()]

    return _PIECE.sub(value, template)


def check_template(template: str, *, columns: Iterable[str] = ()) -> None:
    """Raises UsageError for a variable that is neither in `VARIABLES` nor a column, and for a brace without a partner.

    >>> check_template("a photo of {nmae}")
    Traceback (most recent call last):
    lightmill.errors.UsageError: {nmae} is no variable; did you mean {name}? There are {trigger}, {name}, ...
    """
    known = list(dict.fromkeys([*VARIABLES, *columns]))
    for piece in _PIECE.finditer(template):
        variable = piece["variable"]
        if piece[0] in {"{", "}"}:
            raise UsageError(f"a {piece[0]} stands alone in {template!r}; write {piece[0] * 2} for a brace")
        if variable is not None and variable.strip() not in known:
            near = get_close_matches(variable.strip().lower(), known, n=1)
            meant = f"; did you mean {{{near[0]}}}?" if near else "."
            there_are = ", ".join(f"{{{name}}}" for name in known)
            raise UsageError(f"{piece[0]} is no variable{meant} There are {there_are}; write {{{{ for a brace")


def name_words(key: str) -> list[str]:
    """The words in a file name: not its suffix, numbers, hashes, and what cameras and programs call their files.

    camelCase is taken apart. Other words stay as they are written.

    >>> name_words("trips/Lisbon2021/IMG_20210503_142211_oldTram-12.jpg")
    ['old', 'tram']
    >>> name_words("DSC0001.JPG"), name_words("550e8400-e29b-41d4-a716-446655440000.png"), name_words("r2d2_v2.png")
    ([], [], ['r2d2'])
    """
    return _words(_without_suffix(PurePosixPath(_FRAME.sub("", key)).name))


def folder_words(key: str) -> list[str]:
    """The words in the name of the nearest folder that has any; `10_cat` (the layout of kohya) is `cat`.

    >>> folder_words("Lisbon/DCIM/100CANON/IMG_0001.jpg")
    ['Lisbon']
    """
    names = (folder.name for folder in PurePosixPath(key).parents)
    return next(filter(None, (_words(name) for name in names if not _CAMERAS_FOLDER.fullmatch(name))), [])


def date_words(taken: str) -> str:
    """A day in words; nothing for what is no date, such as the zeros of cameras whose clock was never set.

    >>> date_words("2021:05:03 14:22:11"), date_words("2021-05-03T14:22:11Z"), date_words("0000:00:00 00:00:00")
    ('3 May 2021', '3 May 2021', '')
    """
    try:
        day = date.fromisoformat(taken.strip()[:10].replace(":", "-"))
    except ValueError:
        return ""
    return f"{day.day} {_MONTHS[day.month - 1]} {day.year}"


def size_words(width: int, height: int) -> list[str]:
    """What the size of a picture is called; nothing where it is not known.

    >>> size_words(4000, 3000), size_words(512, 520), size_words(0, 0)
    (['landscape', 'high resolution'], ['square'], [])
    """
    if width <= 0 or height <= 0:
        return []
    shape = "landscape" if width > height else "portrait"
    if max(width, height) <= _SQUARE * min(width, height):
        shape = "square"
    return [shape, "high resolution"] if width * height >= _HIGH_RESOLUTION else [shape]


def _without_suffix(name: str) -> str:
    """Files without a suffix may have dots in their names: a suffix is 2 to 5 letters and digits, not all digits."""
    stem, dot, suffix = name.rpartition(".")
    is_suffix = dot and stem and 2 <= len(suffix) <= 5 and suffix.isalnum() and not suffix.isdigit()
    return stem if is_suffix else name


def _words(name: str) -> list[str]:
    name = unicodedata.normalize("NFC", name)  # as macOS stores them, letters and accents come apart
    name = _COPY.sub("", _NUMBERED.sub(" ", _UUID.sub(" ", name)))
    tokens = "".join(char if _in_word(char) else " " for char in name).split()
    words = [word for token in tokens for word in _of_token(token.strip("'’"))]
    return [] if all(word.casefold() in _ALONE for word in words) else words


def _in_word(char: str) -> bool:
    """Letters and digits, the marks that some scripts write vowels with, the joiners of others, and apostrophes."""
    return char.isalnum() or unicodedata.category(char).startswith("M") or char in "'’\u200c\u200d"


def _of_token(token: str) -> Iterator[str]:
    if _HASH.fullmatch(token) or (len(token) >= 8 and len(_CHANGES.findall(token)) >= 3):
        return  # letters and digits in turn, as in the ids of web sites
    humps = _humps(token)
    for hump in humps:
        matched = _WORD_AND_NUMBER.fullmatch(hump)
        word = (matched["after"] or matched["before"]) if matched else hump
        if word and word.casefold() not in _NEVER and not _NUMBER.fullmatch(word):
            yield word.lower() if len(humps) > 1 and not word.isupper() else word


def _humps(token: str) -> list[str]:
    """camelCase and HTMLPage taken apart; iPhone and McDonald are one word."""
    humps = [token[:1]]
    for at in range(1, len(token)):
        before, char, after = token[at - 1], token[at], token[at + 1 : at + 2]
        begins = char.isupper() and (before.islower() or (before.isupper() and after.islower()))
        if begins and len(humps[-1]) > 1 and humps[-1] != "Mc":
            humps.append("")
        humps[-1] += char
    return humps
