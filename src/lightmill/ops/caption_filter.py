"""`--where`: which pictures a command is about, said in one line.

    tags:cat and not (caption:"red car" or tokens>75)

| term | is met where |
| --- | --- |
| `tags:cat` | one of the tags is `cat` |
| `caption:"red car"` | the caption has that in it |
| `name:IMG_*` | the file's own name is like that, with or without its ending |
| `key:holiday/*` | the key is like that |
| `layer:tags` | the picture has that layer |
| `tokens>75` | the caption has more tokens; also `chars`, `width`, `height` (px) and `tags` (how many) |

`:` and `=` mean the same, `!=` its opposite; numbers also take `<`, `<=`, `>`, `>=`. Case never matters. `*` stands for
any characters and `?` for one; inside quotes, single or double, they stand for themselves, and `\\"` is a quote.
`not` binds most, then `and`, then `or`. Nothing of an expression is ever run as code.
"""

import fnmatch
import operator
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NoReturn, TypeAlias

from lightmill.errors import UsageError

_LONGEST, _DEEPEST = 10_000, 50  # characters, brackets in brackets


@dataclass(frozen=True, slots=True)
class Subject:
    """What a filter looks at: one picture."""

    key: str
    caption: str  # the text that trainers are given
    tags: Sequence[str] = ()
    layers: Sequence[str] = ()  # their names
    width: int = 0  # px
    height: int = 0

    @property
    def name(self) -> str:
        """The last part of the key."""
        return self.key.rpartition("/")[2]


Test: TypeAlias = Callable[[Subject], bool]
Counter: TypeAlias = Callable[[str], int]

_CLIP_WORD = re.compile(r"'(?:s|t|re|ve|m|ll|d)\b|[^\W\d_]+|\d|(?:[^\w\s]|_)+")
_PIECE = 8  # letters


def count_tokens(text: str) -> int:
    """About how many tokens CLIP makes of a text, without its begin and end marks (a context of 77 has room for 75).

    Counted as CLIP first cuts a text (Radford et al. 2021): words, single digits, runs of punctuation, English endings
    such as 's. What it then cuts further needs its vocabulary; here a word is a token for every 8 letters begun, and
    for every 2 bytes begun where it is not ASCII. Measured against the real vocabulary: 9 of 10 English captions come
    out within 7 %, technical prose within 14 % (6 % low on average), Russian and Arabic within 10 %, German a third
    too low, Chinese, Japanese and Vietnamese up to 40 %. Where the exact number matters, pass a real tokenizer's.

    >>> count_tokens("A photo of a red car, 1998.")
    12
    """
    return sum(map(_pieces, _CLIP_WORD.findall(text.casefold())))


def _pieces(word: str) -> int:
    size, piece = (len(word), _PIECE) if word.isascii() else (len(word.encode("utf-8", "replace")), 2)
    return -(-size // piece) if word.isalpha() else 1


def parse_filter(text: str, *, count: Counter = count_tokens) -> Test:
    """The test that an expression means. `count` counts the tokens of a caption.

    Raises UsageError, with a mark under the place, for what is no expression.

    >>> long_or_cat = parse_filter("tokens>75 or tags:cat*")
    >>> long_or_cat(Subject(key="a.jpg", caption="a cat", tags=["Cats"]))
    True
    """
    return _Parser(text, count).parsed()


class _Parser:
    """Recursive descent; one method a level of binding."""

    def __init__(self, text: str, count: Counter) -> None:
        self._text = text
        self._count = count
        self._at = 0
        self._depth = 0

    def parsed(self) -> Test:
        if len(self._text) > _LONGEST:
            self._fail(f"an expression of more than {_LONGEST} characters", at=_LONGEST)
        test = self._either()
        if self._peek():
            self._fail("one bracket too many" if self._peek() == ")" else "wanted and, or, or the end")
        return test

    def _either(self) -> Test:
        return self._joined("or", self._both, any)

    def _both(self) -> Test:
        return self._joined("and", self._negated, all)

    def _joined(self, word: str, part: Callable[[], Test], over: Callable[..., bool]) -> Test:
        tests = [part()]
        while self._took(word):
            tests.append(part())
        return tests[0] if len(tests) == 1 else lambda subject: over(test(subject) for test in tests)

    def _negated(self) -> Test:
        negate = False
        while self._took("not"):
            negate = not negate
        test = self._primary()
        return (lambda subject: not test(subject)) if negate else test

    def _primary(self) -> Test:
        if self._peek() != "(":
            return self._term()
        opened = self._at
        self._depth += 1
        if self._depth > _DEEPEST:
            self._fail(f"more than {_DEEPEST} brackets in brackets")
        self._at += 1
        test = self._either()
        if self._peek() != ")":
            self._fail("this bracket is never closed", at=opened) if not self._peek() else self._fail(
                "wanted and, or, )"
            )
        self._at += 1
        self._depth -= 1
        return test

    def _term(self) -> Test:
        self._peek()
        begin = self._at
        name = self._match(r"\w+").casefold()
        if name not in _FIELDS:
            self._fail(f"wanted one of {', '.join(_FIELDS)}, not or (", at=begin)
        self._peek()
        place = self._at
        relation = self._match(r":|!=|<=|>=|=|<|>")
        if not relation:
            self._fail(f"wanted : or a comparison after {name}")
        make = _FIELDS[name]
        self._peek()
        begin = self._at
        value, quoted = self._value()
        if relation in ("<", "<=", ">", ">=") and name not in _NUMBERS:
            self._fail(f"{name} is text: it takes : and != only", at=place)
        number = int(value) if re.fullmatch(r"[0-9]{1,9}", value) else None
        return make(_Value(name, relation, value, quoted, number, self._count, lambda why: self._fail(why, at=begin)))

    def _value(self) -> tuple[str, bool]:
        """(text, whether it was in quotes)."""
        begin = self._at
        mark = self._text[begin : begin + 1]
        if mark and mark in "\"'":
            found = self._match(rf"{mark}(?:[^\\{mark}]|\\.)*{mark}")
            if not found:
                self._fail("this quote is never closed", at=begin)
            return re.sub(r"\\([\\\"'])", r"\1", found[1:-1]), True
        return self._bare_value(begin), False

    def _bare_value(self, begin: int) -> str:
        """Up to white space or a bracket that it did not open: `tags:saber_(fate)` needs no quotes."""
        depth = 0
        while (character := self._text[self._at : self._at + 1]) and not character.isspace():
            depth += {"(": 1, ")": -1}.get(character, 0)
            if depth < 0:
                break
            self._at += 1
        if self._at == begin:
            self._fail("wanted a value")
        return self._text[begin : self._at]

    def _peek(self) -> str:
        """The next character that is not white space; empty at the end."""
        self._match(r"\s*")
        return self._text[self._at : self._at + 1]

    def _took(self, word: str) -> bool:
        self._peek()
        return bool(self._match(rf"{word}(?![\w:=!<>])"))

    def _match(self, pattern: str) -> str:
        found = re.compile(pattern, re.IGNORECASE | re.DOTALL).match(self._text, self._at)
        if not found:
            return ""
        self._at = found.end()
        return found[0]

    def _fail(self, why: str, *, at: int | None = None) -> NoReturn:
        at = self._at if at is None else at
        shown = re.sub(r"\s", " ", self._text)
        begin = max(0, at - 60)
        shown, before = shown[begin : at + 60], shown[begin:at]
        columns = sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in before)
        raise UsageError(f"--where: {why} (column {at + 1})\n  {shown}\n  {' ' * columns}^")


