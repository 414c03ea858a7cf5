"""Captions as stages: what is asked of each picture, the answers checked and asked for again, and what is kept of them.

A picture whose caption fails fails as a whole, as `caption:Refusal` and the like: its picture is not saved either, for
trainers that read folders would train on it without a text. `lightmill retry OUT --only failed:caption` asks again.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from lightmill.codecs.exif import read_tags
from lightmill.engine.items import Json, Notes
from lightmill.errors import ItemError
from lightmill.export.captions_file import Layer
from lightmill.models.kinds import Answer, Ask, Captioner, Image
from lightmill.models.template import captions_from, filled, values_of
from lightmill.ops.caption_filter import count_tokens
from lightmill.ops.captions import Problem, cleaned, finished, problem
from lightmill.ops.fit import Mapping as Fitted
from lightmill.recipes.existing import of_field

CAPTION, TAGS = "caption", "tags"
LAYERS = "layers"  # in an item's meta
_SHOWN = 200  # characters of a text that is no caption
_DATE_TAKEN, _DATE = 0x9003, 0x0132


class NoCaption(ItemError):  # noqa: N818 (the names of these classes are what `lightmill status` lists)
    """What was said of a picture is no caption."""


class Empty(NoCaption):
    """Nothing was said."""


class ErrorText(NoCaption):
    """The words of a program that failed."""


class Refusal(NoCaption):
    """The model would not, or could not, answer."""


class Echo(NoCaption):
    """The prompt itself."""


class Looping(NoCaption):
    """The same words again and again."""


class WrongScript(NoCaption):
    """Letters of another script than asked for."""


class CutOff(NoCaption):
    """The limit came before the end."""


_ERRORS: Mapping[Problem, type[NoCaption]] = {
    Problem.EMPTY: Empty,
    Problem.ERROR_TEXT: ErrorText,
    Problem.REFUSAL: Refusal,
    Problem.ECHO: Echo,
    Problem.LOOPING: Looping,
    Problem.WRONG_SCRIPT: WrongScript,
    Problem.CUT_OFF: CutOff,
}
_SAYS: Mapping[Problem, str] = {
    Problem.EMPTY: "the model said nothing",
    Problem.ERROR_TEXT: "the model gave the message of an error",
    Problem.REFUSAL: "the model refused",
    Problem.ECHO: "the model gave the prompt back",
    Problem.LOOPING: "the model went round in circles",
    Problem.WRONG_SCRIPT: "the model wrote in another script (--script names the one to expect, or any)",
    Problem.CUT_OFF: "the model came to no end within --max-tokens",
}


@dataclass(frozen=True, slots=True)
class Told:
    """What became of one question: the text, whatever it is worth, and how it came about."""

    text: str
    ask: Ask
    tries: int
    problem: Problem | None
    failure: ItemError | None = None  # there was no answer

    @property
    def is_caption(self) -> bool:
        return not self.problem and not self.failure


@dataclass(frozen=True, kw_only=True)
class Wording:
    """What is done to every caption at its end."""

    trigger: str = ""
    prefix: str = ""
    suffix: str = ""
    forbidden: tuple[str, ...] = ()

    def of(self, text: str) -> str:
        """The caption as trainers get it."""
        return finished(text, trigger=self.trigger, prefix=self.prefix, suffix=self.suffix, forbidden=self.forbidden)

    def tags(self, tagged: Answer | None, origin: Mapping[str, Json]) -> list[Layer]:
        """What a tagger beside the captioner says, without forbidden words; no layer where nothing is left."""
        text = finished(tagged.text, forbidden=self.forbidden) if tagged else ""
        return [Layer(TAGS, text, dict(origin))] if text else []


@dataclass(frozen=True, kw_only=True)
class Words:
    """The variables of a picture's template or prompt; a stage that makes them."""

    trigger: str

    def __call__(
        self,
        key: str,
        row: Mapping[str, str] | None,
        mapping: Fitted,
        taken: str,
        existing: tuple[Layer, ...],
        tagged: Answer | None,
    ) -> dict[str, str]:
        width, height = mapping.source
        return values_of(
            key=key,
            row=row,
            taken=taken,
            width=width,
            height=height,
            trigger=self.trigger,
            tags=tagged.text if tagged else of_field(existing, tags=True),
            caption=of_field(existing, tags=False),
        )


