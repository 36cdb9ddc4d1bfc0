"""Answers of a subject, asked once per request: each is on disk before the next one counts.

A resumed run asks for the rest.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Protocol, runtime_checkable

import kdtool

from kdtool_measuring.journals import journal
from kdtool_measuring.measurements import cannot, open_for_measuring
from kdtool_measuring.teachers import AskingProgress

_WITHOUT = "which are longer than its context or refused by its server"
_TEXTS_AT_ONCE, _TOKENS_AT_ONCE, _BYTES_AT_ONCE = 32, 16384, 2**30
"""Most texts that a model of transformers answers at once, and most tokens, or bytes of keys and values if that is more."""
_STARTS = 4
"""Maximum number of tokens that tokenizers prepend to a prompt."""


@dataclass(frozen=True)
class Answer:
    """An answer to the request of the same id.

    `finish` is the reason why it ended, as in `kdtool.TextAnswer`. `continues` is true if the answer continues the request's
    prompt, and false if it is a separate turn. `reason` is a server's message about a refusal.
    """

    id: str
    text: str
    finish: str
    tokens: int
    continues: bool
    reason: str = field(default="", kw_only=True)

    @property
    def missing(self) -> bool:
        """True if there is no answer: the prompt exceeds the subject's context, or a server refuses it."""
        return self.finish == "refused" and not self.text


def collect_answers(
    run: kdtool.RunInfo,
    subject: kdtool.Subject,
    ids: Sequence[str],
    ask: Callable[[str, kdtool.Runtime], kdtool.Request | None],
    *,
    evaluator: str,
    unfit: Callable[[kdtool.Runtime], str] | None = None,
) -> list[Answer] | None:
    """Return a subject's answers in the order of `ids`; None, with a message to the user, if it cannot be asked.

    Answers are stored in the run's folder, in `<evaluator>.<subject>.samples.jsonl`, and the subject is opened only if one
    is missing. A subject is skipped if `runtime.abilities` lacks what a request needs, or if it answers no request. A
    message counts the requests without an answer (`Answer.missing`). A resumed run retries refused requests, since a server
    may have more room by then.

    Args:
        run: the run.
        subject: the subject to ask.
        ids: one per request.
        ask: makes the request for an id, given the opened subject. Returns None for a request that does not fit and must
            not be shortened; it gets no answer.
        evaluator: the calling evaluator, for the file name and messages.
        unfit: returns why an opened subject cannot be asked in this way, "" if it can. None accepts all.
    """
    file = file_of(run, evaluator, subject, "samples")
    with journal(file, Answer, run.say, outdated=lambda answer: answer.finish == "refused") as kept:
        missing = [name for name in ids if name not in kept]
        if missing:
            with open_for_measuring(run, subject, evaluator, unfit) as runtime:
                if runtime is None:
                    return None
                made = {name: ask(name, runtime) for name in missing}
                requests = {name: request for name, request in made.items() if request is not None}
                if lacking := set(map(_ability_for, requests.values())) - runtime.abilities:
                    run.say(f"{evaluator}: {subject.name} is left out, {cannot(min(lacking))}")
                    return None
                for name in (name for name in missing if name not in requests):
                    kept.add(Answer(name, "", "refused", 0, continues=True))
                progress = AskingProgress(run, len(ids), getattr(runtime, "spent", None))
                for reply in runtime.answer(requests.values()):
                    continues = bool(requests[reply.id].prompt)
                    kept.add(
                        Answer(reply.id, reply.text, reply.finish, reply.tokens_out, continues, reason=reply.reason)
                    )
                    progress.show(len(kept))
        answers = [kept[name] for name in ids]
    without = [answer for answer in answers if answer.missing]
    reason = next((f" (the first: {answer.reason})" for answer in without if answer.reason), "")
    if without and len(without) == len(answers):
        none = f"it answers none of the {len(without):,} prompts, {_WITHOUT}{reason}"
        run.say(f"{evaluator}: {subject.name} is left out, {none}")
        return None
    if without:
        some = f"{len(without):,} of {len(answers):,} prompts, {_WITHOUT}{reason}"
        run.say(f"{evaluator}: {subject.name} gave no answer to {some}: they count as failed")
    return answers


def measure_missing_answers(
    evaluator: str, subject: kdtool.Subject, answers: Sequence[Answer]
) -> Iterator[kdtool.Measurement]:
    """Yield the share of requests without an answer as `<evaluator>.unanswered`; nothing if all were answered.

    Scores count them as failed, so that all subjects are compared on the same items.
    """
    if count := sum(answer.missing for answer in answers):
        yield kdtool.Measurement(
            name=f"{evaluator}.unanswered",
            subject=subject.name,
            unit="fraction",
            value=count / len(answers),
            n=len(answers),
            higher_is_better=False,
            settings={"prompts": f"{_WITHOUT}; they count as failed"},
        )


