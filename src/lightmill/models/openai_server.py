"""Any server that speaks OpenAI's protocol as a captioner: LM Studio, Ollama, vLLM, llama.cpp, or a service.

A picture goes out as a JPEG of quality 90 inside the request, shrunk to 2048 px where it is longer: servers shrink it
further, and larger ones are refused by some. Nothing but the standard library is used. Proxies are those of the
environment (http_proxy, https_proxy, no_proxy), except for servers on this machine, which no proxy can reach.

The key comes from LIGHTMILL_OPENAI_KEY or else OPENAI_API_KEY (the first of them that is set; set to nothing, no key is
sent). It is read for each call, never stored, and taken out of what a server says.
"""

import base64
import json
import os
import re
import ssl
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from hashlib import blake2b
from http.client import HTTPException, HTTPResponse
from ipaddress import ip_address
from threading import Event
from time import monotonic, time
from typing import Any, TypeVar
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, OpenerDirector, ProxyHandler, Request, build_opener

import cv2
import numpy as np

from lightmill import __version__
from lightmill.codecs.encode import ImageFormat, encode
from lightmill.errors import ItemError, ModelError, UsageError
from lightmill.models.kinds import Answer, Ask, Image

_PREFIX = "openai:"
_EXAMPLE = "openai:http://127.0.0.1:1234/v1#MODEL"
_KEYS = "LIGHTMILL_OPENAI_KEY", "OPENAI_API_KEY"
_LONGEST_SIDE = 2048  # px
_QUALITY = 90
_MOST_BYTES = 8 << 20  # of an answer: a caption has some hundred, a list of models some hundred thousand
_LONGEST_WAIT_S = 120.0  # that a server may ask for
_PASSING = {408, 425, 429}  # and all from 500: another try may do better
_NO_LIST = {404, 405, 501}  # what servers without a list of models say
_SEEDS = 2**31  # some servers read a seed as a signed number of 32 bits
_HINTS = {
    401: f"; set {_KEYS[0]} to a key that the server takes",
    403: f"; set {_KEYS[0]} to a key that may use this model",
    404: "; is the URL the one under which the server has /chat/completions? It mostly ends in /v1",
    413: "; the server takes no pictures of this size",
}
_KEY_LIKE = re.compile(r"\bsk-[\w*-]{6,}")  # which OpenAI quotes half of when it refuses it
_THOUGHT = re.compile(r"\s*<think>.*?(</think>|\Z)", re.DOTALL)

T = TypeVar("T")