def date_taken(data: bytes) -> str:
    """When a picture was taken, as its EXIF has it; empty where it does not say."""
    kept = read_tags(data)
    dates = {tag.number: tag.value for tag in (*kept.main, *kept.exif)}
    value = dates.get(_DATE_TAKEN) or dates.get(_DATE) or b""
    return value.rstrip(b"\0").decode("ascii", "replace")


def no_date() -> str:
    """Of frames of a video."""
    return ""


def no_tags() -> None:
    """Where no tagger is at work."""


def no_texts() -> tuple[Layer, ...]:
    """Where existing captions are left aside."""
    return ()


@dataclass(frozen=True, kw_only=True)
class FromTemplate:
    """A stage: the caption that the template gives, or the one that the picture has already."""

    template: str
    use_existing: bool
    wording: Wording
    tagger: Mapping[str, Json] = field(default_factory=dict)

    def __call__(
        self,
        words: Mapping[str, str],
        key: str,
        row: Mapping[str, str] | None,
        taken: str,
        mapping: Fitted,
        existing: tuple[Layer, ...],
        tagged: Answer | None,
        notes: Notes,
    ) -> tuple[Layer, ...]:
        """Raises Empty where nothing is left to say."""
        width, height = mapping.source
        had = of_field(existing, tags=False) or of_field(existing, tags=True) if self.use_existing else ""
        text = had or captions_from(
            self.template,
            key=key,
            row=row,
            taken=taken,
            width=width,
            height=height,
            trigger=words["trigger"],
            tags=words["tags"],
            caption=words["caption"],
        )
        text = self.wording.of(text)
        if not text:
            raise Empty(f"the template {self.template!r} has no words for this picture; give --trigger, or another one")
        origin: dict[str, Json] = {"model": "existing"} if had else {"model": "template", "prompt": self.template}
        layer = Layer(CAPTION, text, {**origin, "tokens": count_tokens(text)})
        return _noted(notes, [layer, *self.wording.tags(tagged, self.tagger), *existing])


@dataclass(frozen=True, kw_only=True)
class AskFor:
    """A stage: what is asked about a picture; nothing where it has a caption that is to be used."""

    prompt: str
    count: int
    use_existing: bool

    def __call__(self, words: Mapping[str, str], existing: tuple[Layer, ...], seed: int) -> tuple[Ask, ...]:
        if self.use_existing and existing:
            return ()
        prompt = filled(self.prompt, words)
        return tuple(Ask(prompt, seed + number) for number in range(self.count))


class Describe:
    """A batch of pictures and questions to checked answers, asked for again where they are no captions."""

    def __init__(
        self, captioner: Captioner, again: Callable[[Captioner], Captioner], *, retries: int, script: str | None
    ) -> None:
        self._captioner = captioner
        self._make_again = again
        self._retries = retries
        self._script = script

    def load(self, device: str) -> None:
        self._captioner.load(device)

    def unload(self) -> None:
        self._captioner.unload()

    def __call__(self, image: Sequence[Image], asks: Sequence[tuple[Ask, ...]]) -> list[tuple[Told, ...]]:
        """Another try has another seed. What has failed to the end keeps its last problem.

        What was not answered at all is not asked again: the captioner has done what can be done.
        """
        open_asks = [(picture, ask) for picture, several in enumerate(asks) for ask in several]
        told: dict[tuple[int, Ask], Told] = {}
        captioner = self._captioner
        for tries in range(1, self._retries + 2):
            seeds = [Ask(ask.prompt, _reseeded(ask.seed, tries)) for _, ask in open_asks]
            answers = captioner([image[picture] for picture, _ in open_asks], seeds) if open_asks else []
            for question, asked, answer in zip(open_asks, seeds, answers, strict=True):
                told[question] = self._judged(answer, asked, tries)
            open_asks = [question for question in open_asks if told[question].problem]
            if not open_asks:
                break
            captioner = self._make_again(self._captioner)
        return [tuple(told[picture, ask] for ask in several) for picture, several in enumerate(asks)]

    def _judged(self, answer: Answer, ask: Ask, tries: int) -> Told:
        if answer.failure:
            return Told("", ask, tries, None, answer.failure)
        text = cleaned(answer.text, prompt=ask.prompt)
        what = problem(text, prompt=ask.prompt, cut_off=answer.cut_off, script=self._script)
        return Told(text, ask, tries, what)


