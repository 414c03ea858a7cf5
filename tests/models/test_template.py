import datetime
import string
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightmill.errors import UsageError
from lightmill.models.template import (
    DEFAULT,
    VARIABLES,
    captions_from,
    check_template,
    date_words,
    filled,
    folder_words,
    name_words,
    size_words,
    values_of,
)


@pytest.mark.parametrize(
    "name",
    [
        "IMG_1234.JPG",
        "IMG_E1234.JPG",
        "_MG_1234.CR2.jpg",
        "DSC0001.JPG",
        "DSC_0001.NEF",
        "DSCF1234.jpg",
        "P1010001.JPG",
        "PXL_20210503_142211123.MP.jpg",
        "IMG-20210503-WA0001.jpg",
        "FB_IMG_1620000000.jpg",
        "WhatsApp Image 2021-05-03 at 14.22.11.jpeg",
        "Screenshot 2021-05-03 at 14.22.11.png",
        "signal-2021-05-03-142211.jpg",
        "GOPR1234.JPG",
        "DJI_0001.JPG",
        "20210503_142211.jpg",
        "20210503T142211Z.jpg",
        "00001.png",
        "0001_1024x768.png",
        "image (3).png",
        "untitled-2.png",
        "frame_000123.png",
        "photo.jpg",
        "550e8400-e29b-41d4-a716-446655440000.png",
        "d41d8cd98f00b204e9800998ecf8427e.webp",
        "3f2a91bc.jpg",
        "dQw4w9WgXcQ.jpg",
        "...",
    ],
)
def test_names_of_cameras_and_programs_have_no_words(name: str) -> None:
    assert name_words(name) == []
    assert name_words(f"trip/{name}") == []


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("red_fox-at.dawn.jpg", "red fox at dawn"),
        ("redFox_01.jpg", "red fox"),
        ("RedFoxHTMLPage.jpg", "red fox HTML page"),
        ("My Dog Rex.JPG", "My Dog Rex"),
        ("BMW_2002.jpg", "BMW"),
        ("cat01.png", "cat"),
        ("01cat.png", "cat"),
        ("3d-render_4k.png", "3d render 4k"),
        ("r2d2_v2.png", "r2d2"),
        ("iPhone 12.jpg", "iPhone"),
        ("McDonald's 3.jpg", "McDonald's"),
        ("facade.png", "facade"),  # hexadecimal, and a word
        ("IMG_cat.jpg", "cat"),
        ("IMG_1234_oldTram-12.jpg", "old tram"),
        ("Sam_portrait.jpg", "Sam portrait"),  # SAM_0012 is a camera's
        ("photo of a cat 2.jpg", "photo of a cat"),
        ("Copy of dog.jpg", "dog"),
        ("dog - Copy.jpg", "dog"),
        ("dog (2).jpg", "dog"),
        ("cat #1 fox.jpg", "cat fox"),
        ("old tram.mp4#00012.400", "old tram"),
        ("no suffix. at all", "no suffix at all"),
        ("café_Größe.jpg", "café Größe"),
        (unicodedata.normalize("NFD", "café_Größe.jpg"), "café Größe"),
        ("рыжаяЛиса_2.jpg", "рыжая лиса"),
        ("猫_02.jpg", "猫"),
        ("हिन्दी_01.jpg", "हिन्दी"),
    ],
)
def test_words_of_names(name: str, words: str) -> None:
    assert " ".join(name_words(f"10_x/{name}")) == words


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("cats/1.jpg", "cats"),
        ("10_ohwx man/1.jpg", "ohwx man"),
        ("Lisbon/DCIM/100CANON/1.jpg", "Lisbon"),
        ("Lisbon/2021/images/1.jpg", "Lisbon"),
        ("animals/redFoxes/1.jpg", "red foxes"),
        ("animals.zip/old foxes.v2/1.jpg", "old foxes"),
        ("images/1.jpg", ""),
        ("1.jpg", ""),
    ],
)
def test_words_of_the_nearest_folder_that_has_some(key: str, words: str) -> None:
    assert " ".join(folder_words(key)) == words


@given(st.dates(min_value=datetime.date(1000, 1, 1)), st.times())
def test_days_are_read_as_exif_and_iso_have_them(day: datetime.date, time: datetime.time) -> None:
    words = date_words(day.strftime("%Y:%m:%d ") + time.strftime("%H:%M:%S"))
    assert datetime.datetime.strptime(words, "%d %B %Y").date() == day  # noqa: DTZ007 (a day, not a moment)
    assert date_words(datetime.datetime.combine(day, time).isoformat()) == words
    assert date_words(day.isoformat()) == words


