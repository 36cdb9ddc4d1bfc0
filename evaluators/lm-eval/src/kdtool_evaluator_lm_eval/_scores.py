"""A subject as a model of the harness, and the scores of documents as measurements.

Each reply is on disk before the next one counts.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import version
from math import log
from typing import Any, Literal

import kdtool
from kdtool_measuring import (
    Answer,
    Item,
    collect_answers,
    file_of,
    fit_prompt,
    journal,
    make_measurement,
    measure_missing_answers,
    open_for_measuring,
    seed_of,
    unfit_to_score,
)
from kdtool_torch import score_continuations, score_texts
from lm_eval import evaluate
from lm_eval.api.instance import Instance
from lm_eval.api.metrics import bits_per_byte, mean, perplexity, weighted_perplexity
from lm_eval.api.model import LM
from lm_eval.api.task import Task

from kdtool_evaluator_lm_eval._tasks import SEED, generation_of, quiet

_PAIRS_AT_ONCE = 64


class LeftOutError(Exception):
    """The subject cannot reply to the task's requests; a message to the user names the reason."""


@dataclass(frozen=True)
class _Likelihood:
    """A reply to a request for a likelihood; `is_greedy`: each token is the likeliest one. `value` in nats."""

    id: str
    value: float
    is_greedy: bool


class SubjectModel(LM):  # type: ignore[misc] # the harness has no types
    """Replies to the requests of one task by a subject; `answers` are those to requests for text."""

    def __init__(self, run: kdtool.RunInfo, subject: kdtool.Subject, task: Task, name: str, form: str) -> None:
        super().__init__()
        self._run, self._subject, self._name = run, subject, f"lm-eval.{name}"
        self._compares_tokens = task.OUTPUT_TYPE == "loglikelihood"
        self.is_chat, self._stderr = form == "chat", sys.stderr
        self.answers: Sequence[Answer] = ()

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Return log P(continuation | context) of each request, and whether greedy decoding would produce it.

        Raises:
            LeftOutError: the subject cannot score texts, or does not show which token is the likeliest if the task needs it.
        """
        return [(reply.value, reply.is_greedy) for reply in self._likelihoods(requests, self._unfit, _by_pairs)]

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        """Return the log-likelihood of each text, scored as by the evaluator `perplexity`.

        Raises:
            LeftOutError: the subject cannot score texts.
        """
        return [reply.value for reply in self._likelihoods(requests, unfit_to_score, _by_texts)]

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """Return the text that continues each prompt.

        Raises:
            LeftOutError: the subject does not answer.
        """
        repeats: Counter[str] = Counter()
        wanted: dict[str, Instance] = {}
        names = []
        for request in requests:
            key = _key(request)
            names.append(f"{key}#{repeats[key]}")
            repeats[key] += 1
            wanted[names[-1]] = request

        def ask(name: str, runtime: kdtool.Runtime) -> kdtool.Request:
            context, settings = wanted[name].args
            return self._request(name, context, settings, runtime)

        with redirect_stderr(self._stderr):
            answers = collect_answers(
                self._run, self._subject, list(wanted), ask, evaluator=self._name, unfit=self._unfit_to_chat
            )
        if answers is None:
            raise LeftOutError
        self.answers = answers
        texts = {answer.id: answer.text for answer in answers}
        return [texts[name] for name in names]

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Return a conversation as JSON: the subject applies its own template to it."""
        turns = [(turn["role"], turn["content"]) for turn in chat_history]
        prompt = "" if add_generation_prompt else turns.pop()[1]
        return json.dumps([turns, prompt])

    @property
    def tokenizer_name(self) -> str:
        """A name for caches of requests, which are not used."""
        return self._subject.name

    def _request(self, name: str, context: str, settings: Mapping[str, Any], runtime: kdtool.Runtime) -> kdtool.Request:
        given = generation_of(settings)
        until, tokens = given["until"], given["max_gen_toks"]
        turns, prompt = json.loads(context) if self.is_chat else ((), fit_prompt(context, runtime, tokens))
        return kdtool.Request(
            id=name,
            prompt=prompt,
            max_tokens=tokens,
            stop=tuple(filter(None, [until] if isinstance(until, str) else until)),
            temperature=given["temperature"] if given["do_sample"] else 0.0,
            seed=seed_of(SEED, name),
            turns=tuple((role, content) for role, content in turns),
            top_p=given.get("top_p", 1.0),
            top_k=given.get("top_k", 0),
        )

    def _likelihoods(self, requests: Sequence[Instance], unfit: Any, score: Any) -> list[_Likelihood]:
        wanted = {_key(request): request for request in requests}
        file = file_of(self._run, self._name, self._subject, "likelihoods")
        with redirect_stderr(self._stderr), journal(file, _Likelihood, self._run.say) as kept:
            missing = [name for name in wanted if name not in kept]
            if missing:
                with open_for_measuring(self._run, self._subject, self._name, unfit) as runtime:
                    if runtime is None:
                        raise LeftOutError
                    replies = score(runtime, [wanted[name].args for name in missing])
                    for number, value, is_greedy in replies:
                        kept.add(_Likelihood(missing[number], value, is_greedy))
                        self._run.hook.kdtool_progress(self._run, len(kept), len(wanted))
            return [kept[_key(request)] for request in requests]

    def _unfit(self, runtime: kdtool.Runtime) -> str:
        if self._compares_tokens and runtime.model is None:
            return "it does not expose the model's predictions"
        return unfit_to_score(runtime)

    def _unfit_to_chat(self, runtime: kdtool.Runtime) -> str:
        has_template = runtime.model is None or runtime.model.tokenizer.chat_fingerprint
        return "" if has_template or not self.is_chat else "its tokenizer has no chat template; set form: base"


