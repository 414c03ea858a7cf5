"""Figures in words, the same on a terminal and in a report. Thousands are grouped with commas, units follow a space."""

from collections.abc import Sequence

from lightmill.engine.naming import printable


def count_of(number: int, singular: str, plural: str | None = None) -> str:
    """>>> count_of(1, "item"), count_of(1200, "item"), count_of(2, "class", "classes")
    ('1 item', '1,200 items', '2 classes')
    """
    return f"{number:,} {singular if number == 1 else plural or singular + 's'}"


def times(number: int) -> str:
    """>>> times(1), times(2), times(1200)
    ('once', 'twice', '1,200 times')
    """
    return {1: "once", 2: "twice"}.get(number, f"{number:,} times")


def told_once(sentences: Sequence[str], *, joint: str = "; ") -> tuple[list[str], str]:
    """What all of several sentences end with, behind the last `joint`, is taken off them: (their rest, that end).

    >>> told_once(["a is broken; get it again", "b is broken; get it again"])
    (['a is broken', 'b is broken'], 'get it again')
    >>> told_once(["a is broken; get it again", "b is empty"])
    (['a is broken; get it again', 'b is empty'], '')
    """
    parts = [sentence.rpartition(joint) for sentence in sentences]
    ends = {end if rest else "" for rest, _, end in parts}
    if len(sentences) < 2 or len(ends) > 1 or ends == {""}:
        return [*sentences], ""
    return [rest for rest, _, _ in parts], ends.pop()


def duration(seconds: float) -> str:
    """Seconds with two or three figures that matter.

    >>> duration(0.0123), duration(1.44), duration(42.4), duration(125), duration(11520)
    ('12 ms', '1.4 s', '42 s', '2 min 05 s', '3 h 12 min')
    """
    if seconds < 0.0995:
        return f"{figures(1000 * seconds, most=2)} ms"
    if seconds < 9.95:
        return f"{seconds:.{1 if seconds >= 0.995 else 2}f} s"
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60:,} h {minutes % 60:02d} min"


def figures(number: float, *, most: int = 3) -> str:
    """A number >= 0 with at most so many figures behind which nothing matters; whole numbers stay whole.

    >>> figures(8.6432), figures(253.4), figures(12345.6), figures(0.0421), figures(12.0), figures(0)
    ('8.64', '253', '12,346', '0.0421', '12', '0')
    """
    if number <= 0:
        return "0"
    places = most - len(f"{number:.0f}") if number >= 0.95 else most + _leading_zeros(number)
    text = f"{number:,.{max(places, 0)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _leading_zeros(number: float) -> int:
    """How many zeros follow the point of a number below 1; no more than nine."""
    zeros = 0
    while number < 0.1 and zeros < 9:
        number *= 10
        zeros += 1
    return zeros


def percent(share: float) -> str:
    """>>> percent(0.434), percent(0.004), percent(0.00002), percent(0)
    ('43 %', '0.4 %', 'under 0.1 %', '0 %')
    """
    if 0 < share < 0.00095:
        return "under 0.1 %"
    return f"{figures(100 * share, most=1)} %" if 0 < share < 0.0095 else f"{100 * share:.0f} %"


def rates(items_per_s: float, pixels_per_s: float) -> str:
    """>>> rates(8.6, 253.4e6), rates(8.6, 0)
    ('8.6 items/s, 253 MP/s', '8.6 items/s')
    """
    items = f"{figures(items_per_s)} items/s"
    return f"{items}, {figures(pixels_per_s / 1e6)} MP/s" if pixels_per_s > 0 else items


def memory(size_bytes: float) -> str:
    """>>> memory(812), memory(88_000_000), memory(1.21e9)
    ('812 bytes', '88 MB', '1.21 GB')
    """
    if size_bytes < 1000:
        return f"{size_bytes:.0f} bytes"
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if size_bytes >= size:
            return f"{figures(size_bytes / size)} {unit}"
    return f"{figures(size_bytes / 1000)} kB"


def printable_lines(text: str) -> str:
    """The text with line ends kept and everything else that no page or terminal can show written out."""
    return "\n".join(printable(line) for line in text.splitlines())
