"""Small galleries of captioned pictures for the tests of the exports, and texts that formats trip over."""

import os
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from PIL import Image

from lightmill.engine.outputs import Outputs
from lightmill.export.captions_file import Captioned, Layer

TEXTS = {
    "quotes": "A \"red\" 'cat' said ``hi`` \\ and {left}, [right] & <b>",
    "lines": "First line.\n\nSecond, after a gap.\u2028Third\x85fourth",
    "carriage": "one\rtwo\r\nthree",
    "emoji": "👩\u200d🚀 on 🌕, naïve café – 日本語",
    "commas": "1girl, , solo,, looking at viewer,",
    "rtl": "قطة سوداء تجلس على כיסא כחול",
    "json": '{"caption": "not this"}',
    "formula": '=HYPERLINK("x")\tand a tab',
    "long": "a very long caption about a dog, " * 310,
}


def picture(out: Path, name: str, *layers: Layer, size: tuple[int, int] = (12, 8)) -> Captioned:
    """A picture that is really there, one colour for each name."""
    path = out / "images" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    number = sum(name.encode())
    Image.new("RGB", size, (number % 251, number % 241, number % 239)).save(path)
    return Captioned(name, f"images/{name}", *size, layers)


def hostile(out: Path) -> list[Captioned]:
    """One picture for each of TEXTS, with tags as well."""
    made = []
    for number, (name, text) in enumerate(TEXTS.items()):
        layers = (Layer("caption", text, {"model": "m"}), Layer("tags", f"tag {number}, {name}"))
        made.append(picture(out, f"{name}.{'png' if number % 2 else 'jpg'}", *layers, size=(10 + number, 8)))
    return made


def captioned(name: str, text: str) -> Captioned:
    """One that needs no file."""
    return Captioned(name, f"images/{name}", 12, 8, (Layer("caption", text),))


def files(root: Path, *, below: str = "") -> dict[str, bytes]:
    """Every file of OUT but those that the run keeps for itself."""
    found = (path for path in (root / below).rglob("*") if path.is_file())
    return {
        path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(found) if ".lightmill" not in path.parts
    }


def many(out: Path, count: int) -> Iterator[Captioned]:
    """Pictures that are one file under many names, made as they are asked for; their texts are long."""
    (out / "images").mkdir(parents=True, exist_ok=True)
    first = out / "images/first.jpg"
    Image.new("RGB", (16, 16), "teal").save(first)
    for number in range(count):
        name = f"{number:06d}.jpg"
        os.link(first, out / "images" / name)
        yield Captioned(name, f"images/{name}", 16, 16, (Layer("caption", f"{number} " + "words " * 100),))


def growth(out: Path, export: Callable[[Outputs, Iterable[Captioned]], object]) -> int:
    """How many more bytes at its peak the export of 500 pictures takes than that of 100."""
    export(Outputs(out / "warm"), many(out / "warm", 5))
    peaks = []
    for count in (100, 500):
        tracemalloc.start()
        export(Outputs(out / str(count)), many(out / str(count), count))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    return peaks[1] - peaks[0]
