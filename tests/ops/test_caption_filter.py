"""Filters mean what they say, and where one cannot be read the message points at the place."""

import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightmill.errors import UsageError
from lightmill.ops.caption_filter import Subject, count_tokens, parse_filter

CAR = Subject(
    key="holiday/IMG_0042.JPG",
    caption='A red car, parked by a "STOP" sign.',
    tags=["car", "Red car", "street", "saber (fate)", "100%", "été"],
    layers=["caption", "tags"],
    width=1024,
    height=768,
)


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("tags:car", True),
        ("tags:CAR", True),
        ("tags:ca", False),  # a whole tag
        ("tags:ca*", True),
        ("tags:?ar", True),
        ('tags:"red car"', True),
        ("tags:'red car'", True),
        ("tags:red", False),
        ('tags:"ca*"', False),  # in quotes a star is a star
        ("tags:saber*(fate)", True),
        ('(tags:"saber (fate)")', True),
        ("(tags:saber?(fate))", True),
        ("tags:ÉTÉ", True),
        ("tags:e\u0301te\u0301", True),  # other spelling of the same letters
        ("tags!=cat", True),
        ("tags!=car", False),
        ("tags>5", True),
        ("tags>6", False),
        ('caption:"red car"', True),
        ("caption:red*parked", True),
        ("caption:blue", False),
        (r'caption:"\"stop\""', True),
        ("caption:'\"STOP\"'", True),
        ("name:IMG_*", True),
        ("name:img_0042", True),
        ("name:img_0042.jpg", True),
        ("name:holiday*", False),
        ("key:holiday/*", True),
        ("key:IMG*", False),
        ("layer:tags", True),
        ("layer:edited", False),
        ("tokens<20", True),
        ("tokens>75", False),
        ("chars=35", True),
        ("chars:35", True),
        ("chars!=35", False),
        ("width>=1024 and height<=768", True),
        ("width < 1024", False),
        ("not tags:cat", True),
        ("not not tags:cat", False),
        ("NOT tags:cat AND tags:car", True),
        ("tags:cat or tags:car and width>5000", False),  # and binds more
        ("(tags:car or tags:cat) and width>5000", False),
        ("tags:car or tags:cat and width>5000", True),
        ("not tags:cat or tags:cat", True),
        ("not (tags:cat or tags:car)", False),
        ("tags:and", False),
        ("tags:not or tags:car", True),
        ("tags:car\nand\ttags:street", True),
        (" ( ( tags : car ) ) ", True),
        ("tags:[c]ar", False),  # brackets are no classes
        ("tags:100%", True),
    ],
)
def test_terms(expression: str, expected: bool) -> None:
    assert parse_filter(expression)(CAR) is expected


Made = tuple[str, Callable[[Subject], bool]]

ATOMS: list[Made] = [
    ("tags:car", lambda s: "car" in s.tags),
    ("tags:cat", lambda s: "cat" in s.tags),
    ("width>100", lambda s: s.width > 100),
    ('caption:"a b"', lambda s: "a b" in s.caption),
    ("chars<=2", lambda s: len(s.caption) <= 2),
]


def joined(parts: tuple[Made, Made, bool]) -> Made:
    (one, is_one), (other, is_other), both = parts
    if both:
        return f"({one}) and ({other})", lambda s: is_one(s) and is_other(s)
    return f"{one} or {other}", lambda s: is_one(s) or is_other(s)  # or binds least: no brackets are needed


EXPRESSIONS = st.recursive(
    st.sampled_from(ATOMS),
    lambda inner: st.one_of(
        st.tuples(inner, inner, st.booleans()).map(joined),
        inner.map(lambda made: (f"not ({made[0]})", lambda s, test=made[1]: not test(s))),
    ),
    max_leaves=12,
)
SUBJECTS = st.builds(
    Subject,
    key=st.just("a.jpg"),
    caption=st.sampled_from(["", "a b", "xa by"]),
    tags=st.lists(st.sampled_from(["car", "cat"])),
    width=st.sampled_from([1, 100, 101]),
)