class AnsweringRuntime(kdtool.Runtime):
    """Answers as a teacher on a server does; closing it leaves the teacher's connection open. For `spent` see `Priced`."""

    def __init__(
        self,
        answer: Callable[[Iterable[kdtool.Request]], Iterator[kdtool.TextAnswer]],
        abilities: frozenset[kdtool.Ability],
        spent: Callable[[], str] | None = None,
    ) -> None:
        self._answer = answer
        self.abilities = abilities
        self.spent = spent

    def answer(self, requests: Iterable[kdtool.Request]) -> Iterator[kdtool.TextAnswer]:
        """Yield answers as they come. Raises as `kdtool_answer`."""
        return self._answer(requests)


def readable(text: str) -> str:
    """Return a text that can be sent and stored: each lone surrogate, which JSON can name, becomes U+FFFD."""
    return re.sub("[\ud800-\udfff]", "\N{REPLACEMENT CHARACTER}", text)


def cut_at_stops(text: str, request: kdtool.Request) -> str:
    """Return the text of an answer up to the first of the request's stop strings."""
    return text[: min((at for stop in request.stop if (at := text.find(stop)) >= 0), default=None)]


def _ability_for(request: kdtool.Request) -> kdtool.Ability:
    if request.turns:
        return "prefill" if request.prompt else "converse"
    return "continue" if request.suffix is None else "infill"


def seed_of(seed: int, name: str) -> int:
    """Return a 31-bit seed for the request of that id, so that its answer does not depend on the other requests."""
    return int.from_bytes(sha256(f"{seed} {name}".encode()).digest()[:4], "big") >> 1


@runtime_checkable
class Counting(Protocol):
    """A runtime that knows its context and counts tokens."""

    @property
    def context(self) -> int:
        """Maximum tokens of a prompt and its answer together; 0 for no limit."""

    def count(self, text: str) -> int:
        """Return the number of tokens of a text."""


def fit_prompt(prompt: str, runtime: kdtool.Runtime, maximum_tokens: int, behind: str = "") -> str:
    """Return as much of a prompt's end as leaves room for an answer in the subject's context; all of it if that is unknown.

    The text after a missing middle, if there is one, is never cut.
    The context is known for `Counting` runtimes, and for others with a model. If the answer would fill more than half of
    the context, the prompt gets the other half, and the answer ends with the context.
    """
    context, count = _context(runtime)
    if not context:
        return prompt
    room = max(1, max(context - maximum_tokens, context // 2) - _STARTS - (count(behind) if behind else 0))
    while (tokens := count(prompt)) > room:
        prompt = prompt[len(prompt) - len(prompt) * room // tokens :]
    return prompt


def _context(runtime: kdtool.Runtime) -> tuple[int, Callable[[str], int]]:
    """Return a subject's context, 0 if unknown, and a function that counts tokens."""
    if isinstance(runtime, Counting):
        return runtime.context, runtime.count
    model = runtime.model
    if model is None:
        return 0, len
    return model.facts.context, lambda text: len(model.tokenizer.encode(text))


def bytes_to_answer(ahead: kdtool.RunForecast, tokens: int) -> int:
    """Return the bytes that a student needs to answer: weights as saved, and the keys and values of a batch.

    `tokens` is the length of one prompt with its answer.
    """
    student = ahead.models[ahead.student]
    # Autocast does not shrink keys and values: rotary embeddings of float32 states are float32. bfloat16 weights do;
    # float16 is widened to float32, since no device measures in it.
    saved = ahead.student_bytes // student.parameters
    itemsize = saved if student.dtype == "bfloat16" else 4
    per_token = replace(student, layers=student.layers + 1).cache_bytes(itemsize, 1)  # one layer's are copied to grow
    most = max(_TOKENS_AT_ONCE, _BYTES_AT_ONCE // per_token)
    return ahead.student_bytes + per_token * max(tokens, min(_TEXTS_AT_ONCE * tokens, most))


def file_of(run: kdtool.RunInfo, evaluator: str, subject: kdtool.Subject, what: str) -> Path:
    """Return the file in the run's folder for one kind of a subject's records, such as its samples."""
    return run.folder / (re.sub(r"[^\w.-]", "_", f"{evaluator}.{subject.name}") + f".{what}.jsonl")
