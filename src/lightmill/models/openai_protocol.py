"""OpenAI's protocol as captions need it: what a server is called, what it is asked, and what it answers.

A picture goes out as a JPEG of quality 90 inside the request, shrunk to 2048 px where it is longer: servers shrink it
further, and larger ones are refused by some.
"""

import base64
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

import cv2
import numpy as np

from lightmill.codecs.encode import ImageFormat, encode
from lightmill.errors import UsageError
from lightmill.models.kinds import Answer, Image
from lightmill.models.openai_failures import BrokenAnswer, ServerError, said, shortened

_PREFIX = "openai:"
_EXAMPLE = "openai:http://127.0.0.1:1234/v1#MODEL"
_LONGEST_SIDE = 2048  # px
_QUALITY = 90
_THOUGHT = re.compile(r"\s*<think>.*?(</think>|\Z)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server is, and which of its models is asked."""

    base: str  # scheme, host and path, without a slash at the end
    model: str
    encrypted: bool
    local: bool  # on this machine


def address_of(name: str, *, key: str) -> Address:
    """What `openai:URL#MODEL` names. Raises UsageError where it is not that, or holds what belongs into `key`."""
    url, _, model = name.removeprefix(_PREFIX).partition("#")
    if "@" in url or "?" in url:  # before any message that quotes it
        raise UsageError(f"the URL after {_PREFIX} holds a user name or a query; put the key into {key}")
    host = _host(url) if name.startswith(_PREFIX) else ""
    if not host:
        raise UsageError(f"{name} is no server: it takes an http or https URL, as in {_EXAMPLE}")
    if not model:
        raise UsageError(f"{name} names no model; add # and the name that the server knows it by, as in {_EXAMPLE}")
    base = url.rstrip("/").removesuffix("/chat/completions")
    return Address(base, model, encrypted=url.lower().startswith("https:"), local=_is_local(host))


def is_plain(text: str) -> bool:
    """Whether a text can stand in a URL, or in a header, as it is."""
    return text.isascii() and text.isprintable() and " " not in text


def jpeg_of(image: Image) -> bytes:
    """The picture as it goes out."""
    height, width = image.shape[:2]
    scale = _LONGEST_SIDE / max(height, width)
    if scale < 1:
        size = max(1, round(width * scale)), max(1, round(height * scale))
        image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
    return encode(image, format=ImageFormat.JPG, quality=_QUALITY)


def question(
    jpeg: bytes, prompt: str, *, model: str, seed: int, limit: str, max_tokens: int, temperature: float | None
) -> bytes:
    """The body of a request about one picture. `limit`: what the server calls max_tokens."""
    url = f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"
    parts: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": url}}]
    if prompt:
        parts.insert(0, {"type": "text", "text": prompt})
    asked: dict[str, Any] = {
        "model": model,
        "messages": [{"role": "user", "content": parts}],
        "seed": seed,
        "stream": False,
        limit: max_tokens,
    }
    if temperature is not None:
        asked["temperature"] = temperature
    return json.dumps(asked).encode()


def answer_of(reply: Any) -> Answer:
    """What a reply says of a picture, without thoughts. Raises ServerError or BrokenAnswer where it has no message."""
    try:
        choice = reply["choices"][0]
        message = choice["message"]
        content = message.get("content") or message.get("refusal") or ""
        if isinstance(content, list):  # some servers answer in parts
            content = "".join(part.get("text", "") for part in content)
        text = _THOUGHT.sub("", content, count=1) if _THOUGHT.match(content) else content
    except (AttributeError, IndexError, KeyError, TypeError):
        words = said(reply)
        kind = ServerError if words else BrokenAnswer
        raise kind(f"the answer has no message; it says: {words or 'nothing'}") from None
    usage = reply.get("usage")
    tokens = usage.get("completion_tokens") if isinstance(usage, dict) else 0
    cut_off = choice.get("finish_reason") == "length"
    return Answer(text.strip(), tokens=tokens if isinstance(tokens, int) else 0, cut_off=cut_off)


def served_in(reply: Any) -> list[str]:
    """The names of a list of models; none where it is no such list."""
    models = reply.get("data") if isinstance(reply, dict) else None
    return [str(one["id"]) for one in models or () if isinstance(one, dict) and "id" in one]


def is_served(model: str, served: Sequence[str]) -> bool:
    """Whether a server takes `model` for one that it lists: Ollama adds a tag, Gemini a folder."""
    return any(one in {model, f"{model}:latest"} or one.endswith(f"/{model}") for one in served)


def some(names: Sequence[str], most: int = 8) -> str:
    """A list for a message."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return shortened(", ".join(sorted(names)[:most]), 400) + more


def _host(url: str) -> str:
    """Of an http or https URL; else nothing."""
    try:
        parts = urlsplit(url)
        port = parts.port  # which is where one that is no number shows
    except ValueError:
        return ""
    return parts.hostname or "" if parts.scheme in {"http", "https"} and is_plain(url) and port != 0 else ""


def _is_local(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
