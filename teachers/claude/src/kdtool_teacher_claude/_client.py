"""The API, by Anthropic's SDK: each POST is sent once, and each failure is one of few kinds.

The SDK's own retries are off for everything that costs money: they would send a request again that may have been charged.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Awaitable, Mapping
from typing import Any
from urllib.parse import quote

import aiohttp
import anthropic
import httpx2
import kdtool

from kdtool_teacher_claude._config import ClaudeConfig, is_loopback, read_key

_STREAM_FROM = 8192
"""Answers with at least this number of tokens are streamed: a proxy would cut a silent connection."""
_OF_THIS_REQUEST = {400, 413, 422}
_LATER = {408, 409, 425, 429, 529}
"""Timeout, conflict, too early, rate and load: the same request may be answered later."""
_NO_CREDIT = "credit balance"
_SPEND_LIMIT = "spend_limit"
_MARK = "***"
_BATCHES = "/v1/messages/batches"
_OF_BATCH = ("id", "processing_status", "request_counts")
_WEB_PAGE = "a web page, perhaps of a proxy"
_SHOWN = 300


class RefusedError(Exception):
    """The service refuses this one request and charges nothing; others may fare better."""


class LimitedError(Exception):
    """The service refuses requests for now, and charges nothing."""

    def __init__(self, reason: str, headers: Mapping[str, str], *, overloaded: bool) -> None:
        super().__init__(reason)
        self.headers = headers
        self.overloaded = overloaded


class UnreachedError(Exception):
    """No connection came about, so nothing was sent."""


class DoubtfulError(Exception):
    """The request was sent, and no answer that can be read came back: it may have been charged."""


class GoneError(Exception):
    """The service has no such batch, or its results no longer."""


class Client:
    """Sends requests. All methods raise kdtool's errors for what concerns every request: key, credit, limits of money."""

    def __init__(self, config: ClaudeConfig, *, offline: bool) -> None:
        if offline and not is_loopback(config.url):
            raise kdtool.ServiceError(
                "the run is offline, and Claude's answers are not all stored yet; run again without --offline"
            )
        self._config = config
        self._key, self._key_place = read_key(config)
        self._key_forms = _forms(self._key)
        self._client = anthropic.AsyncAnthropic(
            api_key=self._key,
            base_url=config.url,
            max_retries=0,
            timeout=config.timeout,
            http_client=anthropic.DefaultAioHttpClient(
                follow_redirects=False,
                timeout=config.timeout,
                limits=httpx2.Limits(max_connections=config.concurrency, max_keepalive_connections=config.concurrency),
            ),
        )

    async def close(self) -> None:
        """Close all connections."""
        await self._client.close()

    async def require_model(self) -> None:
        """Ask whether the model exists, which is free."""
        try:
            await self._get(f"/v1/models/{self._config.model}")
        except (RefusedError, LimitedError, UnreachedError, DoubtfulError) as error:
            raise kdtool.ServiceError(f"url: {error}; look at the address and the network, and run again") from None

    async def send(self, body: Mapping[str, Any]) -> tuple[Any, Mapping[str, str]]:
        """Send a request once; return its message and the response's headers.

        Raises:
            RefusedError, LimitedError, UnreachedError, DoubtfulError: see each.
        """
        if body["max_tokens"] >= _STREAM_FROM:
            return await self._stream(body)
        response = await self._post("/v1/messages", body)
        return self._read(response), response.headers

    async def create_batch(self, items: list[dict[str, Any]]) -> str:
        """Submit a batch once; return the service's id. Raises as `send`."""
        return str(self._read(await self._post("/v1/messages/batches", {"requests": items}), "id")["id"])

    async def get_batch(self, remote: str) -> dict[str, Any]:
        """Return a batch as the service shows it."""
        found: dict[str, Any] = self._read(await self._get(f"/v1/messages/batches/{remote}"), *_OF_BATCH)
        return found

    async def list_batches(self) -> list[dict[str, Any]]:
        """Return all batches that the service knows, latest first."""
        found: list[dict[str, Any]] = []
        after = ""
        while True:
            page = self._read(await self._get(f"/v1/messages/batches?limit=100{after}"), "data")
            found += page["data"]
            if not page.get("has_more") or not page.get("last_id"):
                return found
            after = f"&after_id={page['last_id']}"

    async def results(self, remote: str) -> list[dict[str, Any]]:
        """Return the results of a batch that ended; lines that cannot be read are left out."""
        text = (await self._get(f"/v1/messages/batches/{remote}/results")).text
        entries = []
        for line in text.split("\n"):  # others of Unicode's line ends may be part of an answer
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            if isinstance(entry, dict):
                entries.append(entry)
        return entries

    async def _stream(self, body: Mapping[str, Any]) -> tuple[Any, Mapping[str, str]]:
        try:
            stream = await self._client.post(
                "/v1/messages",
                body={**body, "stream": True},
                cast_to=object,
                stream=True,
                stream_cls=anthropic.AsyncStream[Any],
            )
            async with stream:
                message: dict[str, Any] = {}
                async for event in stream:
                    if _add_event(message, event):
                        return message, stream.response.headers
            failure: Exception = DoubtfulError("the stream ended before the answer did")
        except Exception as error:
            failure = self._translate(error)
        raise failure

    async def _post(self, path: str, body: Mapping[str, Any]) -> httpx2.Response:
        return await self._ask(self._client.post(path, body=body, cast_to=httpx2.Response))

    async def _get(self, path: str) -> httpx2.Response:
        client = self._client.with_options(max_retries=self._config.retries)
        return await self._ask(client.get(path, cast_to=httpx2.Response))

    async def _ask(self, response: Awaitable[httpx2.Response]) -> httpx2.Response:
        try:
            return await response
        except Exception as error:
            failure = self._translate(error)
        raise failure  # outside of the handler: the SDK's error holds the request, and that the key

    def _read(self, response: httpx2.Response, *needed: str) -> Any:
        """Return the content of a response, which has to be an object with the keys `needed`, if any are.

        Raises:
            DoubtfulError: it has not.
        """
        try:
            content = response.json()
        except (ValueError, RecursionError) as error:
            what = _WEB_PAGE if _is_web_page(response) else f"not JSON: {self._shorten(str(error))}"
            raise DoubtfulError(f"the answer is {what}") from None
        if needed and not (isinstance(content, dict) and content.keys() >= {*needed}):
            raise DoubtfulError(f"the answer lacks {' or '.join(needed)}")
        return content

    def _translate(self, error: Exception) -> Exception:
        """Return one of our errors for one of the SDK, without anything that could contain the key."""
        if not isinstance(error, anthropic.APIStatusError) or error.status_code < 300:
            reason = self._shorten(f"{error.__cause__ or error}")
            if _is_unsent(error):
                return UnreachedError(f"{self._config.url} cannot be reached: {reason}")
            return DoubtfulError(f"no complete answer came: {reason or type(error).__name__}")
        status, reason = error.status_code, self._shorten(error.api_message or error.message)
        code, kind = error.error_code or "", error.type
        page = _is_web_page(error.response)
        reason = _WEB_PAGE if page else reason
        if status < 400 or (page and status < 500 and status not in {413, *_LATER}):
            return kdtool.ServiceError(
                f"url: {self._config.url} answers {status} ({reason}), not as the API does; look at the address and at "
                "proxies, and run again. Answers so far are kept"
            )
        if status in {401, 403} and kind != "billing_error":
            return kdtool.AuthenticationError(
                f"the key in {self._key_place} is refused ({status}: {reason}); set a valid one. Answers so far are kept"
            )
        if status == 402 or kind == "billing_error" or _SPEND_LIMIT in code or _NO_CREDIT in reason:
            return kdtool.AuthenticationError(
                f"the account pays for no more ({status}: {reason}); add credit or raise its spend limit, and run again. "
                "Answers so far are kept"
            )
        if status == 404 and f"{_BATCHES}/" in error.request.url.path:
            return GoneError(f"{status}: {reason}")
        if status == 404:
            return kdtool.UsageError(
                f"model: {self._config.model!r} is unknown to the service ({reason}); name another"
            )
        if status in _OF_THIS_REQUEST:
            return RefusedError(f"{status}: {reason}")
        if status in _LATER:
            return LimitedError(f"{status}: {reason}", error.response.headers, overloaded=status != 429)
        if status < 500:
            return RefusedError(f"{status}: {reason}")
        return DoubtfulError(f"{status}: {reason}")

    def _shorten(self, text: str) -> str:
        text = " ".join(text.split())
        for form in self._key_forms:
            text = text.replace(form, _MARK)
        return text[:_SHOWN]


