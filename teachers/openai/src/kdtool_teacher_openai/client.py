"""The client of one server with the OpenAI protocol, also for other teachers on servers.

`Server` runs an asyncio client in a separate thread, so that many requests are under way while the caller, and its
Ctrl-C, stay plain. A request is sent again only if no answer to it was received: the connection failed or broke, time
ran out, or the server said so (408, 409, 425, 429, 5xx). An answer that cannot be read is not asked for again. Errors name
the remedy.

Documents of a batch are separate requests. The server's tokenizer is compared with the one that a recipe names.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import kdtool
import openai
from anyio.from_thread import start_blocking_portal
from kdtool_measuring import readable
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt, wait_random_exponential

from kdtool_teacher_openai._config import OpenAIConfig, local_addresses

if TYPE_CHECKING:
    from collections.abc import Awaitable


T = TypeVar("T")
R = TypeVar("R")
_AGAIN = {408, 409, 425, 429}
_THIS_REQUEST = {400, 413, 422}
_NO_MONEY = {"insufficient_quota", "billing_hard_limit_reached", "billing_not_active"}
_LONGEST_WAIT = 600.0
_SHOWN = 300
_MARK = "***"


class RefusedError(Exception):
    """The server refuses this one request, or its answer cannot be read; others may fare better."""


class Server:
    """A connection to one server. Nothing is sent before it is asked something."""

    def __init__(self, config: OpenAIConfig, *, offline: bool) -> None:
        local_addresses(config.url, offline=offline)
        self._config = config
        self._key = _read_key(config.key_variable)
        self._under_way: set[Future[Any]] = set()
        with ExitStack() as stack:
            self._portal = stack.enter_context(start_blocking_portal())
            self._client = self._portal.call(self._connect)
            stack.callback(self._portal.call, self._client.close)
            self._stack = stack.pop_all()

    async def _connect(self) -> openai.AsyncOpenAI:
        # Redirects and proxies could lead elsewhere; a key of one's own account is none of this server's business.
        return openai.AsyncOpenAI(
            api_key=self._key or "none",
            base_url=self._config.url,
            organization="",
            project="",
            max_retries=0,
            timeout=self._config.timeout,
            default_headers={
                "Connection": "close"
            },  # one that was kept and that the server has dropped fails a request
            http_client=openai.DefaultAsyncHttpxClient(follow_redirects=False, trust_env=False),
        )

    def close(self) -> None:
        """End the thread of the connection, and with it what is under way."""
        for future in tuple(self._under_way):
            future.cancel()
        self._stack.close()

    def get(self, path: str) -> Any:
        """Return what the server has at a path, as plain data. Raises as `post`."""
        return self._wait_for(self._send, lambda: self._client.get(path, cast_to=object))

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """Return the server's answer to a request, as plain data.

        Raises:
            RefusedError: this request is refused, or the answer is not valid JSON, or is an error.
            AuthenticationError: the key is missing or refused.
            UsageError: the path or the model does not exist.
            ServiceError: no answer came.
        """
        return self._wait_for(self.sent, path, body)

    async def sent(self, path: str, body: Mapping[str, Any]) -> Any:
        """Do what `post` does, in the client's own thread."""
        return await self._send(lambda: self._client.post(path, body=dict(body), cast_to=object))

    def at_once(self, items: Iterable[T], ask: Callable[[T], Awaitable[R]], limit: int) -> Iterator[tuple[T, R]]:
        """Yield items and their results of `ask`, as they come; at most `limit` of them are under way.

        If one fails, no more are begun, and the error is raised when those under way have been yielded: what was
        answered is never lost.
        """
        source, pending = iter(items), dict[Future[R], T]()
        failure: BaseException | None = None
        try:
            while True:
                while failure is None and len(pending) < limit:
                    try:
                        item = next(source)
                    except StopIteration:
                        break
                    pending[self._begin(ask, item)] = item
                if not pending:
                    break
                for future in wait(pending, return_when=FIRST_COMPLETED).done:
                    item = pending.pop(future)
                    if error := future.exception():
                        failure = failure or error
                    else:
                        yield item, future.result()
            if failure is not None:
                raise failure
        finally:
            for future in pending:
                future.cancel()

    def _wait_for(self, ask: Callable[..., Awaitable[R]], *items: Any) -> R:
        future = self._begin(ask, *items)
        try:
            return future.result()
        finally:
            future.cancel()  # after an interrupt

    def _begin(self, ask: Callable[..., Awaitable[R]], *items: Any) -> Future[R]:
        future: Future[R] = self._portal.start_task_soon(ask, *items)
        self._under_way.add(future)
        future.add_done_callback(self._under_way.discard)
        return future

    async def _send(self, send: Callable[[], Awaitable[Any]]) -> Any:
        attempts = AsyncRetrying(
            retry=retry_if_exception(_may_be_sent_again),
            stop=stop_after_attempt(1 + self._config.retries),
            wait=_pause,
            reraise=True,
        )
        try:
            async for attempt in attempts:
                with attempt:
                    answer = await send()
        except openai.APIError as error:
            raise self._to_error(error) from None  # what is left out may hold the key
        except UnicodeEncodeError as error:
            raise RefusedError(f"the request contains text that cannot be sent: {error}") from None
        except (ValueError, RecursionError) as error:
            # Other bytes than UTF-8, nesting without an end, and numbers of thousands of digits are refused as well.
            raise RefusedError(f"the answer is not valid JSON: {error}") from None
        if isinstance(answer, str):  # of another content type
            raise RefusedError(f"the answer is not JSON but {answer[:60]!r}")
        if isinstance(answer, Mapping) and (reason := answer.get("error")):
            raise RefusedError(f"the answer is an error: {self._shorten(_error_message(reason))}")
        return answer

    def _to_error(self, error: openai.APIError) -> Exception:
        where = f"the server at {self._config.url}"
        reason = self._shorten(_error_message(error.body) or error.message)
        if isinstance(error, openai.APITimeoutError):
            return kdtool.ServiceError(f"{where} did not answer within {self._config.timeout:g} s; see `timeout`")
        if not isinstance(error, openai.APIStatusError):
            cause = self._without_key(str(error.__cause__ or error.message))
            return kdtool.ServiceError(f"{where} cannot be reached: {cause}; start it, or look at `url`")
        status = error.status_code
        if status in {401, 403}:
            refused = "requires an API key: set `key_variable` to its environment variable"
            if self._config.key_variable:
                refused = f"refuses the key in {self._config.key_variable}"
            return kdtool.AuthenticationError(f"{where} {refused} ({status}: {reason}). Answers so far are kept")
        if status == 402 or error.code in _NO_MONEY:
            return kdtool.AuthenticationError(f"{where} wants to be paid ({status}: {reason}). Answers so far are kept")
        if status in _THIS_REQUEST:
            return RefusedError(f"{status}: {reason}")
        if status in _AGAIN or status >= 500:
            tries = f"after {1 + self._config.retries} attempts" if self._config.retries else "at once"
            return kdtool.ServiceError(f"{where} fails with {status} {tries}: {reason}. Answers so far are kept")
        model = repr(self._config.model)
        return kdtool.UsageError(f"{where} does not know this path or the model {model} ({status}): {reason}")

    def _shorten(self, text: str) -> str:
        return self._without_key(" ".join(readable(text).split()))[:_SHOWN]

    def _without_key(self, text: str) -> str:
        return text.replace(self._key, _MARK) if self._key else text


