"""What a model said, made fit to be a caption: tidied, checked, and finished with the words that a training needs.

Nothing here knows a model: texts in, texts and verdicts out.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from enum import StrEnum
from functools import lru_cache
from itertools import pairwise

from lightmill.errors import UsageError


class Problem(StrEnum):
    """Why a text is no caption."""

    EMPTY = "empty"
    ERROR_TEXT = "error_text"
    REFUSAL = "refusal"
    ECHO = "echo"
    LOOPING = "looping"
    WRONG_SCRIPT = "wrong_script"
    CUT_OFF = "cut_off"


# ---------------------------------------------------------------------------------------------------------------------
# tidied

_UNSEEN = re.compile("[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\u200b\u2060\ufeff\ud800-\udfff\ufffe\uffff]")
_QUOTES = {'"': '"', "“": "”", "„": "“", "«": "»", "'": "'", "\u2018": "’", "`": "`"}
_AFTER_ECHO = " :;,.!?-–—"


def cleaned(text: str, *, prompt: str) -> str:
    """One line, without the space around it, without quotes around the whole, and without the prompt before it.

    Every run of white space becomes one space; control characters and halves of surrogate pairs go. A pair of quotes
    goes where it holds the whole text and stands nowhere inside. The prompt goes where the text begins with exactly it
    (but for white space) and goes on after the end of a word; a text that is nothing but the prompt stays, for
    `problem` to see. "The image shows…" is left alone: it is what the model says. Cleaning twice changes nothing.
    """
    text, prompt = _one_line(text), _one_line(prompt)
    while (shorter := _without_echo(_without_quotes(text), prompt)) != text:
        text = shorter
    return text


def _one_line(text: str) -> str:
    return " ".join(_UNSEEN.sub("", text).split())


def _without_quotes(text: str) -> str:
    inner = text[1:-1].strip()
    if len(text) < 3 or not inner or _QUOTES.get(text[0]) != text[-1] or text[0] in inner or text[-1] in inner:
        return text
    return inner


def _without_echo(text: str, prompt: str) -> str:
    rest = text[len(prompt) :]
    if not prompt or not text.startswith(prompt) or _go_on(prompt, rest):
        return text
    return rest.lstrip(_AFTER_ECHO) or text


def _go_on(words: str, rest: str) -> bool:
    """Whether the last word does not end where `words` do."""
    return words[-1:].isalnum() and rest[:1].isalnum()


# ---------------------------------------------------------------------------------------------------------------------
# checked


def problem(text: str, *, prompt: str, cut_off: bool, script: str | None = None) -> Problem | None:
    """Why a cleaned text is no caption; None where it may be one. What is named first below is what it is called.

    - empty: not one letter or digit.
    - error_text: the words of a program that failed: "Error generating caption", a traceback, HTML, "null".
    - refusal: a sentence outside quotes begins as those of models that will not or cannot answer ("I'm sorry, but I
      can't…", "As an AI…", "No image was provided"). English only.
    - echo: the words of the prompt (of four words or more) are all there is, begin the text, or end with it half-way;
      or a prompt of six words or more stands anywhere in it.
    - looping: see `is_looping`.
    - wrong_script: outside quotes, letters of scripts other than asked for are the majority, or 40 stand in a row
      (Chinese, Japanese and Korean ones count twice: they say more). `script` names what is asked for: "latin",
      "cyrillic", "japanese", …, or "any". Without it: Latin, the script that the prompt is mostly written in, and
      those of languages that the prompt names.
    - cut_off: the model stopped at its limit, whatever the text looks like.

    Raises UsageError for a `script` that is not known.
    """
    allowed = _scripts(script, prompt)
    plain = _QUOTED.sub('""', text)
    tests = (
        (Problem.EMPTY, not any(map(str.isalnum, text))),
        (Problem.ERROR_TEXT, bool(_ERROR.match(text))),
        (Problem.REFUSAL, any(map(_REFUSAL.match, _sentences(plain)))),
        (Problem.ECHO, _is_echo(_words(text), _words(prompt))),
        (Problem.LOOPING, is_looping(text)),
        (Problem.WRONG_SCRIPT, bool(allowed) and _is_foreign(plain, allowed)),
        (Problem.CUT_OFF, cut_off),
    )
    return next((name for name, met in tests if met), None)


_QUOTED = re.compile('"[^"]*"|“[^”]*”|«[^»]*»|「[^」]*」|『[^』]*』')

_ERROR = re.compile(
    "|".join(
        (
            r"error\s*[:(]",
            r"error\s+(?:generating|processing|loading|creating|captioning|while|during|occurred)\b",
            r"(?:an?\s+)?(?:\w+\s+)?(?:server\s+)?(?:error|exception)\s+(?:has\s+)?occurred\b",
            r"traceback\s+\(most\s+recent",
            r"(?-i:(?:\w+\.)*[A-Z]\w*(?:Error|Exception)\b\s*(?:[:(]|$))",
            r"(?:cuda|hip|mps)\s+(?:error|out\s+of\s+memory)",
            r"(?:\d{3}\s+)?(?:internal\s+server\s+error|bad\s+gateway|service\s+unavailable|too\s+many\s+requests)\W*$",
            r"(?:http\s+)?error\s+[45]\d\d\W*$",
            r"\{\s*[\"']error[\"']",
            r"<(?:!doctype|html|\?xml)\b",
            r"(?:failed|unable)\s+to\s+(?:generate|process|load|caption|decode|describe|connect|fetch|read)\b",
            r"(?:null|none|nan|undefined|n/?a|\[object\s+object\])\W*$",
        )
    ),
    re.IGNORECASE,
)

_LEADS = (
    r"(?:i\s*(?:am|['’]m)\s+(?:(?:so|very|really|truly)\s+)?)?sorry",
    r"(?:my\s+)?apologies",
    r"i\s+apologi[sz]e",
    r"unfortunately|regrettably|however|hello|hi(?:\s+there)?",
)
_LEAD = rf"(?:(?:{'|'.join(_LEADS)})\b(?:\s+for\s+(?:the|any)\s+\w+)?\s*[,.!:;–—-]*\s*(?:but\s+|and\s+|that\s+)?)*"
_CANNOT = r"(?:can\s*not|can['’]?t|could\s*n['’]?t|could\s+not|won['’]?t|will\s+not)"
_ANSWERING = (
    r"(?:access|analy[sz]e|answer|assist|caption|comment|comply|continue|create|describe|determine|discuss|display|do\s+th"
    r"|engage|fulfil|generate|give|help|identify|interpret|make|offer|open|participate|process|produce|provide|recogni"
    r"|respond|see|support|tell|view|write)"
)
_AN_AI = r"an?\s+(?:ai|a\.i\.|artificial\s+intelligence|(?:(?:large|visual|multimodal|text-based)\s+)*language\s+model)"
_SEEMS = r"(?:it\s+(?:seems|looks|appears)\s+(?:like\s+|that\s+)?)?"
_PICTURE = r"(?:image|picture|photo|attachment)"
_THIS = rf"(?:{_PICTURE}|content|request|prompt)"
_GIVE = r"(?:provide|attach|upload|include|suppl[yi]|share|send)"
_REFUSAL = re.compile(
    _LEAD
    + "(?:"
    + "|".join(
        (
            rf"(?:i|we)\s*{_CANNOT}\s+(?:be\s+able\s+to\s+|to\s+|\w+ly\s+)*{_ANSWERING}",
            r"(?:i\s+am|i['’]m|we\s+are|we['’]re)\s+(?:currently\s+)?unable\b",
            r"(?:i\s+am|i['’]m|we\s+are|we['’]re)\s+not\s+(?:able|allowed|permitted|comfortable|going|capable|designed)\b",
            r"(?:i|we)\s+(?:do\s+not|don['’]?t)\s+(?:have\s+(?:the\s+(?:ability|capability)|access)|feel\s+comfortable)\b",
            rf"(?:i|we)\s+(?:do\s+not|don['’]?t)\s+(?:actually\s+)?see\s+(?:an?|any|the)\s+{_PICTURE}",
            r"(?:i|we)\s+(?:must|(?:will\s+)?have\s+to|need\s+to)\s+(?:\w+ly\s+)?(?:decline|refuse)\b",
            r"i(?:['’]d|\s+would)\s+(?:prefer\s+not|rather\s+not)\b",
            r"it(?:\s+is|['’]s|\s+would\s+be)\s+(?:not\s+|in)appropriate\s+(?:for\s+me\s+)?to\b",
            rf"as\s+{_AN_AI}(?![-\w]|\s+(?!i\b|assistant|model|chatbot|language)\w)",  # not "as an AI rendering shows"
            rf"i(?:\s+am|['’]m)\s+(?:just\s+|only\s+)?{_AN_AI}\b",
            rf"{_SEEMS}(?:there\s+(?:is|was)\s+)?no\s+{_PICTURE}\s+(?:(?:was|is|has\s+been)\s+)?{_GIVE}(?:e?d)?\b",
            rf"{_SEEMS}you\s+(?:have|did)\s*(?:n['’]?t|not)\s+{_GIVE}",
            rf"(?:please|could\s+you(?:\s+please)?)\s+{_GIVE}\s+(?:me\s+)?(?:an?|the|your|another)\s+(?:\w+\s+)?{_PICTURE}",
            rf"(?:this|the|your)\s+{_THIS}\s+(?:may\s+|might\s+)?(?:violates?|goes\s+against|is\s+against)\b",
            rf"(?:this|the|your)\s+request\s+{_CANNOT}\s+be\b",
        )
    )
    + ")",
    re.IGNORECASE,
)

_WORD = re.compile(r"\w+(?:['’-]\w+)*")
_SENTENCE_END = re.compile(
    r"(?<=[.!?])\s+|(?<=[.!?]['\"”’)])\s+|(?<=[\u3002\uff01\uff1f])\s*|\n+"
)  # also 。and its like


def _words(text: str) -> list[str]:
    return _WORD.findall(text.casefold())


def _sentences(text: str) -> list[str]:
    return [part.strip() for part in _SENTENCE_END.split(text) if part.strip()]


def _is_echo(words: Sequence[str], prompt: Sequence[str]) -> bool:
    if min(len(words), len(prompt)) < 4:
        return bool(prompt) and list(words) == list(prompt)
    shorter = min(len(words), len(prompt))
    if words[:shorter] == prompt[:shorter]:
        return True
    length = len(prompt)
    return length >= 6 and any(words[i : i + length] == prompt for i in range(len(words) - length + 1))


_LONGEST_UNIT, _LONGEST_TURN = 40, 24  # words, characters
_STALE, _STALE_FROM = 1 / 3, 24  # share of word groups, groups


def is_looping(text: str) -> bool:
    """Whether a text goes round in circles, by one of four rules (words without case and punctuation).

    - n words in a row stand again right behind themselves, n up to 40: 5 times in all for n = 1, 4 for 2 and 3, else 3;
    - a sentence of four words or more stands twice in a row, or three times anywhere;
    - of 24 or more groups of four words in a row, a third or more stood earlier in the text;
    - up to 24 characters in a row stand again and again: 4 times or more, over 30 characters or more.
    """
    words = _words(text)
    return _goes_round(words) or _says_again(text) or _is_stale(words) or _stutters(text)


def _goes_round(words: Sequence[str]) -> bool:
    return any(
        _longest_period(words, n) >= n * ({1: 5, 2: 4, 3: 4}.get(n, 3) - 1)
        for n in range(1, min(_LONGEST_UNIT, len(words) // 3) + 1)
    )


def _longest_period(items: Sequence[str], n: int) -> int:
    """The longest run of items that are each as the one n places before."""
    longest = run = 0
    for one, other in zip(items, items[n:], strict=False):
        run = run + 1 if one == other else 0
        longest = max(longest, run)
    return longest


def _says_again(text: str) -> bool:
    said = [words for words in map(tuple, map(_words, _sentences(text))) if len(words) >= 4]
    return any(one == other for one, other in pairwise(said)) or any(times > 2 for times in Counter(said).values())


def _is_stale(words: Sequence[str]) -> bool:
    groups = [tuple(words[i : i + 4]) for i in range(len(words) - 3)]
    return len(groups) >= _STALE_FROM and 1 - len(set(groups)) / len(groups) >= _STALE


def _stutters(text: str) -> bool:
    return any(_longest_period(text, n) + n >= max(30, 4 * n) for n in range(1, min(_LONGEST_TURN, len(text)) + 1))


_HAN, _JAPANESE = frozenset({"han"}), frozenset({"han", "kana"})
_OF_LANGUAGE = {
    **dict.fromkeys(("chinese", "mandarin", "cantonese"), _HAN),
    "japanese": _JAPANESE,
    "korean": frozenset({"hangul", "han"}),
    **dict.fromkeys(("russian", "ukrainian", "bulgarian", "serbian", "belarusian"), frozenset({"cyrillic"})),
    **dict.fromkeys(("arabic", "persian", "farsi", "urdu"), frozenset({"arabic"})),
    **dict.fromkeys(("hindi", "marathi", "nepali", "sanskrit"), frozenset({"devanagari"})),
    **{name: frozenset({name}) for name in ("greek", "hebrew", "thai", "bengali", "tamil", "telugu", "georgian")},
    **{name: frozenset({name}) for name in ("armenian", "gujarati", "kannada", "malayalam", "khmer", "lao")},
}
_SCRIPTS = {name: frozenset({name}) for name in ("latin", "cyrillic", "devanagari", "han", "kana", "hangul")}
_AS_NAMED = {"cjk": "han", "hiragana": "kana", "katakana": "kana", "katakana-hiragana": "kana"}
_NO_SCRIPT = {"micro", "modifier", "mathematical", "feminine", "masculine", "script", "double-struck", "superscript"}
_DENSE = {"han", "kana", "hangul"}
_LONG_PASSAGE = 40  # letters


def _scripts(script: str | None, prompt: str) -> frozenset[str]:
    """The scripts that a caption may be in; none where it may be in any."""
    if script is None:
        named = (_OF_LANGUAGE.get(word, frozenset()) for word in _words(prompt))
        return frozenset({"latin"}).union(_main_scripts(prompt), *named)
    known = {**_OF_LANGUAGE, **_SCRIPTS, "any": frozenset[str]()}
    if script.lower() not in known:
        raise UsageError(f"the script {script!r} is not known; there are {', '.join(sorted(known))}")
    return known[script.lower()]


def _main_scripts(prompt: str) -> frozenset[str]:
    """The scripts that half of a prompt's letters or more are in; kana make the whole of Japanese."""
    counts = Counter(filter(None, map(_script_of, prompt)))
    half = counts.total() / 2
    main = {script for script, count in counts.items() if count >= half}
    return _JAPANESE if "kana" in counts and counts["kana"] + counts["han"] >= half else frozenset(main)


def _is_foreign(text: str, allowed: frozenset[str]) -> bool:
    total = strange = passage = longest = 0
    for script in filter(None, map(_script_of, text)):
        weight = 2 if script in _DENSE else 1
        total += weight
        passage = 0 if script in allowed else passage + weight
        strange += 0 if script in allowed else weight
        longest = max(longest, passage)
    return strange > total / 2 or longest >= _LONG_PASSAGE


@lru_cache(maxsize=1 << 14)
def _script_of(character: str) -> str:
    """By the first word of the letter's name in Unicode; empty for what is no letter or belongs to all."""
    if not character.isalpha():
        return ""
    name = unicodedata.name(character, "").lower().removeprefix("fullwidth ").removeprefix("halfwidth ")
    first = name.partition(" ")[0]
    return "" if first in _NO_SCRIPT else _AS_NAMED.get(first, first)


# ---------------------------------------------------------------------------------------------------------------------
# finished


def finished(text: str, *, trigger: str = "", prefix: str = "", suffix: str = "", forbidden: Iterable[str] = ()) -> str:
    """The caption as trainers get it: `trigger, prefix text suffix`, without the forbidden words.

    - The trigger is put first, with a comma, unless the text begins with it as a word already (whatever the case):
      "cat" is put before "caterpillar", and nothing else of a text is ever touched for it.
    - A prefix or suffix that is there already is not put there again; doing all this twice is doing it once.
    - Forbidden words and phrases go as whole words, whatever the case, and punctuation that stood for them goes too. A
      text that had no other words is empty then, and the trigger stands alone.

    Raises UsageError where trigger, prefix or suffix have a forbidden word in them.
    """
    patterns = [_whole_word(_one_line(word)) for word in forbidden if word.strip()]
    trigger, prefix, suffix = _one_line(trigger).rstrip(", "), _one_line(prefix), _one_line(suffix)
    for pattern in patterns:
        if found := pattern.search(f"{trigger} \n{prefix} \n{suffix}"):
            raise UsageError(f"{found[0]!r} is forbidden, and in the trigger, prefix or suffix; take it out of one")
    body = _without(text.strip(), patterns)
    head, rest = _headed(body, trigger)
    if with_prefix(body, prefix) != body:  # else the head may be a part of the prefix
        body = with_prefix(rest, prefix)
    else:
        head = ""
    body = with_suffix(body, suffix)
    if not trigger or (not head and begins_with(body, trigger)):
        return body
    return f"{head or trigger}, {body}" if body else head or trigger


def begins_with(text: str, words: str) -> bool:
    """Whether a text begins with those words as whole words, whatever the case; `cat's` does, `cat-like` not."""
    return bool(_whole_word(words, joints="-").match(text))


def with_prefix(text: str, prefix: str) -> str:
    """The prefix, a space, and the text; just the text where it begins with the prefix.

    >>> with_prefix("cat", "a photo of"), with_prefix("a photo of cat", "a photo of")
    ('a photo of cat', 'a photo of cat')
    """
    prefix, text = prefix.strip(), text.strip()
    if not prefix or (text.startswith(prefix) and not _go_on(prefix, text[len(prefix) :])):
        return text
    return f"{prefix} {text}" if text else prefix


def with_suffix(text: str, suffix: str) -> str:
    """The text and the suffix, with a space between unless the suffix begins with punctuation; once.

    >>> with_suffix("cat", ", film grain"), with_suffix("cat", "in rain")
    ('cat, film grain', 'cat in rain')
    """
    suffix, text = suffix.strip(), text.strip()
    joint, alone = "" if suffix[:1] in ",.;:!?)" else " ", suffix.lstrip(",;: ")
    if not suffix or text == alone or text.endswith(f"{joint}{suffix}"):
        return text
    return f"{text}{joint}{suffix}" if text else alone


def _whole_word(words: str, joints: str = "-'’") -> re.Pattern[str]:
    """Not inside a longer word, nor joined to another by one of the joints."""
    before = rf"(?<!\w)(?<!\w[{joints}])" if words[:1].isalnum() else ""
    behind = rf"(?!\w|[{joints}]\w)" if words[-1:].isalnum() else ""
    return re.compile(before + re.escape(words) + behind, re.IGNORECASE)


def _headed(text: str, trigger: str) -> tuple[str, str]:
    """A text that begins as `trigger, …` or is the trigger, as (trigger as it stands there, rest)."""
    if trigger and begins_with(text, trigger):
        head, rest = text[: len(trigger)], text[len(trigger) :]
        if not rest or rest.startswith(", "):
            return head, rest[2:].strip()
    return "", text


def _without(text: str, patterns: Sequence[re.Pattern[str]]) -> str:
    while found := next(filter(None, (pattern.search(text) for pattern in patterns)), None):
        text = _taken_out(text, found)
    return text


def _taken_out(text: str, found: re.Match[str]) -> str:
    """The text without a word, and without the comma that stood for it."""
    before, behind = text[: found.start()].rstrip(), text[found.end() :].lstrip()
    if not before or before[-1] in ",;:([":
        behind = behind.lstrip(",;: ")
    elif behind[:1] == ",":  # "a bright, sunny day", "grass, bright, sky"
        behind = behind[1:].lstrip()
    if not behind or behind[0] in ".!?)]":
        before = before.rstrip(",;: ")
    if before[-1:] + behind[:1] in ("()", "[]"):
        before, behind = before[:-1].rstrip(), behind[1:].lstrip()
    if not before and found[0][:1].isupper():
        behind = behind[:1].upper() + behind[1:]
    joint = "" if not before or before[-1] in "([" or not behind or behind[0] in ".,;:!?)]" else " "
    rest = before + joint + behind
    return rest if any(map(str.isalnum, rest)) else ""
