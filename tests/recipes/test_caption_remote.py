"""`caption` with a server that does not answer about every picture: what the run says of each, and how it goes on."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tests.models.test_openai_server import KEY, Reply, Server, colour_of, completion
from tests.recipes.conftest import Made

import lightmill
from lightmill.cli import run_command_line
from lightmill.errors import ModelError


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    yield running
    running.close()


@pytest.fixture
def squares(tmp_path: Path) -> Path:
    """Three pictures, each of one colour."""
    folder = tmp_path / "in"
    folder.mkdir()
    for name, colour in (("r", (250, 10, 10)), ("g", (10, 250, 10)), ("b", (10, 10, 250))):
        Image.new("RGB", (64, 48), colour).save(folder / f"{name}.png")
    return folder


def test_failures_of_a_server_are_told_apart_and_retried_by_class(
    tmp_path: Path, squares: Path, server: Server
) -> None:
    says = {
        "red": Reply(400, {"error": {"message": "the picture holds something"}}),
        "green": Reply(body=completion("x" * (9 << 20))),
    }
    server.replies = lambda asked, number: says.get(colour_of(asked))
    made = Made(lightmill.caption(squares, tmp_path / "out", model=server.name))
    report: dict[str, Any] = json.loads((tmp_path / "out" / "report.json").read_text("utf-8"))
    assert report["failure_classes"] == {"caption:BrokenAnswer": 1, "caption:RequestRefused": 1}
    assert made.rows["r.png"]["error"].endswith("the server answered 400 the picture holds something")
    assert made.rows["g.png"]["error"].endswith("the answer is longer than 8 MiB")
    assert made.rows["b.png"]["status"] == "ok"
    asked = len(server.seen)
    server.replies = lambda asked, number: None
    again = ["retry", str(tmp_path / "out"), "--only", "failed:caption:BrokenAnswer", "--progress", "none"]
    assert run_command_line(again) == 3  # red still stands as failed
    assert [colour_of(one.asked) for one in server.seen[asked:] if one.asked] == ["green"]


def test_a_key_that_expires_ends_the_run_and_marks_no_picture_as_failed(
    tmp_path: Path, squares: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIGHTMILL_OPENAI_KEY", KEY)
    expired = Reply(401, {"error": {"message": "the key has expired"}})
    server.replies = lambda asked, number: expired if colour_of(asked) == "green" else None
    options: dict[str, Any] = {"model": server.name, "concurrency": 1, "batch": 1, "threads": 1}
    with pytest.raises(ModelError, match="401 the key has expired; the key in LIGHTMILL_OPENAI_KEY was sent: set") as e:
        lightmill.caption(squares, tmp_path / "out", **options)
    assert KEY not in str(e.value)
    server.replies = lambda asked, number: None
    made = Made(lightmill.caption(squares, tmp_path / "out", **options))
    assert {row["status"] for row in made.rows.values()} == {"ok"}


def test_a_server_without_a_list_that_refuses_the_key_is_asked_once(
    tmp_path: Path, squares: Path, server: Server
) -> None:
    server.models = Reply(404)
    server.replies = lambda asked, number: Reply(401, {"error": {"message": "who are you?"}})
    with pytest.raises(ModelError, match="401 who are you"):
        lightmill.caption(squares, tmp_path / "out", model=server.name, concurrency=1)
    assert len([one for one in server.seen if one.asked]) == 1


def test_another_try_draws_with_another_seed(tmp_path: Path, squares: Path, server: Server) -> None:
    def replies(asked: dict[str, Any], number: int) -> Reply | None:
        return None if asked["temperature"] else Reply(body=completion("I'm sorry, but I can't help with that."))

    server.replies = replies
    assert lightmill.caption(squares, tmp_path / "out", model=server.name).ok == 3
    blue = [one.asked for one in server.seen if one.asked and colour_of(one.asked) == "blue"]
    assert [asked["temperature"] for asked in blue] == [0.0, 0.6]
    assert blue[0]["seed"] != blue[1]["seed"]