def _error_message(error: Any) -> str:
    """Return the message of an error as servers send it: {"message": "…"}, or only the text."""
    said = error.get("message", error) if isinstance(error, Mapping) else error
    return str(said or "")


def _read_key(variable: str | None) -> str:
    if variable is None:
        return ""
    key = os.environ.get(variable, "").strip()
    if not key:
        raise kdtool.AuthenticationError(f"key_variable: {variable} is not set; export it with the server's key")
    return key


def _may_be_sent_again(error: BaseException) -> bool:
    if isinstance(error, openai.APIStatusError):
        status = error.status_code
        return (status in _AGAIN or status >= 500) and error.code not in _NO_MONEY
    return isinstance(error, openai.APIConnectionError)


_BACK_OFF = wait_random_exponential(multiplier=0.5, max=30)


def _pause(state: RetryCallState) -> float:
    """Return what the server asks to wait for, else longer from attempt to attempt."""
    error = state.outcome.exception() if state.outcome else None
    if isinstance(error, openai.APIStatusError):
        with suppress(ValueError):  # a date, which no local server sends
            if (asked := float(error.response.headers.get("retry-after", ""))) > 0:
                return min(asked, _LONGEST_WAIT)
    return _BACK_OFF(state)


def choice_of(answer: Any) -> Mapping[str, Any]:
    """Return the one choice of an answer.

    Raises:
        RefusedError: there is none.
    """
    choices = answer.get("choices") if isinstance(answer, Mapping) else None
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], Mapping):
        raise RefusedError("the answer contains no choices")
    return choices[0]


