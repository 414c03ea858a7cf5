"""How a server can fail to answer: the classes that `lightmill status` lists, and the words for people."""

import json
from collections.abc import Callable
from contextlib import suppress
from email.utils import parsedate_to_datetime
from http.client import HTTPException
from time import time
from typing import Any
from urllib.error import HTTPError

from lightmill.errors import ItemError

_LONGEST_WAIT_S = 120.0  # that a server may ask for
_TIMEOUT, _TOO_EARLY, _TOO_MANY = 408, 425, 429


class ServerFailure(ItemError):  # noqa: N818 (the names of these classes are what `lightmill status` lists)
    """A server gave no answer about a picture.

    `again`: whether another try may do better. `status`: of HTTP; 0 where there was none. `wait_s`: what the server
    asks to wait before the next request, whoever sends it.
    """

    def __init__(self, what: str, *, again: bool = True, status: int = 0, wait_s: float = 0.0) -> None:
        super().__init__(what)
        self.again, self.status, self.wait_s = again, status, wait_s

    def saying(self, what: str) -> "ServerFailure":
        """The same failure in other words."""
        return type(self)(what, again=self.again, status=self.status, wait_s=self.wait_s)


class TimedOut(ServerFailure):
    """No whole answer within the time that a request is given, in any of the tries."""


class RateLimited(ServerFailure):
    """429: more was asked than the server allows, in all of the tries."""


class NoConnection(ServerFailure):
    """Refused, dropped or not to be trusted, in all of the tries."""


class BrokenAnswer(ServerFailure):
    """An answer that is no JSON, not what the protocol has, or far too long."""


class RequestRefused(ServerFailure):
    """Any other status below 500: the server would not do it, and says why."""


class ServerError(ServerFailure):
    """5xx, or an error where the answer should be: the server could not do it, in all of the tries."""


def failure_of(error: HTTPError, without_key: Callable[[str], str]) -> ServerFailure:
    """What a status of 300 and more means, in the server's own words."""
    try:
        text = error.read(1 << 16).decode("utf-8", "replace")
    except (OSError, HTTPException):
        text = ""
    with suppress(ValueError):
        text = said(json.loads(text)) or text
    what = f"the server answered {error.code} {shortened(without_key(text or str(error.reason)))}"
    if 300 <= error.code < 400:
        what += f"; it has moved to {shortened(error.headers.get('Location', 'somewhere'))}: give that URL"
    kind = {_TIMEOUT: TimedOut, _TOO_MANY: RateLimited}.get(error.code, RequestRefused)
    if error.code >= 500:
        kind = ServerError
    again = kind is not RequestRefused or error.code == _TOO_EARLY
    return kind(what, again=again, status=error.code, wait_s=_wait_s(error.headers.get("Retry-After", "")))


def said(reply: Any) -> str:
    """The words in the error of a reply, wherever a server puts them."""
    if isinstance(reply, dict):
        inner = next((reply[key] for key in ("error", "message", "detail") if reply.get(key)), "")
        return said(inner) if isinstance(inner, dict) else str(inner)
    return reply if isinstance(reply, str) else ""


def shortened(text: str, most: int = 300) -> str:
    """One line of printable characters."""
    text = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    return text if len(text) <= most else f"{text[: most - 1]}…"


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