class TagPictures:
    """A batch of pictures to tags, for a tagger beside the captioner."""

    def __init__(self, tagger: Captioner) -> None:
        self._tagger = tagger

    def load(self, device: str) -> None:
        self._tagger.load(device)

    def unload(self) -> None:
        self._tagger.unload()

    def __call__(self, image: Sequence[Image]) -> list[Answer]:
        return self._tagger(image, [Ask("", 0)] * len(image))


@dataclass(frozen=True, kw_only=True)
class TakeCaptions:
    """A stage: the answers as layers. Where none of them is a caption, raises NoCaption, or what the captioner says."""

    layer: str  # caption, or tags for a tagger
    model: str
    version: str
    wording: Wording
    tagger: Mapping[str, Json] = field(default_factory=dict)

    def __call__(
        self, told: tuple[Told, ...], existing: tuple[Layer, ...], tagged: Answer | None, notes: Notes
    ) -> tuple[Layer, ...]:
        good = [one for one in told if one.is_caption]
        if told and not good:
            raise self._failure(told[0])
        layers = [self._layer(one) for one in good] if told else [self._existing(existing)]
        if not all(layer.text for layer in layers):
            raise Empty("--forbid left nothing of the caption")
        return _noted(notes, [*layers, *self.wording.tags(tagged, self.tagger), *existing])

    def _layer(self, told: Told) -> Layer:
        text = self.wording.of(told.text)
        origin: dict[str, Json] = {"model": self.model, "version": self.version}
        if told.ask.prompt:
            origin["prompt"] = told.ask.prompt
        origin |= {"seed": told.ask.seed, "tokens": count_tokens(text)}
        return Layer(self.layer, text, origin | ({"tries": told.tries} if told.tries > 1 else {}))

    def _existing(self, existing: tuple[Layer, ...]) -> Layer:
        text = self.wording.of(of_field(existing, tags=False) or of_field(existing, tags=True))
        return Layer(CAPTION, text, {"model": "existing", "tokens": count_tokens(text)})

    def _failure(self, told: Told) -> ItemError:
        if told.failure:
            return told.failure
        assert told.problem, "only what failed comes here"
        tried = f" in all of {told.tries} tries" if told.tries > 1 else ""
        said = f": {told.text[:_SHOWN]!r}" if told.text else ""
        return _ERRORS[told.problem](f"{_SAYS[told.problem]}{tried}{said}")


def layers_json(layers: Iterable[Layer]) -> list[Json]:
    """Layers as an item's meta holds them."""
    return [{"layer": layer.name, "text": layer.text, "origin": dict(layer.origin)} for layer in layers]


def _noted(notes: Notes, layers: Sequence[Layer]) -> tuple[Layer, ...]:
    """The layers, texts that are twice once; written into the item's meta."""
    kept = tuple({(layer.name, layer.text): layer for layer in reversed(layers)}.values())[::-1]
    notes.meta[LAYERS] = layers_json(kept)
    return kept


def _reseeded(seed: int, tries: int) -> int:
    """The seed itself at first, then others, below 2^63."""
    return (seed + (tries - 1) * 0x9E3779B97F4A7C15) % (1 << 63)
