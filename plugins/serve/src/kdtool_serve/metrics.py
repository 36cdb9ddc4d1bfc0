"""Figures of a server in Prometheus' text format, with the share of completions that were accepted.

Acceptance is estimated from the text before the cursor in later requests. Nothing leaves the server's memory.
"""

from __future__ import annotations

from collections import deque
from dataclasses import asdict, dataclass
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from kdtool_serve.engine import Answer, Engine
from kdtool_serve.pool import Pool

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120, 300)


class Metrics:
    """Counts of one server; each has a separate registry."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._registry = registry = CollectorRegistry()
        self.responses = Counter("kdtool_responses", "HTTP responses", ("path", "status"), registry=registry)
        self._answers = Counter("kdtool_answers", "Answers that ended", ("model", "end"), registry=registry)
        self._prompt = Counter("kdtool_prompt_tokens", "Tokens of prompts", ("model",), registry=registry)
        self._generated = Counter("kdtool_generated_tokens", "Generated tokens", ("model",), registry=registry)
        times = partial(Histogram, labelnames=("model",), registry=registry, buckets=_SECONDS)
        self._first = times("kdtool_first_token_seconds", "From the request to the first token")
        self._total = times("kdtool_answer_seconds", "From the request to the last token")
        self.acceptance = Acceptance()
        self._completions = Gauge(
            "kdtool_completions",
            "Completions asked for, shown, and accepted as estimated from later requests",
            ("model", "what"),
            registry=registry,
        )
        self._queued = Gauge("kdtool_queued", "Answers that wait", ("model",), registry=registry)
        self._running = Gauge("kdtool_running", "Slots in use", ("model",), registry=registry)
        self._slots = Gauge("kdtool_slots", "Slots", ("model",), registry=registry)
        self._memory = Gauge("kdtool_memory_bytes", "Memory of loaded models", ("model",), registry=registry)
        pool.finished = self._observe

    def text(self) -> bytes:
        """Return all figures."""
        for name, engine in self._pool.engines.items():
            self._queued.labels(name).set(engine.queue_length)
            self._running.labels(name).set(len(engine.running))
            self._slots.labels(name).set(engine.streams if engine.runtime else 0)
            for what, number in asdict(self.acceptance.count(name)).items():
                self._completions.labels(name, what).set(number)
            self._memory.labels(name).set((engine.runtime.memory() or 0) if engine.runtime else 0)
        return generate_latest(self._registry)

    def _observe(self, engine: Engine, answer: Answer) -> None:
        self.acceptance.add(engine.name, answer)
        self._answers.labels(engine.name, answer.end).inc()
        self._prompt.labels(engine.name).inc(answer.tokens_in)
        self._generated.labels(engine.name).inc(answer.tokens_out)
        if answer.first:
            self._first.labels(engine.name).observe(answer.first - answer.created)
            self._total.labels(engine.name).observe(answer.last - answer.created)


_KEPT = 64
"""Shown completions that may still be accepted."""
_TAIL = 256
"""Characters before a completion that are looked for in later requests."""


@dataclass
class Completions:
    """Counts of one model: completions asked for, shown (finished, with text) and accepted."""

    asked: int = 0
    shown: int = 0
    accepted: int = 0


@dataclass(frozen=True)
class _Shown:
    model: str
    before: str
    text: str


class Acceptance:
    """Counts completions per model.

    A completion counts as accepted once a later request, to any model, has more text before the cursor that begins with it.
    Text that ends with the completion is not enough, since editors ask ahead for the text after one that they still show.
    It is forgotten when a request has other text in its place.
    """

    def __init__(self) -> None:
        self._counts: dict[str, Completions] = {}
        self._open: deque[_Shown] = deque(maxlen=_KEPT)

    def count(self, model: str) -> Completions:
        """Return the counts of a model."""
        return self._counts.setdefault(model, Completions())

    def add(self, model: str, answer: Answer) -> None:
        """Count an answer that ended. Leaves out chats, answers to the page, and prompts that only warm a cache."""
        request = answer.request
        if request.turns or answer.task.natural_end or request.max_tokens == 1 or answer.end == "refused":
            return
        self._look_for_accepted(request.prompt)
        counts = self.count(model)
        counts.asked += 1
        text = answer.text.rstrip()
        if answer.end in {"stop", "length"} and text and request.prompt.strip():
            counts.shown += 1
            self._open.append(_Shown(model, request.prompt[-_TAIL:], text))

    def _look_for_accepted(self, prompt: str) -> None:
        """Find open completions in the text before the cursor, the newest first."""
        counted: list[range] = []
        for shown in reversed([*self._open]):
            at = prompt.rfind(shown.before)
            span = range(at + len(shown.before), at + len(shown.before) + len(shown.text))
            after = prompt[span.start :]
            if at < 0 or shown.text.startswith(after.rstrip()):
                continue  # it may still be accepted
            self._open.remove(shown)
            # Of several for the same place, such as one after each typed letter, the newest counts.
            is_new = all(span.stop <= other.start or other.stop <= span.start for other in counted)
            if after.startswith(shown.text) and is_new:
                self.count(shown.model).accepted += 1
                counted.append(span)