def _by_pairs(runtime: kdtool.Runtime, pairs: Sequence[tuple[str, str]]) -> Iterator[tuple[int, float, bool]]:
    """Yield the number of each pair of context and continuation, its log-likelihood, and whether it is greedy.

    By tokens where the model is accessible, as the harness computes it. Other subjects score the context with and without
    the continuation.
    """
    if runtime.model is not None:
        tokenizer = runtime.model.tokenizer
        tokens = [_encode_pair(tokenizer, *pair) for pair in pairs]
        yield from score_continuations(runtime.model, tokens)
        return
    for start in range(0, len(pairs), _PAIRS_AT_ONCE):
        group = pairs[start : start + _PAIRS_AT_ONCE]
        texts = list(dict.fromkeys(text for context, after in group for text in (context, context + after)))
        scores = dict(zip(texts, runtime.score(texts), strict=True))
        for number, (context, after) in enumerate(group, start):
            yield number, scores[context + after].log_likelihood - scores[context].log_likelihood, False


def _by_texts(runtime: kdtool.Runtime, texts: Sequence[tuple[str]]) -> Iterator[tuple[int, float, bool]]:
    asked = [text for (text,) in texts]
    scores = runtime.score(asked)
    if (model := runtime.model) is not None:
        tokenizer, window = model.tokenizer, min(_WINDOW, model.facts.context or _WINDOW)
        encoded = lambda group: list(map(tokenizer.encode, group))  # noqa: E731
        scores = score_texts(model, asked, window, encoded, context=_beginning(tokenizer))
    for number, score in enumerate(scores):
        yield number, score.log_likelihood, False


def _beginning(tokenizer: kdtool.Tokenizer) -> tuple[int, ...]:
    """Return the ids that the harness puts before a text: kdtool scores one after `scoring_context` everywhere else."""
    return tokenizer.document_start or (tokenizer.end_of_text,)


def _encode_pair(tokenizer: kdtool.Tokenizer, context: str, continuation: str) -> tuple[list[int], list[int]]:
    """Return the ids of context and continuation as the harness splits them: spaces between them go to the continuation."""
    if not context:
        return [*_beginning(tokenizer)], tokenizer.encode(continuation)
    stripped = context.rstrip()
    before, whole = tokenizer.encode(stripped), tokenizer.encode(context + continuation)
    return [*tokenizer.missing_start(whole), *before], whole[len(before) :]


def _key(request: Instance) -> str:
    return sha256(json.dumps([request.request_type, *request.args], sort_keys=True).encode()).hexdigest()[:24]