@given(EXPRESSIONS, SUBJECTS)
def test_expressions_mean_what_python_says_they_mean(made: Made, subject: Subject) -> None:
    expression, expected = made
    assert parse_filter(expression)(subject) is expected(subject)


@pytest.mark.parametrize(
    ("expression", "why", "column"),
    [
        ("", "wanted one of tags, caption, name", 1),
        ("   ", "wanted one of", 4),
        ("cat", "wanted one of", 1),
        ("colour:red", "wanted one of", 1),
        ("tags", "wanted : or a comparison after tags", 5),
        ("tags:", "wanted a value", 6),
        ("tags:)", "wanted a value", 6),
        ("tags:a tags:b", "wanted and, or, or the end", 8),
        ("tags:a and", "wanted one of", 11),
        ("tags:a and or tags:b", "wanted one of", 12),
        ("(tags:a", "this bracket is never closed", 1),
        ("tags:a or (tags:b", "this bracket is never closed", 11),
        ("tags:a)", "one bracket too many", 7),
        ("(tags:a b)", "wanted and, or, )", 9),
        ('caption:"red', "this quote is never closed", 9),
        ("tokens>many", "tokens wants a whole number", 8),
        ("tokens:-1", "tokens wants a whole number", 8),
        ("tokens>99999999999999", "tokens wants a whole number", 8),
        ("tags>many", "tags wants a whole number", 6),
        ("caption>3", "caption is text: it takes : and != only", 8),
        ("東京:a", "wanted one of", 1),
    ],
)
def test_what_cannot_be_read_is_pointed_at(expression: str, why: str, column: int) -> None:
    with pytest.raises(UsageError) as raised:
        parse_filter(expression)
    message, shown, mark = str(raised.value).splitlines()
    assert why in message
    assert f"(column {column})" in message
    assert shown == f"  {expression}"
    assert mark.index("^") == 2 + column - 1


def test_the_mark_stands_under_the_place_also_behind_wide_letters() -> None:
    with pytest.raises(UsageError) as raised:
        parse_filter("tags:東京 oder")
    assert str(raised.value).splitlines()[2] == "  " + " " * (len("tags:") + 2 * 2 + 1) + "^"


@given(st.text(alphabet="tags:<>=!()\"'\\ andornot*?é\n1", max_size=40))
def test_any_text_is_a_filter_or_an_error_of_use(expression: str) -> None:
    try:
        test = parse_filter(expression)
    except UsageError:
        return
    assert test(CAR) in (True, False)


@pytest.mark.parametrize(
    ("expression", "why"),
    [
        ("(" * 60 + "tags:a" + ")" * 60, "more than 50 brackets"),
        ("(" * 9_000, "more than 50 brackets"),
        ("tags:a or " * 2_000, "more than 10000 characters"),
    ],
)
def test_what_is_too_deep_or_too_long_is_refused(expression: str, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        parse_filter(expression)


def test_no_pattern_takes_long() -> None:
    subject = Subject(key="a" * 5_000, caption="a" * 5_000)
    began = time.process_time()
    assert not parse_filter(f"key:{'*a' * 200}*b or caption:{'a*' * 200}b")(subject)
    assert parse_filter("not " * 2_000 + "tags:a")(subject) is False
    assert time.process_time() - began < 2


@pytest.mark.parametrize(
    ("text", "tokens"),  # as CLIP's own tokenizer counts them
    [
        ("", 0),
        ("a photo of a cat", 5),
        ("A Cat.", 3),
        ("1girl, solo", 4),
        ("the cat's tail", 4),
        ("35mm", 3),
        ("f/2.8, 1/500 s", 12),
        ("red_car", 3),
        ("...!!!", 1),
        ("a cat 🍎", 3),
    ],
)
def test_tokens_of_plain_texts(text: str, tokens: int) -> None:
    assert count_tokens(text) == tokens


def test_a_real_tokenizer_may_count() -> None:
    assert (
        parse_filter("tokens=3", count=lambda text: len(text.split("a")))(Subject(key="k", caption="banal a")) is False
    )
    assert parse_filter("tokens=4", count=lambda text: len(text.split("a")))(Subject(key="k", caption="banal a"))
