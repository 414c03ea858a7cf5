"""Any server that speaks OpenAI's protocol as a captioner: LM Studio, Ollama, vLLM, llama.cpp, or a service."""

import copy
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from lightmill.errors import ModelError
from lightmill.models.kinds import Answer, Ask, Image
from lightmill.models.openai_client import KEY, Client, Pause
from lightmill.models.openai_failures import ServerFailure
from lightmill.models.openai_protocol import address_of, answer_of, is_served, jpeg_of, question, served_in, some

_NO_LIST = {404, 405, 501}  # what servers without a list of models say
_NEVER = {401, 402}  # the key, the account: no picture is to blame, and none will do better
_NOT_AT_FIRST = {403, 404}  # the same while nothing was answered; later it may be about one picture
_SEEDS = 2**31  # some servers read a seed as a signed number of 32 bits


class OpenAIServer:
    """`openai:URL#MODEL`: asks a server by POST URL/chat/completions, several pictures at a time, one request each.

    `max_tokens` is the limit of an answer. `temperature` None leaves it to the server, for models that take no other.
    `concurrency` requests are under way at once; each is given `timeout_s` and tried `tries` times. Another try follows
    429, 408, 425, 5xx, a timeout, a dropped connection and an answer that is not JSON or has no message, after
    `backoff_s`, then twice that and so on, each times 0.5 to 1 (drawn from the seed of the ask). A Retry-After (at most
    120 s) holds back all requests that are not under way, those of later calls too. Any other refusal is final at once,
    with the server's own words.

    A refusal that is about no picture ends the call at once: 401 and 402 always, 403 and 404 while the server has
    answered nothing yet.

    Where items fail, the others of the call go on; why one failed stands in its Answer.
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
        self._address = address_of(name, key=KEY)
        self._max_tokens, self._temperature = max_tokens, temperature
        self._concurrency, self._timeout_s, self._tries, self._backoff_s = concurrency, timeout_s, tries, backoff_s
        self._limit = "max_tokens"
        self._pause = Pause()
        self._has_answered = False

    def drawing(self, temperature: float) -> "OpenAIServer":
        """The same server at another temperature; what it asks of one of the two, such as to wait, both keep to."""
        other = copy.copy(self)
        other._temperature = temperature
        return other

    def check(self, device: str) -> None:  # noqa: ARG002 (the server has its own)
        """Raises ModelError where the server cannot be reached, refuses the key, or lists its models without this one.

        Also where a key would go over http to another machine: everyone on the way could read it.
        """
        client = self._client(tries=min(self._tries, 2), timeout_s=min(self._timeout_s, 20))
        try:
            served = client.ask("/models", None, seed=0, read=served_in)
        except ServerFailure as failure:
            if failure.status in _NO_LIST:
                return
            start = (
                ""
                if failure.status or not failure.again
                else "; is the server running, and its URL right (it mostly ends in /v1)?"
            )
            raise ModelError(f"{self.name}: {failure}{start}") from None
        if served and not is_served(self._address.model, served):
            raise ModelError(f"{self.name}: the server has no such model; it has {some(served)}")

    def load(self, device: str) -> None:
        """There is nothing to load: the server loads the model with the first request."""

    def unload(self) -> None:
        """There is nothing to unload."""

    def __call__(self, image: Sequence[Image], ask: Sequence[Ask]) -> list[Answer]:
        """An answer a picture, in order, or its ServerFailure. Raises ModelError where the server refuses them all."""
        if not image:
            return []
        client = self._client(tries=self._tries, timeout_s=self._timeout_s)
        with ThreadPoolExecutor(min(self._concurrency, len(image))) as threads:
            try:
                answers = list(threads.map(lambda *item: self._outcome(client, *item), image, ask))
            finally:
                client.stop()
        self._has_answered = self._has_answered or not all(answer.failure for answer in answers)
        for answer in answers:
            if isinstance(answer.failure, ServerFailure) and self._refuses_all(answer.failure):
                raise ModelError(f"{answer.failure}; then the same command goes on")
        return answers

    def _refuses_all(self, failure: ServerFailure) -> bool:
        return failure.status in _NEVER or (failure.status in _NOT_AT_FIRST and not self._has_answered)

    def _outcome(self, client: Client, image: Image, ask: Ask) -> Answer:
        try:
            return self._answer(client, jpeg_of(image), ask)
        except ServerFailure as failure:
            if failure.status in _NEVER:
                client.stop()
            return Answer("", failure=failure.saying(f"{self.name}: {failure}"))

    def _answer(self, client: Client, jpeg: bytes, ask: Ask) -> Answer:
        limit = self._limit
        try:
            return self._asked(client, jpeg, ask, limit)
        except ServerFailure as failure:
            if failure.status != 400 or limit != "max_tokens" or "max_completion_tokens" not in str(failure):
                raise
        self._limit = "max_completion_tokens"  # the newer models of OpenAI know the limit by this name only
        return self._asked(client, jpeg, ask, self._limit)

    def _asked(self, client: Client, jpeg: bytes, ask: Ask, limit: str) -> Answer:
        seed = ask.seed % _SEEDS
        body = question(
            jpeg,
            ask.prompt,
            model=self._address.model,
            seed=seed,
            limit=limit,
            max_tokens=self._max_tokens,
            temperature=self._temperature,
        )
        return client.ask("/chat/completions", body, seed=seed, read=answer_of)

    def _client(self, *, tries: int, timeout_s: float) -> Client:
        return Client(self._address, tries=tries, timeout_s=timeout_s, backoff_s=self._backoff_s, pause=self._pause)
