"""For tests: the Messages API with batches, with faults as configured and a bill."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from aiohttp import web

from kdtool_testing.servers.claude_replies import (
    CACHED_FROM,
    MODEL,
    PRICES,
    count_text,
    count_tokens,
    key_of,
    price_of,
    thinking_tokens_of,
    write_reply,
)

KEY = "sk-test-not-a-key-of-anyone"
"""The only key that the server accepts."""
_HEADERS = {"requests": "requests", "input-tokens": "input_tokens", "output-tokens": "output_tokens"}


@dataclass
class Faults:
    """Shares of requests that go wrong, each from 0 to 1, and limits.

    `reset_before` breaks the connection and charges nothing, `reset_after` breaks it when the request is charged. `cut` and
    `no_stop` end a stream early, `broken_json` sends half an answer, `error_charged` answers 500 and charges.
    """

    seed: int = 0
    reset_before: float = 0.0
    reset_after: float = 0.0
    cut: float = 0.0
    no_stop: float = 0.0
    broken_json: float = 0.0
    error_charged: float = 0.0
    overloaded: float = 0.0
    refusal: float = 0.0
    truncated: float = 0.0
    bad_request: float = 0.0
    delay: float = 0.0
    requests_per_minute: int = 0
    burst: int = 0
    spend_limit: int = 0
    status: int = 0
    error: str = ""
    batch_seconds: float = 0.0
    batch_reset_after: float = 0.0
    batch_errored: float = 0.0
    batch_expired: float = 0.0
    batch_missing: float = 0.0


@dataclass
class Bill:
    """The server's charges: picodollars, charges by request, batches, and answers by status."""

    picodollars: int = 0
    delivered: int = 0
    charges: dict[str, int] = field(default_factory=dict)
    statuses: dict[str, int] = field(default_factory=dict)
    batches: int = 0
    under_way: int = 0
    most_under_way: int = 0
    cache_writes: int = 0


