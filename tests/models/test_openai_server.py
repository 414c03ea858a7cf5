"""Against a server on this machine that speaks the protocol, and misbehaves when it is told to."""

import base64
import json
import os
import pickle
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import cv2
import numpy as np
import pytest

from lightmill.errors import ItemError, ModelError, UsageError
from lightmill.models.kinds import Answer, Ask
from lightmill.models.openai_failures import (
    BrokenAnswer,
    NoConnection,
    RateLimited,
    RequestRefused,
    ServerError,
    ServerFailure,
    TimedOut,
)
from lightmill.models.openai_server import OpenAIServer

COLOURS = {"red": (250, 10, 10), "green": (10, 250, 10), "blue": (10, 10, 250), "white": (255, 255, 255)}
KEY = "sk-test-0123456789abcdef"


@dataclass
class Reply:
    """What the server does with one request."""

    status: int = 200
    body: bytes | dict[str, Any] = b""
    headers: dict[str, str] = field(default_factory=dict)
    after: Callable[[], object] | None = None
    drop: bool = False
    drip: threading.Event | None = None  # a byte now and then, until it is set


@dataclass
class Seen:
    path: str
    headers: dict[str, str]
    asked: dict[str, Any]
    at: float


def completion(text: Any, *, finish_reason: str = "stop", tokens: int = 7) -> dict[str, Any]:
    message = {"role": "assistant", "content": text}
    return {
        "object": "chat.completion",
        "choices": [{"index": 0, "message": message, "finish_reason": finish_reason}],
        "usage": {"prompt_tokens": 3, "completion_tokens": tokens, "total_tokens": 3 + tokens},
    }


def colour_of(asked: dict[str, Any]) -> str:
    """What is in the picture of a request: the nearest of COLOURS."""
    (url,) = [part["image_url"]["url"] for part in asked["messages"][0]["content"] if part["type"] == "image_url"]
    prefix, _, data = url.partition(",")
    assert prefix == "data:image/jpeg;base64"
    jpeg = np.frombuffer(base64.b64decode(data, validate=True), np.uint8)
    mean = cv2.imdecode(jpeg, cv2.IMREAD_COLOR)[..., ::-1].mean(axis=(0, 1))
    return min(COLOURS, key=lambda name: np.abs(mean - COLOURS[name]).sum())