@dataclass(frozen=True, slots=True)
class _Value:
    """The right side of a term, and what it stands beside."""

    field: str
    relation: str
    text: str
    quoted: bool
    number: int | None
    count: Counter
    fail: Callable[[str], NoReturn]

    def like(self, *, inside: bool = False) -> Callable[[str], bool]:
        """Whether a text is like the value; with `inside`, has a part that is."""
        wanted = _folded(self.text)
        if self.quoted or not set(wanted) & {"*", "?"}:
            return (lambda text: wanted in _folded(text)) if inside else (lambda text: wanted == _folded(text))
        whole = f"*{wanted}*" if inside else wanted
        matches = re.compile(fnmatch.translate(whole.replace("[", "[[]"))).match  # no pattern makes it slow
        return lambda text: bool(matches(_folded(text)))

    def turned(self, test: Test) -> Test:
        """The test, or its opposite for !=."""
        return (lambda subject: not test(subject)) if self.relation == "!=" else test


def _folded(text: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())


_RELATIONS: dict[str, Callable[[int, int], bool]] = {
    ":": operator.eq,
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def _numbers(of: Callable[[_Value, Subject], int]) -> Callable[[_Value], Test]:
    def make(value: _Value) -> Test:
        number, compare = value.number, _RELATIONS[value.relation]
        if number is None:
            value.fail(f"{value.field} wants a whole number")
        return lambda subject: compare(of(value, subject), number)

    return make


def _tags(value: _Value) -> Test:
    if value.relation in ("<", "<=", ">", ">="):
        return _numbers(lambda _, subject: len(subject.tags))(value)
    like = value.like()
    return value.turned(lambda subject: any(map(like, subject.tags)))


def _caption(value: _Value) -> Test:
    like = value.like(inside=True)
    return value.turned(lambda subject: like(subject.caption))


def _name(value: _Value) -> Test:
    like = value.like()
    return value.turned(lambda subject: like(subject.name) or like(subject.name.rpartition(".")[0] or subject.name))


def _key(value: _Value) -> Test:
    like = value.like()
    return value.turned(lambda subject: like(subject.key))


def _layer(value: _Value) -> Test:
    like = value.like()
    return value.turned(lambda subject: any(map(like, subject.layers)))


_FIELDS: dict[str, Callable[[_Value], Test]] = {
    "tags": _tags,
    "caption": _caption,
    "name": _name,
    "key": _key,
    "layer": _layer,
    "tokens": _numbers(lambda value, subject: value.count(subject.caption)),
    "chars": _numbers(lambda _, subject: len(subject.caption)),
    "width": _numbers(lambda _, subject: subject.width),
    "height": _numbers(lambda _, subject: subject.height),
}
_NUMBERS = ("tags", "tokens", "chars", "width", "height")