def _forms(key: str) -> list[str]:
    """Return what is kept out of messages: the key as it is, percent-encoded, and as it shows within any Base64."""
    encoded = (base64.b64encode(b"-" * shift + key.encode()).decode() for shift in range(3))
    inner = {text[4:-4] for text in encoded}  # the rest depends on what stands before and after the key
    return sorted({key, quote(key), quote(key, safe=""), *inner} - {""}, key=len, reverse=True)


def _is_web_page(response: httpx2.Response) -> bool:
    return "html" in response.headers.get("content-type", "")


def _is_unsent(error: BaseException | None) -> bool:
    """Return whether no connection was made; httpx2 also raises `ConnectError` for one that broke later."""
    while error is not None:
        if isinstance(error, (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)):
            return True
        error = error.__cause__ or error.__context__
    return False


def _add_event(message: dict[str, Any], event: Mapping[str, Any]) -> bool:
    """Add an event of a stream to its message; return whether the message is complete."""
    kind = event.get("type")
    if kind == "message_start":
        message.update(event["message"])
        message["content"] = []
    elif kind == "content_block_start":
        message["content"].append(dict(event["content_block"]))
    elif kind == "content_block_delta" and event["delta"]["type"] == "text_delta":
        block = message["content"][event["index"]]
        block["text"] = block.get("text", "") + event["delta"]["text"]
    elif kind == "message_delta":
        message["stop_reason"] = event["delta"].get("stop_reason")
        counts = {name: value for name, value in (event.get("usage") or {}).items() if value is not None}
        message["usage"] = {**message.get("usage", {}), **counts}
    return kind == "message_stop"
