"""Figures of a server in Prometheus' text format."""

from __future__ import annotations

from dataclasses import asdict

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from kdtool_command_serve.acceptance import Acceptance
from kdtool_command_serve.engine import Answer, Engine
from kdtool_command_serve.pool import Pool

__all__ = ["Metrics"]

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
        self._first = Histogram(
            "kdtool_first_token_seconds",
            "From the request to the first token",
            ("model",),
            registry=registry,
            buckets=_SECONDS,
        )
        self._total = Histogram(
            "kdtool_answer_seconds",
            "From the request to the last token",
            ("model",),
            registry=registry,
            buckets=_SECONDS,
        )
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