class OpenAIServer:
    """`openai:URL#MODEL`: asks a server by POST URL/chat/completions, several pictures at a time, one request each.

    `max_tokens` is the limit of an answer. `temperature` None leaves it to the server, for models that take no other.
    `concurrency` requests are under way at once; each is given `timeout_s` and tried `tries` times. Another try follows
    429, 408, 425, 5xx, a timeout, a dropped connection and an answer that is not JSON or has no message, after
    `backoff_s`, then twice that and so on, each times 0.5 to 1 (drawn from the seed of the ask), and not before
    Retry-After (at most 120 s) has passed. Any other refusal is final at once, with the server's own words.

    Where items fail, the others of the call go on. Then ItemError is raised, as a call answers for all or none, and
    what has come of each is kept for the one-by-one calls that follow: such a call is given the answer, or the error,
    of its own item, once and without another request. So no item is lost, paid for twice, or waited for twice.
    """

    on_device = True  # called with batches by one thread; the requests of a batch go out together

    def __init__(
        self,
        name: str,
        *,
        max_tokens: int = 300,
        temperature: float | None = 0.0,
        concurrency: int = 8,
        timeout_s: float = 120,
        tries: int = 4,
        backoff_s: float = 1.0,
    ) -> None:
        """Raises UsageError where the name is not `openai:URL#MODEL` with http(s), or holds a secret."""
        self.name = name
        self.version = "served"  # the protocol has nothing that tells two states of a model apart
        self._address = _address(name)
        self._max_tokens, self._temperature = max_tokens, temperature
        self._concurrency, self._timeout_s, self._tries, self._backoff_s = concurrency, timeout_s, tries, backoff_s
        self._limit = "max_tokens"
        self._kept: dict[bytes, Answer | ItemError] = {}  # of the last call in which an item failed

    def check(self, device: str) -> None:  # noqa: ARG002 (the server has its own)
        """Raises ModelError where the server cannot be reached, refuses the key, or lists its models without this one.

        Also where a key would go over http to another machine: everyone on the way could read it.
        """
        link = self._link(tries=min(self._tries, 2), timeout_s=min(self._timeout_s, 20))
        try:
            served = link.ask("/models", None, seed=0, read=_served)
        except _Failed as failed:
            if failed.status in _NO_LIST:
                return
            start = (
                ""
                if failed.status or not failed.again
                else "; is the server running, and its URL right (it mostly ends in /v1)?"
            )
            raise ModelError(f"{self.name}: {failed}{start}") from None
        if served and not any(_names(self._address.model, one) for one in served):
            raise ModelError(f"{self.name}: the server has no such model; it has {_some(served)}")

    def load(self, device: str) -> None:
        """There is nothing to load: the server loads the model with the first request."""

    def unload(self) -> None:
        """Forgets what was kept for calls to follow."""
        self._kept.clear()

    def __call__(self, image: Sequence[Image], ask: Sequence[Ask]) -> list[Answer]:
        """An answer a picture, in order. Raises ItemError where one or more failed, as the class says."""
        if not image:
            return []
        link = self._link(tries=self._tries, timeout_s=self._timeout_s)
        with ThreadPoolExecutor(min(self._concurrency, len(image))) as threads:
            try:
                outcomes = list(threads.map(lambda *item: self._outcome(link, *item), image, ask))
            finally:
                link.stopped.set()  # whoever waits for another try ends now
        failures = [outcome for _, outcome in outcomes if isinstance(outcome, ItemError)]
        if failures:
            if len(outcomes) > 1:
                self._kept = dict(outcomes)
            raise failures[0]
        return [outcome for _, outcome in outcomes if isinstance(outcome, Answer)]

    def _outcome(self, link: "_Link", image: Image, ask: Ask) -> tuple[bytes, Answer | ItemError]:
        """What came of one item, and what it is known by."""
        jpeg = _jpeg(image)
        known_by = blake2b(f"{ask.seed} {ask.prompt}".encode() + b"\0" + jpeg, digest_size=16).digest()
        kept = self._kept.pop(known_by, None)
        if kept is not None:
            return known_by, kept
        try:
            return known_by, self._answer(link, jpeg, ask)
        except _Failed as failed:
            return known_by, ItemError(f"{self.name}: {failed}")

    def _answer(self, link: "_Link", jpeg: bytes, ask: Ask) -> Answer:
        seed = ask.seed % _SEEDS
        limit = self._limit
        try:
            return link.ask("/chat/completions", self._body(jpeg, ask.prompt, seed, limit), seed=seed, read=_answer)
        except _Failed as failed:
            if failed.status != 400 or limit != "max_tokens" or "max_completion_tokens" not in str(failed):
                raise
        limit = self._limit = "max_completion_tokens"  # the newer models of OpenAI know the limit by this name only
        return link.ask("/chat/completions", self._body(jpeg, ask.prompt, seed, limit), seed=seed, read=_answer)

    def _body(self, jpeg: bytes, prompt: str, seed: int, limit: str) -> bytes:
        url = f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"
        parts: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": url}}]
        if prompt:
            parts.insert(0, {"type": "text", "text": prompt})
        asked: dict[str, Any] = {
            "model": self._address.model,
            "messages": [{"role": "user", "content": parts}],
            "seed": seed,
            "stream": False,
            limit: self._max_tokens,
        }
        if self._temperature is not None:
            asked["temperature"] = self._temperature
        return json.dumps(asked).encode()

    def _link(self, *, tries: int, timeout_s: float) -> "_Link":
        return _Link(self._address, tries=tries, timeout_s=timeout_s, backoff_s=self._backoff_s)


# ---------------------------------------------------------------------------------------------------------------------
# what is asked


@dataclass(frozen=True, slots=True)
class _Address:
    base: str  # scheme, host and path, without a slash at the end
    model: str
    encrypted: bool
    local: bool  # on this machine


def _address(name: str) -> _Address:
    url, _, model = name.removeprefix(_PREFIX).partition("#")
    if "@" in url or "?" in url:  # before any message that quotes it
        raise UsageError(f"the URL after {_PREFIX} holds a user name or a query; put the key into {_KEYS[0]}")
    host = _host(url) if name.startswith(_PREFIX) else ""
    if not host:
        raise UsageError(f"{name} is no server: it takes an http or https URL, as in {_EXAMPLE}")
    if not model:
        raise UsageError(f"{name} names no model; add # and the name that the server knows it by, as in {_EXAMPLE}")
    base = url.rstrip("/").removesuffix("/chat/completions")
    return _Address(base, model, encrypted=url.lower().startswith("https:"), local=_is_local(host))