class Server:
    """`replies` says what to do with each request; left alone it answers with the colour of the picture."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self.models: Reply = Reply(body={"object": "list", "data": [{"id": "tiny-vl"}, {"id": "other"}]})
        self.replies: Callable[[dict[str, Any], int], Reply | None] = lambda asked, number: None
        self._lock = threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.seen.append(Seen(self.path, dict(self.headers), {}, time.monotonic()))
                self._send(server.models if self.path.endswith("/models") else Reply(404, {"error": "no such page"}))

            def do_POST(self) -> None:
                asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with server._lock:
                    number = sum(one.asked == asked for one in server.seen)  # which try of this request it is
                    server.seen.append(Seen(self.path, dict(self.headers), asked, time.monotonic()))
                self._send(server.replies(asked, number) or Reply(body=completion(f"a {colour_of(asked)} square")))

            def _send(self, reply: Reply) -> None:
                if reply.after:
                    reply.after()
                if reply.drop:
                    self.close_connection = True
                    return
                body = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
                headers = {"Content-Type": "application/json", "Content-Length": str(len(body))} | reply.headers
                self.send_response(reply.status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                with suppress(OSError):  # the client may have heard enough
                    while reply.drip and not reply.drip.wait(0.05):
                        self.wfile.write(b" ")
                    self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                """Tests are quiet."""

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        self.port = self._http.server_port
        self.url = f"http://127.0.0.1:{self.port}/v1"
        self.name = f"openai:{self.url}#tiny-vl"

    def model(self, **options: Any) -> OpenAIServer:
        return OpenAIServer(self.name, **{"backoff_s": 0.01, "timeout_s": 10} | options)

    def close(self) -> None:
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name in {"LIGHTMILL_OPENAI_KEY", "OPENAI_API_KEY"}:
            monkeypatch.delenv(name)
    server = Server()
    yield server
    server.close()


def answered(model: OpenAIServer, images: list[np.ndarray], questions: list[Ask]) -> list[Answer]:
    """The answers; raises why the first has none."""
    answers = model(images, questions)
    for answer in answers:
        if answer.failure:
            raise answer.failure
    return answers


def square(colour: str, size: int = 24) -> np.ndarray:
    return np.full((size, size, 3), COLOURS[colour], np.uint8)


def asks(count: int) -> list[Ask]:
    return [Ask("What is this?", seed=100 + number) for number in range(count)]


def test_a_request_is_as_the_protocol_has_it(server: Server) -> None:
    server.replies = lambda asked, number: Reply(body=completion(" A square. \n", tokens=5))
    (answer,) = server.model(max_tokens=77, temperature=0.5)([square("red")], [Ask("What is this?", seed=2**31 + 9)])
    assert answer == Answer("A square.", tokens=5, cut_off=False)
    (seen,) = server.seen
    assert seen.path == "/v1/chat/completions"
    assert seen.headers["Content-Type"] == "application/json"
    assert "Authorization" not in seen.headers
    content = seen.asked["messages"][0].pop("content")
    assert content[0] == {"type": "text", "text": "What is this?"}
    assert [part["type"] for part in content] == ["text", "image_url"]
    assert seen.asked == {
        "model": "tiny-vl",
        "messages": [{"role": "user"}],
        "max_tokens": 77,
        "temperature": 0.5,
        "seed": 9,
        "stream": False,
    }


def test_nothing_is_sent_for_no_prompt_and_no_temperature(server: Server) -> None:
    server.model(temperature=None)([square("red")], [Ask("", seed=0)])
    (seen,) = server.seen
    assert [part["type"] for part in seen.asked["messages"][0]["content"]] == ["image_url"]
    assert "temperature" not in seen.asked


def test_long_pictures_are_shrunk_and_others_sent_as_they_are(server: Server) -> None:
    sizes = []

    def measure(asked: dict[str, Any], number: int) -> None:
        url = asked["messages"][0]["content"][1]["image_url"]["url"]
        jpeg = np.frombuffer(base64.b64decode(url.partition(",")[2]), np.uint8)
        sizes.append(cv2.imdecode(jpeg, cv2.IMREAD_COLOR).shape[:2])

    server.replies = measure
    for shape in ((2048, 100), (300, 4096), (4100, 1)):
        server.model()([np.full((*shape, 3), 255, np.uint8)], asks(1))
    assert sizes == [(2048, 100), (150, 2048), (2048, 1)]


def test_answers_come_in_order_and_requests_go_out_together(server: Server) -> None:
    together = threading.Barrier(6, timeout=5)  # broken, and so an error, unless six requests are under way at once

    def slower_first(asked: dict[str, Any], number: int) -> None:
        together.wait()
        time.sleep(0.01 * (106 - asked["seed"]))

    server.replies = slower_first
    colours = ["red", "green", "blue", "white", "green", "red"]
    answers = server.model(concurrency=6)([square(colour) for colour in colours], asks(6))
    assert [answer.text for answer in answers] == [f"a {colour} square" for colour in colours]


def test_no_more_than_concurrency_are_under_way(server: Server) -> None:
    under_way, most, lock = 0, 0, threading.Lock()

    def count(asked: dict[str, Any], number: int) -> None:
        nonlocal under_way, most
        with lock:
            under_way += 1
            most = max(most, under_way)
        time.sleep(0.03)
        with lock:
            under_way -= 1

    server.replies = count
    server.model(concurrency=3)([square("red")] * 9, asks(9))
    assert most == 3


@pytest.mark.parametrize(
    ("reply", "text", "cut_off"),
    [
        (completion("a cat that", finish_reason="length"), "a cat that", True),
        (completion([{"type": "text", "text": "a "}, {"type": "text", "text": "cat"}]), "a cat", False),
        (completion("<think>It has\n\nwhiskers.</think>\n\na cat"), "a cat", False),
        (completion("<think>It has whis", finish_reason="length"), "", True),
        (completion("a sign that says <think>"), "a sign that says <think>", False),
        (completion(None), "", False),
        ({"choices": [{"message": {"content": None, "refusal": "I can't."}}]}, "I can't.", False),
        ({"choices": [{"message": {"content": "a cat"}}], "usage": None}, "a cat", False),
    ],
)
def test_answers_are_read(server: Server, reply: dict[str, Any], text: str, cut_off: bool) -> None:
    server.replies = lambda asked, number: Reply(body=reply)
    (answer,) = server.model()([square("red")], asks(1))
    assert (answer.text, answer.cut_off) == (text, cut_off)
    assert answer.tokens == (7 if reply.get("usage") else 0)


PASSING = {
    "429": Reply(429, {"error": {"message": "slow down"}}),
    "500": Reply(500, b"<h1>oops</h1>", {"Content-Type": "text/html"}),
    "503": Reply(503, {"error": "loading the model"}),
    "408": Reply(408),
    "dropped": Reply(drop=True),
    "cut short": Reply(body=b'{"choices": [', headers={"Content-Length": "100"}),
    "broken": Reply(body=b'{"choices": [{"mess'),
    "no UTF-8": Reply(body=b'{"choices": "\xff"}'),
    "another type": Reply(body=b"<html>hello</html>", headers={"Content-Type": "text/html"}),
    "no message": Reply(body={"choices": []}),
    "no object": Reply(body=b"[1, 2]"),
    "an error in a 200": Reply(body={"error": {"message": "the provider is busy", "code": 502}}),
}


@pytest.mark.parametrize("fault", PASSING)
def test_what_may_pass_is_tried_again(server: Server, fault: str) -> None:
    server.replies = lambda asked, number: PASSING[fault] if number < 3 and asked["seed"] == 101 else None
    answers = server.model()([square("red"), square("green"), square("blue")], asks(3))
    assert [answer.text for answer in answers] == ["a red square", "a green square", "a blue square"]
    assert [one.asked["seed"] for one in server.seen].count(101) == 4
    assert len(server.seen) == 6


@pytest.mark.parametrize(
    ("fault", "kind", "message"),
    [
        ("429", RateLimited, r"#tiny-vl: the server answered 429 slow down \(tries: 4\)$"),
        ("500", ServerError, r"the server answered 500 <h1>oops</h1> \(tries: 4\)$"),
        ("408", TimedOut, r"the server answered 408 Request Timeout \(tries: 4\)$"),
        ("dropped", NoConnection, r"no connection: RemoteDisconnected: .* \(tries: 4\)$"),
        ("cut short", NoConnection, r"the connection was dropped 87 bytes before the end of the answer \(tries: 4\)$"),
        ("broken", BrokenAnswer, r"the answer is broken: application/json, and no JSON that can be read \(tries: 4\)$"),
        ("another type", BrokenAnswer, r"the answer is broken: text/html, and no JSON"),
        ("no message", BrokenAnswer, r"the answer has no message; it says: nothing \(tries: 4\)$"),
        ("an error in a 200", ServerError, r"the answer has no message; it says: the provider is busy \(tries: 4\)$"),
    ],
)
def test_tries_end_in_a_class_that_says_why(
    server: Server, fault: str, kind: type[ServerFailure], message: str
) -> None:
    server.replies = lambda asked, number: PASSING[fault]
    with pytest.raises(ServerFailure, match=message) as caught:
        answered(server.model(), [square("red")], asks(1))
    assert type(caught.value) is kind
    assert len(server.seen) == 4


def test_a_server_that_does_not_answer_is_given_its_time_and_no_more(server: Server) -> None:
    over = threading.Event()
    server.replies = lambda asked, number: Reply(drop=True, after=lambda: over.wait(20))
    began = time.monotonic()
    with pytest.raises(TimedOut, match=r"no answer within 0.2 s \(tries: 2\)$"):
        answered(server.model(timeout_s=0.2, tries=2), [square("red")], asks(1))
    assert 0.4 <= time.monotonic() - began < 5
    over.set()


def test_an_answer_that_drips_has_the_same_time(server: Server) -> None:
    over = threading.Event()  # each byte comes in time for the timeout of a socket
    server.replies = lambda asked, number: Reply(headers={"Content-Length": "1000"}, drip=over)
    with pytest.raises(TimedOut, match=r"no answer within 0.3 s \(tries: 1\)$"):
        answered(server.model(timeout_s=0.3, tries=1), [square("red")], asks(1))
    over.set()


def test_a_huge_answer_is_left_unread_and_not_asked_for_again(server: Server) -> None:
    server.replies = lambda asked, number: Reply(body=completion("x" * (9 << 20)))
    with pytest.raises(BrokenAnswer, match=r"the answer is longer than 8 MiB$"):
        answered(server.model(), [square("red")], asks(1))
    assert len(server.seen) == 1


@pytest.mark.parametrize(("retry_after", "at_least"), [("1", 1.0), ("0.4", 0.4), ("soon", 0), ("nan", 0), ("-3", 0)])
def test_retry_after_is_waited_for(server: Server, retry_after: str, at_least: float) -> None:
    refused = Reply(429, {"error": {"message": "slow down"}}, {"Retry-After": retry_after})
    server.replies = lambda asked, number: refused if number == 0 else None
    server.model()([square("red")], asks(1))
    first, second = server.seen
    assert at_least <= second.at - first.at < at_least + 5


def test_retry_after_may_be_a_date(server: Server) -> None:
    def refused(asked: dict[str, Any], number: int) -> Reply | None:
        date = formatdate(time.time() + 2, usegmt=True)  # whole seconds: 1 to 2 s from now
        return Reply(503, b"", {"Retry-After": date}) if number == 0 else None

    server.replies = refused
    server.model()([square("red")], asks(1))
    first, second = server.seen
    assert 0.9 <= second.at - first.at < 4


def test_waits_double_and_are_drawn_from_the_seed(server: Server) -> None:
    server.replies = lambda asked, number: PASSING["500"]
    with pytest.raises(ItemError, match="tries: 4"):
        answered(server.model(backoff_s=0.2), [square("red")], [Ask("", seed=5)])
    late = np.diff([one.at for one in server.seen])
    late -= 0.2 * np.array([1, 2, 4]) * np.random.default_rng(5).uniform(0.5, 1, 3)
    assert late.min() >= 0
    assert np.median(late) < 0.15


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (Reply(400, {"error": {"message": "the picture\nis\tno picture"}}), "answered 400 the picture is no picture$"),
        (Reply(400, {"error": "no vision"}), "answered 400 no vision$"),
        (Reply(422, {"detail": "seed: not a number"}), "answered 422 seed: not a number$"),
        (Reply(418, b"\xff\x00<b>tea</b>"), "answered 418 . <b>tea</b>$"),
        (Reply(400, {"error": {"message": "y" * 5000}}), f"answered 400 {'y' * 299}…$"),
        (Reply(301, b"", {"Location": "https://new.test/v1"}), "has moved to https://new.test/v1: give that URL$"),
    ],
)
def test_other_refusals_are_final_and_in_the_servers_words(server: Server, reply: Reply, message: str) -> None:
    server.replies = lambda asked, number: reply
    with pytest.raises(RequestRefused, match=message):
        answered(server.model(), [square("red")], asks(1))
    assert len(server.seen) == 1


def test_newer_models_know_the_limit_by_another_name(server: Server) -> None:
    said = "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
    refused = Reply(400, {"error": {"message": said}})
    server.replies = lambda asked, number: refused if "max_tokens" in asked else None
    model = server.model(max_tokens=60)
    assert model([square("red")], asks(1))[0].text == "a red square"
    assert model([square("blue")], asks(1))[0].text == "a blue square"
    assert ["max_tokens" in one.asked for one in server.seen] == [True, False, False]
    assert server.seen[-1].asked["max_completion_tokens"] == 60


def test_items_that_fail_do_not_take_others_with_them(server: Server) -> None:
    server.replies = lambda asked, number: Reply(400, {"error": f"no {asked['seed']}"}) if asked["seed"] % 2 else None
    answers = server.model()([square(colour) for colour in ("red", "green", "blue", "white")], asks(4))
    assert [answer.text for answer in answers] == ["a red square", "", "a blue square", ""]
    assert [str(answer.failure).rpartition(" ")[2] for answer in answers] == ["None", "101", "None", "103"]
    assert len(server.seen) == 4


def test_no_pictures_no_requests(server: Server) -> None:
    assert server.model()([], []) == []
    assert server.seen == []


def test_the_key_is_sent_and_told_to_no_one(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", f" {KEY}\n")
    model = server.model()
    said = f"{'z' * 290} {KEY} is wrong, and so is sk-test-*****cdef"
    server.replies = lambda asked, number: Reply(400, {"error": said})
    with pytest.raises(ItemError) as caught:
        answered(model, [square("red")], asks(1))
    assert server.seen[0].headers["Authorization"] == f"Bearer {KEY}"
    shown = f"{caught.value!r} {model.name} {model.version} {vars(model)} {pickle.dumps(model)!r}"
    assert "z *** is" in shown
    assert "sk-t" not in shown
    assert "cdef" not in shown

    monkeypatch.setenv("LIGHTMILL_OPENAI_KEY", "sk-first")
    server.replies = lambda asked, number: None
    model([square("red")], asks(1))
    assert server.seen[1].headers["Authorization"] == "Bearer sk-first"
    monkeypatch.setenv("LIGHTMILL_OPENAI_KEY", "")
    model([square("red")], asks(1))
    assert "Authorization" not in server.seen[2].headers


def test_a_key_goes_to_other_machines_by_https_only(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    refused = "could read the key in OPENAI_API_KEY; give an https URL, or send no key"
    for host in ("captions.test", "192.168.1.9", "127.0.0.1.captions.test", "localhost.captions.test"):
        model = OpenAIServer(f"openai:http://{host}:{server.port}/v1#tiny-vl")
        with pytest.raises(ModelError, match=refused) as caught:
            model.check("cpu")
        assert KEY not in str(caught.value)
        with pytest.raises(ModelError, match=refused):
            model([square("red")], asks(1))
    assert server.seen == []
    OpenAIServer(f"openai:http://localhost:{server.port}/v1#tiny-vl").check("cpu")


def test_a_key_that_is_none_is_not_quoted(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIGHTMILL_OPENAI_KEY", "sk-one\r\nsk-two")
    with pytest.raises(ModelError, match="LIGHTMILL_OPENAI_KEY holds characters that are in no key") as caught:
        server.model().check("cpu")
    assert "sk-" not in str(caught.value)


def test_redirects_do_not_take_the_key_elsewhere(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    elsewhere = Server()
    try:
        server.replies = lambda asked, number: Reply(302, b"", {"Location": f"{elsewhere.url}/chat/completions"})
        with pytest.raises(ItemError, match="has moved to"):
            answered(server.model(), [square("red")], asks(1))
        assert elsewhere.seen == []
    finally:
        elsewhere.close()


def test_proxies_of_the_environment_are_used_except_for_this_machine(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{server.port}")
    (answer,) = OpenAIServer("openai:http://captions.test:99/v1#tiny-vl")([square("blue")], asks(1))
    assert answer.text == "a blue square"
    assert server.seen[0].path == "http://captions.test:99/v1/chat/completions"
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # nothing is there
    assert server.model(tries=1)([square("red")], asks(1))[0].text == "a red square"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "http://127.0.0.1:1234/v1#m",
            "is no server: it takes an http or https URL, as in openai:http://127.0.0.1:1234",
        ),
        ("openai:ftp://host/v1#m", "is no server"),
        ("openai:127.0.0.1:1234/v1#m", "is no server"),
        ("openai:file:///etc/passwd#m", "is no server"),
        ("openai:http://#m", "is no server"),
        ("openai:http://host:port/v1#m", "is no server"),
        ("openai:http://host/a b#m", "is no server"),
        ("openai:http://[::1/v1#m", "is no server"),
        ("openai:http://127.0.0.1:1234/v1", "names no model; add # and the name"),
        (
            "openai:http://me:secret@host:port/v1#m",
            "holds a user name or a query; put the key into LIGHTMILL_OPENAI_KEY",
        ),
        ("openai:http://host/v1?key=secret#m", "holds a user name or a query"),
    ],
)
def test_names_that_are_none_are_refused(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        OpenAIServer(name)
    assert "secret" not in str(caught.value)


def test_check_finds_the_model_in_the_list_of_the_server(server: Server) -> None:
    server.model().check("cuda")
    OpenAIServer(f"openai:{server.url}/#tiny-vl").check("cpu")
    OpenAIServer(f"openai:{server.url}/chat/completions#tiny-vl").check("cpu")
    with pytest.raises(ModelError, match=r"the server has no such model; it has other, tiny-vl$"):
        OpenAIServer(f"openai:{server.url}#tiny").check("cpu")
    server.models = Reply(body={"data": [{"id": "llava:latest"}, {"id": "models/gemini"}]})
    OpenAIServer(f"openai:{server.url}#llava").check("cpu")
    OpenAIServer(f"openai:{server.url}#gemini").check("cpu")
    server.models = Reply(body={"data": [{"id": f"model-{number:02}"} for number in range(50)]})
    with pytest.raises(ModelError, match=r"it has model-00, .*, model-07 and 42 more$"):
        server.model().check("cpu")


@pytest.mark.parametrize("reply", [Reply(404), Reply(405), Reply(501), Reply(body={}), Reply(body={"data": None})])
def test_a_server_without_a_list_is_taken_at_its_word(server: Server, reply: Reply) -> None:
    server.models = reply
    server.model().check("cpu")


def test_check_says_what_to_do(server: Server) -> None:
    server.models = Reply(401, {"error": {"message": "Incorrect API key"}})
    with pytest.raises(ModelError, match="answered 401 Incorrect API key; no key was sent: set LIGHTMILL_OPENAI_KEY"):
        server.model().check("cpu")
    server.models = Reply(body=b"<html>", headers={"Content-Type": "text/html"})
    with pytest.raises(ModelError, match=r"broken: text/html.*; is the server running, and its URL right"):
        server.model().check("cpu")
    with pytest.raises(ModelError, match=r"no connection: ConnectionRefusedError.*; is the server running"):
        OpenAIServer("openai:http://127.0.0.1:9/v1#m", backoff_s=0.01).check("cpu")


def test_it_travels_between_processes(server: Server) -> None:
    model = pickle.loads(pickle.dumps(server.model()))
    model.load("cpu")
    assert model.on_device
    assert (model.name, model.version) == (server.name, "served")
    assert model([square("green")], asks(1))[0].text == "a green square"
