"""Real captions pass, what is none is named, and finishing touches nothing that it need not touch."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightmill.errors import UsageError
from lightmill.ops.captions import Problem, begins_with, cleaned, finished, is_looping, problem

PROMPT = (
    "Describe this image in detail, including the main subjects, colors, composition, mood, and any notable details."
)

FOUR_PANELS = (
    "The photograph is divided into four panels; in the first a woman reads, in the second she sleeps, in the third "
    "she cooks, and in the fourth she looks out of the window at the rain."
)
LONG = (
    "This image captures a moment of calm: a boy of about ten years reads a comic book under a tree while his "
    "bicycle leans against the trunk. The light is warm and comes from the upper left. The boy wears a striped "
    "shirt, blue shorts and no shoes. In the background there is a lake with two sailing boats, and behind it a "
    "line of low hills. The mood is peaceful and a little nostalgic. The colours are soft greens and blues."
)
BACKGROUND = ", ".join(f"and there is a {one} in the background" for one in ("dog", "cat", "cow", "pig", "hen", "fox"))

REAL = [
    "cat",
    "1girl, solo, long hair, blue eyes, school uniform, looking at viewer, outdoors",
    "rating:safe, 2boys, ^_^, :d, blush, red hair, green hair, blue hair, black hair, white hair",
    "A cat.",
    "a photo of a red car parked on a street",
    "No text visible.",
    "A plain white wall; no text is visible and no people are in the image.",
    "The image shows a quiet harbour at dusk. No image of a person can be made out.",
    'A wooden sign on a gate reads "I can\'t assist you, beware of the dog".',
    'A screenshot of a chat window. The last line says "As an AI language model, I cannot answer that."',
    "A screenshot that reads: I'm sorry, but I can't assist with that request.",
    "As an AI rendering, the portrait is strikingly detailed, with soft light from the left.",
    "As an AI-generated picture it has six fingers on each hand, and a blurred background.",
    "Error message on a blue computer screen, photographed at an angle.",
    "Error 404 page shown on a laptop in a dim office.",
    "Sorry sign on a closed shop door, with peeling red letters.",
    "Unfortunately named boat, the 'Sinky', moored beside a jetty.",
    "I can't believe it's not butter: a yellow tub of margarine on a kitchen table.",
    "Please take a seat: a waiting room with five empty plastic chairs and a potted fern.",
    "None of the five people on the bench look at the camera.",
    "Portrait of José Ángel Gutiérrez beside Łukasz Żółć and Nguyễn Thị Ánh in Reykjavík.",
    "Søren Kierkegaard's statue in København, covered with snow; æbleskiver are sold in front of it.",
    "Portrait of Владимир Высоцкий on stage with a guitar.",
    'A neon sign in Tokyo reads "東京タワー" above a narrow street full of umbrellas.',
    "A ramen shop, 一蘭, seen from across the street at night.",
    "The Greek letter Ω in gold on black marble, with μ and π beneath it.",
    "GIRLS GIRLS GIRLS in pink neon over a dark doorway.",
    "A very, very, very small frog on a very large leaf.",
    "New York, New York: a poster of the skyline with the words New York repeated twice.",
    "Three dogs run on the beach. The first dog is brown. The second dog is black. The third dog is white.",
    "On the left, a red door. On the right, a red door. Between them stands a man in a grey coat.",
    "A close-up of a hand holding a 35mm film camera (Leica M6), f/2.8, 1/500 s, ISO 400.",
    "ohwx man standing in front of a brick wall, wearing a black t-shirt with the text 'NO FUTURE'",
    FOUR_PANELS,
    "Overhead view of a table set for six: plates, forks, knives, glasses, napkins, a loaf of bread, and two candles.",
    "Eine Katze sitzt auf einer Matte und schaut aus dem Fenster.",
    "Une femme en robe rouge marche dans une rue étroite, vue de dos.",
    "Một người phụ nữ mặc áo dài trắng đang đi xe đạp.",
    "A still life 🍎 with an apple, painted in oil.",
    "In this image we can see a wall, a window, a plant and a chair. In the background there is a tree.",
    "I am Legend film poster: a man and a dog walk through an empty city.",
    "We see a mountain range at sunrise; we cannot see its foot, which lies in fog.",
    "Describe-a-meal contest flyer with bold orange letters and a drawing of a soup bowl.",
    "Null Island marker buoy, yellow, floating in calm water.",
    "Exception to the rule: one red tulip in a field of yellow ones.",
    "A page of sheet music; ha ha ha ha is written under the notes.",
    LONG,
]


@pytest.mark.parametrize("text", REAL)
def test_real_captions_pass(text: str) -> None:
    assert problem(cleaned(text, prompt=PROMPT), prompt=PROMPT, cut_off=False) is None
    assert cleaned(text, prompt=PROMPT) == text


REFUSALS = [
    "I can't assist with that.",
    "I'm sorry, but I can't assist with that request.",
    "I’m sorry, I cannot help with identifying people in images.",
    "Sorry, I can't help with that.",
    "I am unable to view or analyze images.",
    "I'm not able to describe this picture.",
    "I'm not comfortable describing this image.",
    "As an AI language model, I cannot see images.",
    "As an AI, I don't have eyes.",
    "I apologize, but as an AI assistant I am unable to describe people.",
    "I apologize for the inconvenience, but I will not be able to provide a caption.",
    "My apologies. I cannot directly view the image.",
    "Unfortunately, no image was provided.",
    "It seems that there is no image attached.",
    "It looks like you haven't uploaded a picture yet.",
    "Please provide an image so that I can describe it.",
    "I don't see an image in your message.",
    "I do not have the ability to see pictures.",
    "I must respectfully decline.",
    "I have to decline this request.",
    "It would be inappropriate to describe this person.",
    "I'd rather not describe this image.",
    "This content violates our usage policies.",
    "This image may violate our content policy. A woman stands on a beach.",
    "A man in a suit. I'm sorry, but I can't identify who he is.",
    "I won't describe that.",
    "Hello! I'm just an AI assistant.",
    "Your request cannot be fulfilled.",
]


@pytest.mark.parametrize("text", REFUSALS)
def test_refusals_are_seen(text: str) -> None:
    assert problem(text, prompt=PROMPT, cut_off=False) is Problem.REFUSAL


@pytest.mark.parametrize(
    "text",
    [
        "Error generating caption: CUDA out of memory. Tried to allocate 2.00 GiB",
        "Error: connection refused",
        "An unexpected error occurred while reading the picture.",
        "An error has occurred",
        "Traceback (most recent call last): File x, line 3",
        "torch.cuda.OutOfMemoryError: CUDA out of memory",
        "RuntimeError: expected scalar type Half but found Float",
        "CUDA out of memory.",
        '{"error": {"message": "model not found"}}',
        "<!DOCTYPE html><html><body>502</body></html>",
        "502 Bad Gateway",
        "HTTP Error 429",
        "Failed to load image",
        "null",
        "None",
        "[object Object]",
        "N/A",
    ],
)
def test_words_of_programs_that_failed_are_no_captions(text: str) -> None:
    assert problem(text, prompt=PROMPT, cut_off=False) is Problem.ERROR_TEXT


@pytest.mark.parametrize("text", ["", "...", "—", '""', "!?", "🙂"])
def test_without_a_letter_it_is_empty(text: str) -> None:
    assert problem(text, prompt="", cut_off=False) is Problem.EMPTY


@pytest.mark.parametrize(
    "text",
    [
        PROMPT,
        PROMPT.lower().rstrip("."),
        "Describe this image in detail",
        "describe this image in detail, including the main subjects: a cat",
        f"User: {PROMPT} Assistant: a cat",
    ],
)
def test_the_prompt_is_no_caption(text: str) -> None:
    expected = None if text.endswith("subjects: a cat") else Problem.ECHO
    assert problem(text, prompt=PROMPT, cut_off=False) is expected


def test_a_caption_that_was_in_the_prompt_may_come_back() -> None:
    prompt = "Write this caption better: a cat sits on a mat in the sun"
    assert problem("a cat sits on a mat in the sun", prompt=prompt, cut_off=False) is None


@pytest.mark.parametrize(
    "text",
    [
        "a red a red a red a red a red a red car",
        "a cat " + "sitting on a mat and " * 3 + "sitting",
        "blue, blue, blue, blue, blue",
        "A dog runs. There is a tree in the background. There is a tree in the background.",
        "There is a big tree here. A dog. There is a big tree here. A cat. There is a big tree here.",
        "the the the the the the",
        "lolololololololololololololololo",
        "一只猫一只猫一只猫一只猫一只猫一只猫一只猫一只猫一只猫一只猫",
        "wow" + "!" * 40,
        BACKGROUND,
    ],
)
def test_going_round_in_circles_is_seen(text: str) -> None:
    assert is_looping(text)
    assert problem(text, prompt="", cut_off=True, script="any") is Problem.LOOPING  # the cause, not the consequence


@given(st.lists(st.integers(0, 2000), min_size=1, max_size=12, unique=True), st.integers(3, 6))
def test_any_unit_said_often_enough_loops(unit: list[int], times: int) -> None:
    words = " ".join(f"w{number}" for number in unit)
    needed = {1: 5, 2: 4, 3: 4}.get(len(unit), 3)
    assert is_looping("It shows " + f"{words} " * max(times, needed))


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=200, unique=True))
def test_words_that_never_come_back_do_not_loop(words: list[int]) -> None:
    assert not is_looping(" ".join(f"w{number:x}z" for number in words))


@pytest.mark.parametrize(
    ("text", "prompt", "script", "expected"),
    [
        ("一只猫坐在垫子上阳光从窗户照进来。", "", None, Problem.WRONG_SCRIPT),
        ("一只猫坐在垫子上。", "Describe in Chinese", None, None),
        ("一只猫坐在垫子上。", "请描述这张图片", None, None),
        ("赤いドレスを着た女性が庭に立っている。", "この画像を説明してください", None, None),
        ("Кошка сидит на коврике.", "", None, Problem.WRONG_SCRIPT),
        ("Кошка сидит на коврике.", "Опиши картинку", None, None),
        ("A woman in a red dress 站在一个开满鲜花的花园里背景是一座古老的石头房子", "", None, Problem.WRONG_SCRIPT),
        ("A cat sits on a mat.", "", "cyrillic", Problem.WRONG_SCRIPT),
        ("A cat sits on a mat.", "", "Latin", None),
        ("Кошка sits", "", "any", None),
        ("قطة تجلس على السجادة", "answer in Arabic", None, None),
        ("42", "", None, None),
    ],
)
def test_letters_of_another_script(text: str, prompt: str, script: str | None, expected: Problem | None) -> None:
    assert problem(text, prompt=prompt, cut_off=False, script=script) is expected


def test_a_script_that_nobody_knows_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(UsageError, match=r"script 'klingon' is not known; there are any, arabic"):
        problem("a cat", prompt="", cut_off=False, script="klingon")


def test_what_the_model_did_not_finish_is_cut_off() -> None:
    assert problem("A cat sits on a", prompt="", cut_off=True) is Problem.CUT_OFF


@pytest.mark.parametrize(
    ("text", "prompt", "expected"),
    [
        ("  A  cat\n\non a mat. ", "", "A cat on a mat."),
        ('"A cat."', "", "A cat."),
        ("“A cat.”", "", "A cat."),
        ('"Stop" and "Go" signs, "A"', "", '"Stop" and "Go" signs, "A"'),
        ("'70s car, 'new'", "", "'70s car, 'new'"),
        ("The image shows a cat.", "", "The image shows a cat."),
        ("Describe it: A cat.", "Describe it", "A cat."),
        ("describe it: A cat.", "Describe it", "describe it: A cat."),  # exactly, or not at all
        ("a catfish", "a cat", "a catfish"),
        ("Describe it", "Describe it", "Describe it"),
        ('"Describe it" A cat "Describe it"', "Describe it", '"Describe it" A cat "Describe it"'),
        ('Describe it: "A cat."', "Describe  it:\n", "A cat."),
        ("a\u200b c\x00at \ud83d\ufeff", "", "a cat"),
        ("👩\u200d🎨 at work", "", "👩\u200d🎨 at work"),  # a joiner that emoji need
        ("", "", ""),
        ('""', "", '""'),
    ],
)
def test_cleaning(text: str, prompt: str, expected: str) -> None:
    assert cleaned(text, prompt=prompt) == expected


@given(st.text(alphabet="ab \n\"'“”:"), st.sampled_from(["", "a", "a b", "b:", '"a"']))
def test_cleaning_twice_changes_nothing(text: str, prompt: str) -> None:
    once = cleaned(text, prompt=prompt)
    assert cleaned(once, prompt=prompt) == once
    assert once in " ".join(text.split())  # nothing is made up


@given(st.text(), st.text(), st.booleans())
def test_any_text_gets_a_verdict(text: str, prompt: str, cut_off: bool) -> None:
    found = problem(cleaned(text, prompt=prompt), prompt=prompt, cut_off=cut_off)
    assert found is None or isinstance(found, Problem)
    cleaned(text, prompt=prompt).encode()


@pytest.mark.parametrize(
    "text",
    ["sorry " * 20_000, "a." * 50_000, '"' * 100_000, "I'm sorry, but " * 7_000 + "x", "\\" * 100_000, "Aa" * 50_000],
)
def test_a_hostile_text_takes_no_long_time(text: str) -> None:
    began = time.process_time()
    problem(cleaned(text, prompt="sorry"), prompt="", cut_off=False)
    finished(text, trigger="cat", forbidden=["dog"])
    assert time.process_time() - began < 8  # 100 kB, ten times what any model says


@pytest.mark.parametrize(
    ("text", "trigger", "expected"),
    [
        ("A man stands.", "ohwx", "ohwx, A man stands."),
        ("ohwx, a man", "ohwx", "ohwx, a man"),
        ("Ohwx man", "ohwx", "Ohwx man"),
        ("caterpillar on a leaf", "cat", "cat, caterpillar on a leaf"),
        ("cat on a leaf", "cat", "cat on a leaf"),
        ("cat-like robot", "cat", "cat, cat-like robot"),
        ("A European man", "a", "A European man"),  # nothing gets a comma that had none
        ("A European man", "sks", "sks, A European man"),
        ("The Eiffel Tower", "sks", "sks, The Eiffel Tower"),
        ("a cat and a dog", "cat", "cat, a cat and a dog"),
        ("", "cat", "cat"),
        ("sks dog on grass", "sks dog", "sks dog on grass"),
        ("<sks> on grass", "<sks>", "<sks> on grass"),
        ("a man", "ohwx,", "ohwx, a man"),
        ("a man", "", "a man"),
    ],
)
def test_the_trigger_stands_first_as_a_word(text: str, trigger: str, expected: str) -> None:
    assert finished(text, trigger=trigger) == expected


def test_everything_together() -> None:
    made = finished(
        "A beautiful cat on a mat.", trigger="ohwx", prefix="a photo of", suffix=", film grain", forbidden=["beautiful"]
    )
    assert made == "ohwx, a photo of A cat on a mat., film grain"
    assert finished("cat sits", trigger="cat", prefix="photo of") == "cat, photo of cat sits"
    assert finished("", prefix="a photo", suffix=", grain") == "a photo, grain"
    assert finished("", suffix=", grain") == "grain"


@pytest.mark.parametrize(
    ("text", "forbidden", "expected"),
    [
        ("a cat, watermark, grass", ["watermark"], "a cat, grass"),
        ("watermark, a cat", ["watermark"], "a cat"),
        ("a cat, watermark", ["watermark"], "a cat"),
        ("a cat, watermark.", ["watermark"], "a cat."),
        ("A bright, sunny day", ["bright"], "A sunny day"),
        ("Bright sunny day", ["bright"], "Sunny day"),
        ("a Watermarked cat", ["watermark"], "a Watermarked cat"),
        ("high-quality photo", ["quality"], "high-quality photo"),
        ("low quality photo, low quality", ["low quality"], "photo"),
        ("a cat (blurry) on grass", ["blurry"], "a cat on grass"),
        ("a cat (blurry, small) on grass", ["blurry"], "a cat (small) on grass"),
        ("Blurry.", ["blurry"], ""),
        ("it's a cat", ["it", "s"], "it's a cat"),
        ("the cat's tail, a cat", ["cat"], "the cat's tail, a"),
        ("a c++ book", ["c++"], "a book"),
        ("one two one", ["one", ""], "two"),
    ],
)
def test_forbidden_words_go_with_their_punctuation(text: str, forbidden: list[str], expected: str) -> None:
    assert finished(text, forbidden=forbidden) == expected


def test_a_word_cannot_be_both_wanted_and_forbidden() -> None:
    with pytest.raises(UsageError, match="'Photo' is forbidden, and in the trigger, prefix or suffix"):
        finished("a cat", prefix="A Photo of", forbidden=["photo"])


WORDS = st.lists(st.sampled_from(["cat", "Cat", "cats", "dog", "dog,", "(dog)", "a", "bad", "bad,", "Bad", "so-bad"]))


@given(
    WORDS.map(" ".join),
    st.sampled_from(["", "cat", "ohwx", "a cat", "dog,"]),
    st.sampled_from(["", "a photo of", "cat,"]),
    st.sampled_from(["", ", grain", "in rain", "dog"]),
)
def test_finishing_twice_is_finishing_once(text: str, trigger: str, prefix: str, suffix: str) -> None:
    once = finished(text, trigger=trigger, prefix=prefix, suffix=suffix, forbidden=["bad"])
    assert finished(once, trigger=trigger, prefix=prefix, suffix=suffix, forbidden=["bad"]) == once
    assert begins_with(once, trigger.rstrip(",")) or not trigger
    assert "bad" not in once.lower().replace("so-bad", "").split()
    assert once.endswith(suffix.lstrip(", "))


@given(WORDS.map(" ".join))
def test_nothing_to_do_is_nothing_done(text: str) -> None:
    assert finished(text) == text