class MessagesServer:
    """The server's state. Set `faults`, and `write`, which answers a body; `bill` is what was charged so far."""

    def __init__(self, faults: Faults | None = None) -> None:
        self.faults = faults or Faults()
        self.bill = Bill()
        self.write: Callable[[dict[str, Any]], str] = write_reply
        self.bodies: list[dict[str, Any]] = []
        self.url = ""
        self._random = random.Random(self.faults.seed)
        self._cached: set[str] = set()
        self._level = float(self.faults.burst or self.faults.requests_per_minute)
        self._filled = time.monotonic()
        self._batches: dict[str, dict[str, Any]] = {}

    def application(self) -> web.Application:
        """Return the server's routes."""
        app = web.Application(client_max_size=300 * 2**20)
        app.router.add_post("/v1/messages", self._messages)
        app.router.add_post("/v1/messages/batches", self._create_batch)
        app.router.add_get("/v1/messages/batches", self._list_batches)
        app.router.add_get("/v1/messages/batches/{id}", self._get_batch)
        app.router.add_get("/v1/messages/batches/{id}/results", self._results)
        app.router.add_get("/v1/models/{id}", self._model)
        app.router.add_get("/bill", self._bill)
        app.router.add_post("/faults", self._set_faults)
        return app

    def _refuse(self, request: web.Request) -> web.Response | None:
        faults = self.faults
        if KEY not in {
            request.headers.get("x-api-key"),
            request.headers.get("authorization", "").removeprefix("Bearer "),
        }:
            return self._error(401, "authentication_error", "invalid x-api-key")
        if faults.status:
            details = {"error_code": faults.error} if faults.error else None
            kind = {402: "billing_error", 403: "permission_error"}.get(faults.status, "invalid_request_error")
            return self._error(faults.status, kind, faults.error or "no", details)
        if faults.spend_limit and self.bill.picodollars >= faults.spend_limit:
            message = "You have reached your specified API usage limits"
            return self._error(429, "rate_limit_error", message, {"error_code": "enforced_spend_limit_reached"})
        return None

    async def _messages(self, request: web.Request) -> web.StreamResponse:
        self.bill.under_way += 1
        self.bill.most_under_way = max(self.bill.most_under_way, self.bill.under_way)
        try:
            return await self._message(request)
        finally:
            self.bill.under_way -= 1

    async def _message(self, request: web.Request) -> web.StreamResponse:
        faults, body = self.faults, await request.json()
        if (refused := self._refuse(request)) is not None:
            return refused
        if faults.requests_per_minute and (wait := self._wait_for_bucket()):
            headers = {**self._limits(), "retry-after": str(max(1, round(wait)))}
            return self._error(429, "rate_limit_error", "too many requests", headers=headers)
        known = frozenset(self._cached)  # a prefix is in the cache once the answer that wrote it has begun
        if faults.delay:
            await asyncio.sleep(self._random.random() * 2 * faults.delay)
        if self._happens(faults.reset_before):
            return self._reset(request)
        if self._happens(faults.overloaded):
            return self._error(529, "overloaded_error", "Overloaded")
        if body["model"] not in PRICES:
            return self._error(404, "not_found_error", f"model: {body['model']}")
        refused_fields = {"temperature", *(("thinking", "output_config") if body["model"] == MODEL else ())}
        if refused_fields & body.keys() or self._happens(faults.bad_request):
            return self._error(400, "invalid_request_error", "prompt is too long: 300000 tokens > 200000 maximum")
        message = self._answer(body, known)
        self._charge(body, message["usage"], 1)
        if self._happens(faults.reset_after):
            return self._reset(request)
        if self._happens(faults.error_charged):
            return self._error(500, "api_error", "Internal server error")
        if body.get("stream"):
            return await self._stream(request, message)
        text = json.dumps(message)
        if self._happens(faults.broken_json):
            text = text[: len(text) // 2]
        else:
            self._deliver(message, 1)
        self._note(200)
        return web.Response(text=text, content_type="application/json", headers=self._limits())

    async def _stream(self, request: web.Request, message: dict[str, Any]) -> web.StreamResponse:
        faults, usage = self.faults, message["usage"]
        response = web.StreamResponse(headers={"content-type": "text/event-stream", **self._limits()})
        await response.prepare(request)
        start = {**message, "content": [], "stop_reason": None, "usage": {**usage, "output_tokens": 1}}
        text = "".join(block.get("text", "") for block in message["content"])
        end = {"stop_reason": message["stop_reason"], "stop_sequence": None}
        events: list[dict[str, Any]] = [
            {"type": "message_start", "message": start},
            {"type": "content_block_start", "index": 0, "content_block": {"type": "thinking", "thinking": ""}},
            {"type": "content_block_delta", "index": 0, "delta": {"type": "signature_delta", "signature": "s"}},
            {"type": "content_block_stop", "index": 0},
            {"type": "content_block_start", "index": 1, "content_block": {"type": "text", "text": ""}},
            {"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": text[:3]}},
            {"type": "ping"},
            {"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": text[3:]}},
            {"type": "content_block_stop", "index": 1},
            {"type": "message_delta", "delta": end, "usage": {**usage, "input_tokens": None}},
            {"type": "message_stop"},
        ]
        cut, no_stop = self._happens(faults.cut), self._happens(faults.no_stop)
        for event in events[: 7 if cut or no_stop else None]:
            await response.write(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode())
        self._note(200)
        if cut:
            return self._reset(request)
        if not no_stop:
            self._deliver(message, 1)
        await response.write_eof()
        return response

    def _answer(self, body: dict[str, Any], known: set[str] | frozenset[str]) -> dict[str, Any]:
        text = self.write(body)
        tokens, reason = max(1, len(text) // 4), "end_turn"
        thinking = min(thinking_tokens_of(body), body["max_tokens"])
        room = body["max_tokens"] - thinking
        if self._happens(self.faults.truncated) or tokens > room:
            tokens, reason = room, "max_tokens"
            text = text[: 4 * tokens]
        for stop in body.get("stop_sequences", ()):
            if stop in text:
                text, reason = text[: text.index(stop)], "stop_sequence"
        content = [{"type": "thinking", "thinking": "", "signature": "s"}] if thinking else []
        content.append({"type": "text", "text": text})
        if self._happens(self.faults.refusal):
            content, reason = [], "refusal"
        return {
            "id": f"msg_{key_of(body)[:16]}",
            "type": "message",
            "role": "assistant",
            "model": body["model"],
            "content": content,
            "stop_reason": reason,
            "stop_sequence": None,
            "usage": {
                **self._usage(body, thinking + tokens, known),
                "output_tokens_details": {"thinking_tokens": thinking},
            },
        }

    def _usage(self, body: dict[str, Any], tokens: int, known: set[str] | frozenset[str]) -> dict[str, Any]:
        system, read, written, hour = body.get("system", ""), 0, 0, False
        every = count_tokens(body)
        if isinstance(system, list) and any("cache_control" in block for block in system):
            prefix = json.dumps(system)
            size = count_text("".join(block["text"] for block in system))
            if size >= CACHED_FROM:
                hour = any(block.get("cache_control", {}).get("ttl") == "1h" for block in system)
                read, written = (size, 0) if prefix in known else (0, size)
                self.bill.cache_writes += bool(written)
                self._cached.add(prefix)
        return {
            "input_tokens": every - read - written,
            "cache_creation_input_tokens": written,
            "cache_creation": {
                "ephemeral_5m_input_tokens": 0 if hour else written,
                "ephemeral_1h_input_tokens": written if hour else 0,
            },
            "cache_read_input_tokens": read,
            "output_tokens": tokens,
            "service_tier": "standard",
        }

    def _charge(self, body: dict[str, Any], usage: dict[str, Any], half: int) -> None:
        key = key_of(body)
        self.bill.picodollars += price_of(body["model"], usage, half)
        self.bill.charges[key] = self.bill.charges.get(key, 0) + 1
        self.bodies.append(body)

    def _deliver(self, message: dict[str, Any], half: int) -> None:
        self.bill.delivered += price_of(message["model"], message["usage"], half)

    async def _create_batch(self, request: web.Request) -> web.StreamResponse:
        if (refused := self._refuse(request)) is not None:
            return refused
        if self._happens(self.faults.reset_before):
            return self._reset(request)
        asked, number = (await request.json())["requests"], len(self._batches)
        batch = {"id": f"msgbatch_{number:06}", "requests": asked, "at": time.time(), "lines": None}
        self._batches[batch["id"]] = batch
        self.bill.batches += 1
        if self._happens(self.faults.batch_reset_after):
            return self._reset(request)
        return web.json_response(self._show(batch))

    def _show(self, batch: dict[str, Any]) -> dict[str, Any]:
        ended = time.time() - batch["at"] >= self.faults.batch_seconds
        counts = dict.fromkeys(("processing", "succeeded", "errored", "canceled", "expired"), 0)
        if ended:
            self._process(batch)
            for line in batch["lines"]:
                counts[line["result"]["type"]] += 1
        else:
            counts["processing"] = len(batch["requests"])
        at = datetime.fromtimestamp(batch["at"], UTC).isoformat()
        return {
            "id": batch["id"],
            "type": "message_batch",
            "processing_status": "ended" if ended else "in_progress",
            "request_counts": counts,
            "created_at": at,
            "expires_at": at,
            "ended_at": at if ended else None,
            "archived_at": None,
            "cancel_initiated_at": None,
            "results_url": f"{self.url}/v1/messages/batches/{batch['id']}/results" if ended else None,
        }

    def _process(self, batch: dict[str, Any]) -> None:
        if batch["lines"] is not None:
            return
        lines = []
        for item in batch["requests"]:
            result: dict[str, Any]
            if self._happens(self.faults.batch_errored):
                error = {"type": "invalid_request_error", "message": "prompt is too long"}
                result = {"type": "errored", "error": {"type": "error", "error": error}}
            elif self._happens(self.faults.batch_expired):
                result = {"type": "expired"}
            else:
                message = self._answer(item["params"], self._cached)
                self._charge(item["params"], message["usage"], 2)
                result = {"type": "succeeded", "message": message}
            lines.append({"custom_id": item["custom_id"], "result": result})
        self._random.shuffle(lines)
        batch["lines"] = lines

    async def _list_batches(self, request: web.Request) -> web.Response:
        if (refused := self._refuse(request)) is not None:
            return refused
        names = list(reversed(self._batches))
        after = request.query.get("after_id")
        names = names[names.index(after) + 1 :] if after else names
        size = int(request.query.get("limit", "20"))
        page = [self._show(self._batches[name]) for name in names[:size]]
        last = page[-1]["id"] if page else None
        return web.json_response(
            {"data": page, "has_more": len(names) > size, "first_id": page[0]["id"] if page else None, "last_id": last}
        )

    async def _get_batch(self, request: web.Request) -> web.StreamResponse:
        if self._happens(self.faults.reset_before):
            return self._reset(request)
        if (batch := self._batches.get(request.match_info["id"])) is None:
            return self._error(404, "not_found_error", "no such batch")
        return self._refuse(request) or web.json_response(self._show(batch))

    async def _results(self, request: web.Request) -> web.StreamResponse:
        batch = self._batches[request.match_info["id"]]
        self._process(batch)
        lines = [line for line in batch["lines"] if not self._happens(self.faults.batch_missing)]
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        if self._happens(self.faults.cut):
            response = web.StreamResponse(headers={"content-type": "application/x-jsonl"})
            await response.prepare(request)
            await response.write(text[: len(text) // 2].encode())
            return self._reset(request)
        for line in lines:
            if line["result"]["type"] == "succeeded" and not batch.get("delivered"):
                self._deliver(line["result"]["message"], 2)
        batch["delivered"] = True
        return web.Response(text=text, content_type="application/x-jsonl", charset="utf-8")

    async def _model(self, request: web.Request) -> web.Response:
        if (refused := self._refuse(request)) is not None:
            return refused
        if request.match_info["id"] not in PRICES:
            return self._error(404, "not_found_error", f"model: {request.match_info['id']}")
        return web.json_response(
            {
                "id": request.match_info["id"],
                "type": "model",
                "display_name": "Claude",
                "created_at": "2025-05-14T00:00:00Z",
            }
        )

    async def _bill(self, _: web.Request) -> web.Response:
        return web.json_response(asdict(self.bill))

    async def _set_faults(self, request: web.Request) -> web.Response:
        self.faults = Faults(**await request.json())
        return web.json_response({})

    def _happens(self, share: float) -> bool:
        return share > 0 and self._random.random() < share

    def _reset(self, request: web.Request) -> web.StreamResponse:
        self._note(0)
        if request.transport is not None:
            request.transport.abort()
        return web.Response()

    def _wait_for_bucket(self) -> float:
        """Return 0 and take a request from the bucket, or the seconds until one is allowed."""
        rate, now = self.faults.requests_per_minute / 60, time.monotonic()
        full = float(self.faults.burst or self.faults.requests_per_minute)
        self._level = min(full, self._level + (now - self._filled) * rate)
        self._filled = now
        if self._level < 1:
            return (1 - self._level) / rate
        self._level -= 1
        return 0.0

    def _limits(self) -> dict[str, str]:
        limit = self.faults.requests_per_minute
        if not limit:
            return {}
        name = "anthropic-ratelimit-requests"
        reset = datetime.now(UTC).isoformat()
        return {f"{name}-limit": str(limit), f"{name}-remaining": str(int(self._level)), f"{name}-reset": reset}

    def _error(
        self,
        status: int,
        kind: str,
        message: str,
        details: dict[str, str] | None = None,
        headers: dict[str, str] | None = None,
    ) -> web.Response:
        self._note(status)
        error = {"type": kind, "message": message, **({"details": details} if details else {})}
        return web.json_response({"type": "error", "error": error}, status=status, headers=headers)

    def _note(self, status: int) -> None:
        self.bill.statuses[str(status)] = self.bill.statuses.get(str(status), 0) + 1