_WINDOW = 2048
"""Tokens of a text that are read at once at most."""
_FRACTIONS = frozenset({"acc", "acc_norm", "acc_bytes", "acc_mutual_info", "exact_match", "em", "f1"})
"""Metrics whose scores of documents are from 0 to 1."""
_UNITS: Mapping[str, str] = {"word_perplexity": "per word", "byte_perplexity": "per byte", "perplexity": "per target"}


def measure_task(
    run: kdtool.RunInfo, subject: kdtool.Subject, task: Task, name: str, model: SubjectModel, most: int | None
) -> Iterator[kdtool.Measurement]:
    """Yield the metrics of a task; nothing, with a message to the user, if the subject cannot reply."""
    is_chat = model.is_chat
    try:
        with quiet():
            results = evaluate(
                model, {"tasks": {name: task}, "groups": {}}, limit=most, bootstrap_iters=0,
                apply_chat_template=is_chat, fewshot_as_multiturn=is_chat,
            )  # fmt: skip
    except LeftOutError:
        return
    samples: Sequence[Mapping[str, Any]] = results["samples"][name]
    settings = {**_settings(task, samples), "form": "chat" if is_chat else "base"}
    for metric, filter_ in dict.fromkeys((metric, each["filter"]) for each in samples for metric in each["metrics"]):
        of_filter = [each for each in samples if each["filter"] == filter_ and metric in each["metrics"]]
        full = f"lm-eval.{name}.{metric}" + ("" if filter_ == "none" else f".{filter_}")
        yield _measurement(run, subject, task, full, metric, of_filter, settings)
    yield from measure_missing_answers(f"lm-eval.{name}", subject, model.answers)


def _measurement(
    run: kdtool.RunInfo,
    subject: kdtool.Subject,
    task: Task,
    name: str,
    metric: str,
    samples: Sequence[Mapping[str, Any]],
    settings: Mapping[str, str],
) -> kdtool.Measurement:
    """Return a metric with an item for each document; without items if it exists only for all documents together."""
    aggregate = task.aggregation().get(metric, mean)
    higher = bool(task.higher_is_better().get(metric, True))
    scale = _scale(metric, aggregate)
    if scale is None:
        value = float(aggregate([sample[metric] for sample in samples]))
        known = {**settings, "interval": "none: the metric exists only for all documents together"}
        return kdtool.Measurement(name, subject.name, "score", value, len(samples), higher, settings=known)
    unit, transform = scale
    items = [Item(str(sample["doc_id"]), *_parts(sample[metric], aggregate), _texts_of(sample)) for sample in samples]
    return make_measurement(
        items, run, subject,
        name=name, unit=unit, higher_is_better=higher, settings=settings, transform=transform,
    )  # fmt: skip


def _scale(metric: str, aggregate: Any) -> tuple[str, Literal["identity", "exp"]] | None:
    """Return a metric's unit and the transform of the mean of its documents' scores; None if it has no such scores."""
    if aggregate is mean:
        return "fraction" if metric in _FRACTIONS else "score", "identity"
    if aggregate is bits_per_byte:
        return "bits per byte", "identity"
    return (_UNITS.get(metric, metric), "exp") if aggregate in (perplexity, weighted_perplexity) else None


def _parts(value: Any, aggregate: Any) -> tuple[float, float]:
    """Return sum and weight of a document's score."""
    if aggregate is mean:
        return float(value), 1.0
    likelihood, weight = value if isinstance(value, tuple | list) else (value, 1)
    return -float(likelihood) / (log(2) if aggregate is bits_per_byte else 1.0), float(weight)


def _texts_of(sample: Mapping[str, Any]) -> Mapping[str, str]:
    """Return the texts that a report shows: the answer of a task that generates, and its target."""
    reply = sample["resps"][0][0]
    return {"answer": reply, "target": str(sample["target"])} if isinstance(reply, str) else {}


def _settings(task: Task, samples: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    asked = sha256(json.dumps([[each["doc_hash"], each["arguments"]] for each in samples], default=str).encode())
    return {
        "harness": f"lm-evaluation-harness {version('lm_eval')}",
        "task version": str(task.VERSION),
        "examples before each document": str(task.get_config("num_fewshot")),
        "documents": str(len({each["doc_id"] for each in samples})),
        "requests": asked.hexdigest()[:12],
    }
