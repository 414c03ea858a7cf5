"""The page of a training: charts in the right places, tables, and words that are never markup."""

import re

import pytest

from lightmill.train.report import curves, note, picture, table, text, training_page

HISTORY = [
    {"epoch": 1, "loss": 4.0, "val_rank_1": 0.5},
    {"epoch": 2, "loss": 2.0, "val_rank_1": None},
    {"epoch": 3, "loss": 1.0, "val_rank_1": float("nan")},
    {"epoch": 5, "loss": 0.0},
]


def points(svg: str, kind: str = "c0") -> list[tuple[float, float]]:
    found = re.search(rf'<polyline class="{kind}" points="([^"]*)"', svg)
    assert found
    return [(float(x), float(y)) for x, y in (pair.split(",") for pair in found[1].split())]


def test_a_curve_is_to_scale() -> None:
    """Straight in both axes: as far across as epochs, as far down as values."""
    drawn = points(curves(HISTORY, ["loss"]))
    left, top = drawn[0]
    right, bottom = drawn[-1]
    for (x, y), row in zip(drawn, HISTORY, strict=True):
        epoch, loss = row["epoch"], row["loss"]
        assert epoch is not None
        assert loss is not None
        assert (x - left) / (right - left) == pytest.approx((epoch - 1) / 4, abs=1e-3)
        assert (y - top) / (bottom - top) == pytest.approx((4 - loss) / 4, abs=1e-3)
    assert bottom > top
    assert right > left


def test_what_is_no_number_is_no_point() -> None:
    svg = curves(HISTORY, ["loss", "val_rank_1", "nothing"])
    assert len(points(svg, "c0")) == 4
    assert len(points(svg, "c1")) == 1
    assert 'class="c2"' not in svg
    assert "nan" not in svg
    assert "None" not in svg


def test_both_ends_and_the_last_values_are_written() -> None:
    svg = curves(HISTORY, ["loss"])
    assert [f">{value}</text>" in svg for value in ("0", "2", "4")] == [True] * 3
    assert ">loss 0</text>" in svg
    assert ">epoch 1</text>" in svg
    assert ">5</text>" in svg


@pytest.mark.parametrize("value", [0.0, 0.7, -3.0, 1e9])
def test_a_single_epoch_and_equal_values_stay_inside(value: float) -> None:
    for history in ([{"epoch": 1, "loss": value}], [{"epoch": 1, "loss": value}, {"epoch": 2, "loss": value}]):
        assert all(0 <= x <= 720 and 0 <= y <= 260 for x, y in points(curves(history, ["loss"])))


def test_nothing_to_draw_is_nothing() -> None:
    assert curves([], ["loss"]) == ""
    assert curves(HISTORY, ["nothing"]) == ""
    assert table([]) == ""


def test_tables_name_rows_and_columns_and_round() -> None:
    html = table([("a", 0.123456, None), ("b", 1.0, ("x", "y")), ("c", (), "")], head=("", "one", "two"))
    assert html.count('<th scope="row">') == 3
    assert html.count('<th scope="col">') == 3
    assert re.findall(r"<td>(.*?)</td>", html) == ["0.1235", "–", "1", "x, y", "–", "–"]


def test_words_are_never_markup() -> None:
    evil = "<script>alert('&')</script>\x1b[31m"
    for html in (
        text(evil),
        note(evil),
        table([(evil, evil)], head=(evil, evil)),
        picture(b"jpeg", evil),
        curves([{"epoch": 1, evil: 1.0}], [evil]),
        training_page(title=evil, lead=evil, sections=[(evil, "<p>kept</p>")], options={evil: evil}),
    ):
        assert "<script>alert" not in html
        assert "&lt;script&gt;alert" in html
        assert "\x1b" not in html


def test_sections_without_anything_are_left_out() -> None:
    page = training_page(
        title="t", lead="l", sections=[("Empty", ""), ("Full", "<p>kept</p>")], options={"rate": 0.002}
    )
    assert "<h2>Empty" not in page
    assert "<h2>Full</h2>\n<p>kept</p>" in page
    assert '<th scope="row">rate</th><td>0.002</td>' in page
    assert page.startswith("<!doctype html>")