@pytest.mark.parametrize(
    "taken", ["", "    :  :     :  :  ", "0000:00:00 00:00:00", "2021:02:30 00:00:00", "yesterday"]
)
def test_what_is_no_day_is_nothing(taken: str) -> None:
    assert date_words(taken) == ""


@pytest.mark.parametrize(
    ("width", "height", "words"),
    [
        (640, 480, ["landscape"]),
        (480, 640, ["portrait"]),
        (1000, 1050, ["square"]),
        (1000, 1051, ["portrait"]),
        (1600, 1200, ["landscape", "high resolution"]),
        (1600, 1199, ["landscape"]),
        (2000, 2000, ["square", "high resolution"]),
        (0, 5, []),
    ],
)
def test_sizes_have_names(width: int, height: int, words: list[str]) -> None:
    assert size_words(width, height) == words


def test_a_caption_is_what_people_write_by_hand() -> None:
    caption = captions_from(
        DEFAULT,
        key="20_red foxes/IMG_1234_atDawn.jpg",
        trigger="ohwx",
        taken="2021:05:03 14:22:11",
        width=4000,
        height=3000,
    )
    assert caption == "ohwx, red foxes, at dawn, 3 May 2021, landscape, high resolution"


def test_parts_that_come_out_empty_or_twice_are_left_out() -> None:
    assert captions_from(DEFAULT, key="IMG_1.jpg") == ""
    assert captions_from(DEFAULT, key="foxes/Foxes_01.jpg", trigger="ohwx") == "ohwx, foxes"
    assert (
        captions_from("{trigger},\n a photo  of {name} ,{tags}", key="fox.jpg", tags="b, a, b")
        == "a photo of fox, b, a"
    )


def test_columns_are_variables_and_do_not_hide_ours() -> None:
    row = {"camera": "Leica M6", "name": "theirs"}
    assert captions_from("{name}, {camera}", key="fox.jpg", row=row) == "fox, Leica M6"
    assert values_of(key="fox.jpg", row=row, caption="a fox")["caption"] == "a fox"
    assert list(values_of(key="a.jpg")) == list(VARIABLES)


def test_a_prompt_is_left_as_it_is_but_for_its_variables() -> None:
    values = values_of(key="cats/old_tom.jpg", tags="cat, grey")
    prompt = 'Describe { name }, of {folder}.\n\nTags:  {tags}, {caption}. Answer as {{"text": ...}}.'
    assert filled(prompt, values) == 'Describe old tom, of cats.\n\nTags:  cat, grey, . Answer as {"text": ...}.'


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (
            "a {nmae}",
            r"^\{nmae\} is no variable; did you mean \{name\}\? There are \{trigger\}, \{name\}, \{folder\}, ",
        ),
        ("a {Tag}", r"\{Tag\} is no variable; did you mean \{tags\}"),
        ("a {lense}", r"did you mean \{lens\}.*\{caption\}, \{lens\}; write \{\{ for a brace$"),
        ("a {}", r"^\{\} is no variable\. There are"),
        ("{xyzzy}", r"^\{xyzzy\} is no variable\. There are"),
        ("{name.__class__}", "is no variable"),
        ("{name!r:>9}", "is no variable"),
        ('{"text": 1}', "is no variable"),
        ("a {name", r"a \{ stands alone in 'a \{name'; write \{\{ for a brace"),
        ("a name}", r"a \} stands alone in 'a name\}'; write \}\} for a brace"),
        ("{{name}", r"a \} stands alone"),
    ],
)
def test_templates_that_are_wrong_are_refused_with_the_nearest_name(template: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        check_template(template, columns=["lens"])
    with pytest.raises(UsageError, match=message):
        filled(template, values_of(key="a.jpg", row={"lens": "50 mm"}))


@given(
    st.lists(st.one_of(st.sampled_from([*VARIABLES]).map(lambda name: (name,)), st.text())),
    st.fixed_dictionaries({name: st.text() for name in VARIABLES}),
)
def test_filling_is_str_format_for_all_texts(parts: list[tuple[str] | str], values: dict[str, str]) -> None:
    template = "".join(
        f"{{{part[0]}}}" if isinstance(part, tuple) else part.replace("{", "{{").replace("}", "}}") for part in parts
    )
    assert filled(template, values) == string.Formatter().vformat(template, (), values)


@given(st.text(), st.text(alphabet="aZ0_-. /#'éIMG猫" + chr(0x301)))
def test_any_key_gives_words_without_separators_or_numbers(strange: str, likely: str) -> None:
    for key in (strange, likely):
        for word in [*name_words(key), *folder_words(key)]:
            assert word.split() == [word]
            assert not set(word) & set("_-./#,")
            assert not word.isdecimal()