def _host(url: str) -> str:
    """Of an http or https URL; else nothing."""
    try:
        parts = urlsplit(url)
        port = parts.port  # which is where one that is no number shows
    except ValueError:
        return ""
    return parts.hostname or "" if parts.scheme in {"http", "https"} and _is_plain(url) and port != 0 else ""


def _is_plain(url: str) -> bool:
    return url.isascii() and url.isprintable() and " " not in url


def _is_local(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _jpeg(image: Image) -> bytes:
    height, width = image.shape[:2]
    scale = _LONGEST_SIDE / max(height, width)
    if scale < 1:
        size = max(1, round(width * scale)), max(1, round(height * scale))
        image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
    return encode(image, format=ImageFormat.JPG, quality=_QUALITY)


# ---------------------------------------------------------------------------------------------------------------------
# what is answered


def _answer(reply: Any) -> Answer:
    try:
        choice = reply["choices"][0]
        message = choice["message"]
        content = message.get("content") or message.get("refusal") or ""
        if isinstance(content, list):  # some servers answer in parts
            content = "".join(part.get("text", "") for part in content)
        text = _THOUGHT.sub("", content, count=1) if _THOUGHT.match(content) else content
    except (AttributeError, IndexError, KeyError, TypeError):
        raise _Failed(f"the answer has no message; it says: {_said(reply) or 'nothing'}", again=True) from None
    usage = reply.get("usage")
    tokens = usage.get("completion_tokens") if isinstance(usage, dict) else 0
    cut_off = choice.get("finish_reason") == "length"
    return Answer(text.strip(), tokens=tokens if isinstance(tokens, int) else 0, cut_off=cut_off)


def _served(reply: Any) -> list[str]:
    """The names of a list of models; none where it is no such list."""
    models = reply.get("data") if isinstance(reply, dict) else None
    return [str(one["id"]) for one in models or () if isinstance(one, dict) and "id" in one]


def _names(model: str, served: str) -> bool:
    """Whether a server takes `model` for what it lists as `served`: Ollama adds a tag, Gemini a folder."""
    return served in {model, f"{model}:latest"} or served.endswith(f"/{model}")


def _some(names: Sequence[str], most: int = 8) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return _shortened(", ".join(sorted(names)[:most]), 400) + more


def _said(reply: Any) -> str:
    """The words in the error of a reply, wherever a server puts them."""
    if isinstance(reply, dict):
        inner = next((reply[key] for key in ("error", "message", "detail") if reply.get(key)), "")
        return _said(inner) if isinstance(inner, dict) else str(inner)
    return reply if isinstance(reply, str) else ""


def _shortened(text: str, most: int = 300) -> str:
    text = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    return text if len(text) <= most else f"{text[: most - 1]}…"


# ---------------------------------------------------------------------------------------------------------------------
# on the wire


class _Failed(Exception):  # noqa: N818 (no error yet: another try may follow)
    """One try came to nothing; the message says what the server did."""

    def __init__(self, what: str, *, again: bool, status: int = 0, wait_s: float = 0.0) -> None:
        super().__init__(what)
        self.again, self.status, self.wait_s = again, status, wait_s


class _NoRedirect(HTTPRedirectHandler):
    """A redirect is an answer like others: followed, it would take the key to another host."""

    def redirect_request(self, *_: Any) -> None:
        return None


class _Link:
    """Requests to one server with one key. Raises ModelError where the key would go out in the clear."""

    def __init__(self, address: _Address, *, tries: int, timeout_s: float, backoff_s: float) -> None:
        self._base = address.base
        self._key = _key()
        if self._key and not address.encrypted and not address.local:
            raise ModelError(
                f"{address.base}: over http, everyone on the way could read the key in {_key_name()}; "
                f"give an https URL, or send no key by setting {_KEYS[0]} to nothing"
            )
        self._tries, self._timeout_s, self._backoff_s = tries, timeout_s, backoff_s
        self._opener = _opener(local=address.local)
        self.stopped = Event()

    def ask(self, path: str, body: bytes | None, *, seed: int, read: Callable[[Any], T]) -> T:
        """What `read` makes of the reply to a POST of `body`, or to a GET. Raises _Failed after the last try."""
        jitter = np.random.default_rng(seed)
        for number in range(1, self._tries + 1):
            try:
                return read(self._reply(path, body))
            except _Failed as failed:
                what = _shortened(self._without_key(str(failed)), 600)
                if not failed.again:
                    raise _Failed(what, again=False, status=failed.status) from None
                if number == self._tries or self.stopped.is_set():
                    raise _Failed(f"{what} (tries: {number})", again=True, status=failed.status) from None
                wait_s = max(self._backoff_s * 2 ** (number - 1) * jitter.uniform(0.5, 1), failed.wait_s)
            self.stopped.wait(wait_s)
        raise ValueError(f"tries are 1 or more, got {self._tries}")

    def _reply(self, path: str, body: bytes | None) -> Any:
        """The JSON of one reply."""
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        headers["User-Agent"] = f"lightmill/{__version__}"
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        request = Request(self._base + path, data=body, headers=headers)
        try:
            with self._opener.open(request, timeout=self._timeout_s) as response:
                kind = response.headers.get_content_type()
                return _parsed(self._read(response), kind)
        except HTTPError as error:
            with error:
                raise _refused(error, self._without_key) from None
        except (OSError, HTTPException) as error:  # URLError is an OSError
            raise self._dropped(error) from None

    def _read(self, response: HTTPResponse) -> bytes:
        """All of an answer, unless it is too long or comes too slowly."""
        parts, size = [], 0
        until = monotonic() + self._timeout_s  # a socket's own timeout begins anew with each byte
        while part := response.read1(1 << 16):
            parts.append(part)
            size += len(part)
            if size > _MOST_BYTES:
                raise _Failed(f"the answer is longer than {_MOST_BYTES >> 20} MiB", again=False)
            if monotonic() > until:
                raise TimeoutError
        return b"".join(parts)

    def _dropped(self, error: Exception) -> _Failed:
        cause = error.reason if isinstance(error, URLError) else error
        if isinstance(cause, TimeoutError):
            return _Failed(f"no answer within {self._timeout_s:g} s", again=True)
        if isinstance(cause, ssl.SSLCertVerificationError):
            return _Failed(
                f"its certificate is not trusted ({cause.verify_message}); "
                "set SSL_CERT_FILE to a file with that of its authority",
                again=False,
            )
        return _Failed(f"no connection: {_shortened(f'{type(cause).__name__}: {cause}')}", again=True)

    def _without_key(self, text: str) -> str:
        return _KEY_LIKE.sub("***", text.replace(self._key, "***") if self._key else text)


def _opener(*, local: bool) -> OpenerDirector:
    return build_opener(ProxyHandler({} if local else None), _NoRedirect)


def _key_name() -> str | None:
    return next((name for name in _KEYS if name in os.environ), None)


def _key() -> str:
    name = _key_name()
    key = os.environ[name].strip() if name else ""
    if not _is_plain(key):  # http.client would quote it in its error
        raise ModelError(f"{name} holds characters that are in no key; set it once more")
    return key


def _parsed(data: bytes, kind: str) -> Any:
    try:
        return json.loads(data)
    except ValueError:  # no JSON, or no UTF-8
        raise _Failed(f"the answer is broken: {kind}, and no JSON that can be read", again=True) from None


def _refused(error: HTTPError, without_key: Callable[[str], str]) -> _Failed:
    """What a status of 300 and more means, in the server's own words."""
    try:
        text = error.read(1 << 16).decode("utf-8", "replace")
    except (OSError, HTTPException):
        text = ""
    with suppress(ValueError):
        text = _said(json.loads(text)) or text
    said = f"the server answered {error.code} {_shortened(without_key(text or str(error.reason)))}"
    if 300 <= error.code < 400:
        said += f"; it has moved to {_shortened(error.headers.get('Location', 'somewhere'))}: give that URL"
    again = error.code in _PASSING or error.code >= 500
    wait_s = _wait_s(error.headers.get("Retry-After", ""))
    return _Failed(said + _HINTS.get(error.code, ""), again=again, status=error.code, wait_s=wait_s)


def _wait_s(retry_after: str) -> float:
    """The seconds that a Retry-After asks for (RFC 9110, 10.2.3): a number, or a date."""
    try:
        asked = float(retry_after)
    except ValueError:
        try:
            asked = parsedate_to_datetime(retry_after).timestamp() - time()
        except ValueError:
            return 0.0
    return min(max(asked, 0.0), _LONGEST_WAIT_S) if asked == asked else 0.0