SAMPLES = (
    "def add(a, b):\n    return a + b\n",
    "x = 10_000 + 3.14159e-12  # 2026\n\tif x:\n",
    "  naïve café — 日本語 🙂\r\n",
    "#include <stdio.h>\nint main(void) { return 0x7f; }",
    "SELECT *\n\n\nFROM t;    ",
)
"""Text that tokenizers split differently: indentation, digits, other scripts, ends of lines."""


def compare_tokenizers(
    server: Server, config: OpenAIConfig, tokenizer: kdtool.Tokenizer, name: str, otherwise: str
) -> None:
    """Compare the server's tokenizer with the one named, on a few texts.

    Args:
        server: the server.
        config: its address and the name of its model.
        tokenizer: the tokenizer whose token ids will be sent.
        name: where that one is from, for errors.
        otherwise: what else the user can do, for errors.

    Raises:
        UsageError: it splits them in another way, or does not return how.
    """
    root = config.url.removesuffix("/v1")
    for sample in SAMPLES:
        # Each server reads its own key: vLLM `prompt`, llama.cpp `content`.
        body = {"model": config.model, "prompt": sample, "content": sample}
        try:
            reply = server.post(f"{root}/tokenize", {**body, "add_special_tokens": False, "add_special": False})
        except (RefusedError, kdtool.UsageError) as error:
            raise kdtool.UsageError(
                f"the server does not report how it splits text ({error}), so token ids cannot be trusted to be those of "
                f"{name}: {otherwise}"
            ) from None
        served = reply.get("tokens") if isinstance(reply, Mapping) else None
        expected = tokenizer.encode(sample)
        if served != expected:
            raise kdtool.UsageError(
                f"the server's tokenizer is not {name}: of a sample it returned {str(served)[:60]} instead of "
                f"{str(expected)[:60]}. Name its model's tokenizer, or {otherwise}"
            )


class Piece(NamedTuple):
    """A document of a row: its tokens, the positions whose next token is requested, and their positions in the signal."""

    tokens: list[int]
    places: list[int]
    targets: list[int]


def documents_of(batch: kdtool.Batch) -> Iterator[Piece]:
    """Yield the documents of a batch in which something is labelled; each is a separate request."""
    target = 0
    rows = zip(batch.input_ids.tolist(), batch.document.tolist(), batch.labels.tolist(), strict=True)
    for ids, documents, labels in rows:
        piece: Piece | None = None
        number = -1
        for token, document, label in zip(ids, documents, labels, strict=True):
            if piece is None or document != number:
                if piece is not None and piece.places:
                    yield piece
                piece, number = Piece([], [], []), document
            piece.tokens.append(token)
            if label != -100:
                piece.places.append(len(piece.tokens) - 1)
                piece.targets.append(target)
                target += 1
        if piece is not None and piece.places:
            yield piece
