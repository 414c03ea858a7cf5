"""What a server says to all: that the key, the account or the model is wrong, and that it wants to be left alone."""

import os
import pickle
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from tests.models.test_openai_server import KEY, Reply, Server, answered, asks, completion, square

from lightmill.errors import ModelError
from lightmill.models.kinds import Ask
from lightmill.models.openai_failures import RateLimited, RequestRefused


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name in {"LIGHTMILL_OPENAI_KEY", "OPENAI_API_KEY"}:
            monkeypatch.delenv(name)
    server = Server()
    yield server
    server.close()


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({}, "no key was sent: set LIGHTMILL_OPENAI_KEY to one that the server takes"),
        ({"OPENAI_API_KEY": KEY}, "the key in OPENAI_API_KEY was sent: set LIGHTMILL_OPENAI_KEY to"),
        ({"LIGHTMILL_OPENAI_KEY": KEY, "OPENAI_API_KEY": "sk-other"}, "the key in LIGHTMILL_OPENAI_KEY was sent: set"),
        ({"LIGHTMILL_OPENAI_KEY": "", "OPENAI_API_KEY": KEY}, "as LIGHTMILL_OPENAI_KEY is set to nothing: set"),
    ],
)
def test_a_wrong_key_ends_the_call_with_the_variable_it_came_from_and_never_with_itself(
    server: Server, monkeypatch: pytest.MonkeyPatch, keys: dict[str, str], told: str
) -> None:
    for name, key in keys.items():
        monkeypatch.setenv(name, key)
    server.replies = lambda asked, number: Reply(401, {"error": {"message": f"wrong key {KEY}"}})
    with pytest.raises(ModelError, match=r"#tiny-vl: the server answered 401 wrong key \*\*\*; ") as caught:
        server.model(concurrency=1)([square("red")] * 9, asks(9))
    assert told in str(caught.value)
    assert str(caught.value).endswith("; then the same command goes on")
    assert "sk-" not in str(caught.value)
    assert len(server.seen) == 1  # nothing more was asked


@pytest.mark.parametrize("status", [401, 402])
def test_a_key_or_an_account_that_ends_in_the_middle_ends_the_call_too(server: Server, status: int) -> None:
    """Whoever waits for another try, or for its turn, ends now: 30 s were asked for."""
    model = server.model(concurrency=2)
    model([square("red")], asks(1))
    waiting = threading.Event()
    says = {
        100: Reply(429, b"", {"Retry-After": "30"}, after=waiting.set),
        101: Reply(status, {"error": "it has ended"}, after=lambda: waiting.wait(5) and time.sleep(0.2)),
    }
    server.replies = lambda asked, number: says.get(asked["seed"])
    began = time.monotonic()
    with pytest.raises(ModelError, match=f"the server answered {status} it has ended"):
        model([square("green")] * 6, asks(6))
    assert time.monotonic() - began < 10
    assert [one.asked["seed"] for one in server.seen[1:]] in ([100, 101], [101, 100])


@pytest.mark.parametrize(
    ("status", "told"),
    [
        (
            403,
            "no key was sent: set LIGHTMILL_OPENAI_KEY to one that may use this model; then the same command goes on",
        ),
        (
            404,
            "has the server a model of the name after #, and /chat/completions under this URL\\? It mostly ends in /v1",
        ),
    ],
)
def test_what_is_refused_from_the_first_request_on_is_about_no_picture(server: Server, status: int, told: str) -> None:
    model = server.model()
    server.replies = lambda asked, number: Reply(status, {"error": "not this one"})
    with pytest.raises(ModelError, match=f"the server answered {status} not this one; {told}"):
        model([square("red")] * 3, asks(3))

    server.replies = lambda asked, number: Reply(status, {"error": "not this one"}) if asked["seed"] == 101 else None
    with pytest.raises(RequestRefused, match="not this one"):  # others are answered: it is about this picture
        answered(model, [square("red")] * 3, asks(3))
    server.replies = lambda asked, number: Reply(status, {"error": "not this one"})
    with pytest.raises(RequestRefused, match="not this one"):  # and once there was an answer, it stays so
        answered(model, [square("blue")], asks(1))


def begun_after(server: Server, since: float) -> list[float]:
    """When requests came, in seconds since then, sorted."""
    return sorted(one.at - since for one in server.seen if one.at > since)


def test_all_requests_wait_when_the_server_asks_one_of_them_to(server: Server) -> None:
    refused: list[float] = []

    def replies(asked: dict[str, Any], number: int) -> Reply | None:
        if asked["seed"] == 100 and number == 0:
            refused.append(time.monotonic())
            return Reply(429, b"", {"Retry-After": "0.8"})
        return Reply(body=completion("late"), after=lambda: time.sleep(0.2)) if asked["seed"] == 101 else None

    server.replies = replies
    answers = server.model(concurrency=2)([square("red")] * 8, asks(8))
    assert [answer.text for answer in answers] == ["a red square", "late", *["a red square"] * 6]
    later = [wait for wait in begun_after(server, refused[0]) if wait > 0.15]  # 101 was under way by then
    assert len(server.seen) == 9
    assert len(later) >= 7
    assert later[0] >= 0.8


def test_later_calls_and_other_temperatures_wait_as_well(server: Server) -> None:
    model = server.model(tries=1)
    server.replies = lambda asked, number: Reply(429, b"", {"Retry-After": "0.8"})
    began = time.monotonic()
    with pytest.raises(RateLimited):
        answered(model, [square("red")], asks(1))
    server.replies = lambda asked, number: None
    assert time.monotonic() - began < 0.8  # the last try waits for nothing
    drawing = model.drawing(0.6)
    drawing([square("green")], [Ask("", 7)])
    assert server.seen[1].at - server.seen[0].at >= 0.8
    assert [one.asked["temperature"] for one in server.seen] == [0.0, 0.6]


def test_a_pause_does_not_travel_to_a_process_with_another_clock(server: Server) -> None:
    model = server.model(tries=1)
    server.replies = lambda asked, number: Reply(503, b"", {"Retry-After": "60"})
    with pytest.raises(Exception, match="503"):
        answered(model, [square("red")], asks(1))
    server.replies = lambda asked, number: None
    began = time.monotonic()
    pickle.loads(pickle.dumps(model))([square("red")], asks(1))
    assert time.monotonic() - began < 30
