"""Requests to one server over HTTP: the key, tries, waits. Nothing but the standard library is used.

Proxies are those of the environment (http_proxy, https_proxy, no_proxy), except for servers on this machine, which no
proxy can reach.

The key comes from LIGHTMILL_OPENAI_KEY or else OPENAI_API_KEY (the first of them that is set; set to nothing, no key is
sent). It is read for each call, never stored, and taken out of what a server says.
"""

import json
import os
import re
import ssl
from collections.abc import Callable
from http.client import HTTPException, HTTPResponse
from math import inf
from threading import Event, Lock
from time import monotonic
from typing import Any, TypeVar
from urllib.error import HTTPError, URLError
from urllib.request import HTTPRedirectHandler, OpenerDirector, ProxyHandler, Request, build_opener

import numpy as np

from lightmill import __version__
from lightmill.errors import ModelError
from lightmill.models.openai_failures import BrokenAnswer, NoConnection, ServerFailure, TimedOut, failure_of, shortened
from lightmill.models.openai_protocol import Address, is_plain

KEY = "LIGHTMILL_OPENAI_KEY"
_KEYS = KEY, "OPENAI_API_KEY"
_MOST_BYTES = 8 << 20  # of an answer: a caption has some hundred, a list of models some hundred thousand
_KEY_LIKE = re.compile(r"\bsk-[\w*-]{6,}")  # which OpenAI quotes half of when it refuses it
_HINTS = {
    404: "; has the server a model of the name after #, and /chat/completions under this URL? It mostly ends in /v1",
    413: "; the server takes no pictures of this size",
}
_KEY_HINTS = {
    401: f"set {KEY} to one that the server takes",
    403: f"set {KEY} to one that may use this model",
}

T = TypeVar("T")


class Pause:
    """When a server that asked to be left alone (Retry-After) may be asked again; one for all requests to it.

    Pickled, it arrives as a new one: clocks of machines differ.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._until = -inf

    def __reduce__(self) -> tuple[type["Pause"], tuple[()]]:
        return Pause, ()

    def hold(self, wait_s: float) -> None:
        """No request for so long; a longer pause that is on stays."""
        if wait_s:
            with self._lock:
                self._until = max(self._until, monotonic() + wait_s)

    @property
    def left_s(self) -> float:
        """What is left of it; 0 or less where there is none."""
        return self._until - monotonic()


class Client:
    """Requests to one server with one key. Raises ModelError where the key would go out in the clear."""

    def __init__(self, address: Address, *, tries: int, timeout_s: float, backoff_s: float, pause: Pause) -> None:
        self._base = address.base
        self._key = _key()
        if self._key and not address.encrypted and not address.local:
            raise ModelError(
                f"{address.base}: over http, everyone on the way could read the key in {_key_name()}; "
                f"give an https URL, or send no key by setting {KEY} to nothing"
            )
        self._tries, self._timeout_s, self._backoff_s = tries, timeout_s, backoff_s
        self._pause = pause
        self._opener = _opener(local=address.local)
        self._stopped = Event()

    def stop(self) -> None:
        """No request begins any more, and whoever waits for another try ends now."""
        self._stopped.set()

    def ask(self, path: str, body: bytes | None, *, seed: int, read: Callable[[Any], T]) -> T:
        """What `read` makes of the reply to a POST of `body`, or to a GET. Raises ServerFailure after the last try."""
        jitter = np.random.default_rng(seed)
        for number in range(1, self._tries + 1):
            self._wait_for_turn()
            try:
                return read(self._reply(path, body))
            except ServerFailure as failure:
                self._pause.hold(failure.wait_s)
                what = shortened(self._without_key(str(failure)), 600)
                if not failure.again:
                    raise failure.saying(what) from None
                if number == self._tries or self._stopped.is_set():
                    raise failure.saying(f"{what} (tries: {number})") from None
            self._stopped.wait(self._backoff_s * 2 ** (number - 1) * jitter.uniform(0.5, 1))
        raise ValueError(f"tries are 1 or more, got {self._tries}")

    def _wait_for_turn(self) -> None:
        while (left_s := self._pause.left_s) > 0 and not self._stopped.is_set():
            self._stopped.wait(left_s)
        if self._stopped.is_set():
            raise NoConnection("the server was not asked, as it refuses all", again=False)

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
                failure = failure_of(error, self._without_key)
            raise failure.saying(f"{failure}{self._hint(failure.status)}") from None
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
                raise BrokenAnswer(f"the answer is longer than {_MOST_BYTES >> 20} MiB", again=False)
            if monotonic() > until:
                raise TimeoutError
        if response.length:  # read1 takes the end of the connection for the end of the answer
            raise NoConnection(f"the connection was dropped {response.length} bytes before the end of the answer")
        return b"".join(parts)

    def _dropped(self, error: Exception) -> ServerFailure:
        cause = error.reason if isinstance(error, URLError) else error
        if isinstance(cause, TimeoutError):
            return TimedOut(f"no answer within {self._timeout_s:g} s")
        if isinstance(cause, ssl.SSLCertVerificationError):
            return NoConnection(
                f"its certificate is not trusted ({cause.verify_message}); "
                "set SSL_CERT_FILE to a file with that of its authority",
                again=False,
            )
        return NoConnection(f"no connection: {shortened(f'{type(cause).__name__}: {cause}')}")

    def _hint(self, status: int) -> str:
        """What to do about a refusal."""
        if status not in _KEY_HINTS:
            return _HINTS.get(status, "")
        name = _key_name()
        if self._key:
            sent = f"the key in {name} was sent"
        else:
            sent = f"no key was sent, as {name} is set to nothing" if name else "no key was sent"
        return f"; {sent}: {_KEY_HINTS[status]}"

    def _without_key(self, text: str) -> str:
        return _KEY_LIKE.sub("***", text.replace(self._key, "***") if self._key else text)


class _NoRedirect(HTTPRedirectHandler):
    """A redirect is an answer like others: followed, it would take the key to another host."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _opener(*, local: bool) -> OpenerDirector:
    return build_opener(ProxyHandler({} if local else None), _NoRedirect)


def _key_name() -> str | None:
    return next((name for name in _KEYS if name in os.environ), None)


def _key() -> str:
    name = _key_name()
    key = os.environ[name].strip() if name else ""
    if not is_plain(key):  # http.client would quote it in its error
        raise ModelError(f"{name} holds characters that are in no key; set it once more")
    return key


def _parsed(data: bytes, kind: str) -> Any:
    try:
        return json.loads(data)
    except ValueError:  # no JSON, or no UTF-8
        raise BrokenAnswer(f"the answer is broken: {kind}, and no JSON that can be read") from None
