"""Answers of a subject, asked for once: each is on disk before the next one counts; a killed run asks for the rest."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Protocol, runtime_checkable

import kdtool

from kdtool_measuring._journal import journal

__all__ = [
    "Answer",
    "Counting",
    "answered",
    "bytes_of_exact_heads",
    "bytes_to_answer",
    "cannot",
    "file_of",
    "fitted",
    "opened",
    "seed_of",
    "unanswered",
]

_ABILITIES: Mapping[kdtool.Ability, str] = {
    "continue": "continue text, only answer what a user says",
    "converse": "answer in a conversation, only continue text",
    "prefill": "go on from the beginning of an answer",
    "score": "tell how likely a text is",
}
_WITHOUT = "which are longer than its context or refused by its server"
_TEXTS_AT_ONCE = 16
_STARTS = 4
"""Tokens that tokenizers put before a prompt by themselves, at most."""


@dataclass(frozen=True)
class Answer:
    """An answer to the request of the same id.

    `finish` says why it ended, as in `kdtool.TextAnswer`; `continues` whether it goes on behind the request's prompt, or
    begins a turn of its own because there was none. `reason` is what a server says why it refused.
    """

    id: str
    text: str
    finish: str
    tokens: int
    continues: bool
    reason: str = field(default="", kw_only=True)

    @property
    def missing(self) -> bool:
        """Whether there is none: the prompt is too long for the subject's context, or a server refuses it."""
        return self.finish == "refused" and not self.text


def answered(
    run: kdtool.RunInfo,
    subject: kdtool.Subject,
    ids: Sequence[str],
    ask: Callable[[str, kdtool.Runtime], kdtool.Request | None],
    *,
    evaluator: str,
    unfit: Callable[[kdtool.Runtime], str] | None = None,
) -> list[Answer] | None:
    """Return a subject's answers in the order of `ids`; None, and a line for the user, where it cannot be asked.

    They are kept in the run's folder, in `<evaluator>.<subject>.samples.jsonl`, and the subject is opened only if one is
    missing. Of what a request needs, `runtime.abilities` may lack something: then nothing is asked. How many requests got
    no answer (`Answer.missing`) is said; who answers none of them is left out. A run that goes on asks again what was
    refused before: a server may have more room by then.

    Args:
        run: the run that measures.
        subject: who is asked.
        ids: one for each request.
        ask: makes the request of an id; it may look at the opened subject. None where that cannot be asked whole, and
            shortened would be something else: it gets no answer.
        evaluator: who asks, for the file's name and for messages.
        unfit: says why an opened subject cannot be asked in this way, "" where it can; None takes all.
    """
    file = file_of(run, evaluator, subject, "samples")
    with journal(file, Answer, run.say, outdated=lambda one: one.finish == "refused") as kept:
        missing = [name for name in ids if name not in kept]
        if missing:
            with opened(run, subject, evaluator, unfit) as runtime:
                if runtime is None:
                    return None
                made = {name: ask(name, runtime) for name in missing}
                requests = {name: request for name, request in made.items() if request is not None}
                if lacking := _needed(requests.values()) - runtime.abilities:
                    run.say(f"{evaluator}: {subject.name} is left out, {cannot(min(lacking))}")
                    return None
                for name in (name for name in missing if name not in requests):
                    kept.add(Answer(name, "", "refused", 0, continues=True))
                for found in runtime.answer(requests.values()):
                    continues = bool(requests[found.id].prompt)
                    kept.add(
                        Answer(found.id, found.text, found.finish, found.tokens_out, continues, reason=found.reason)
                    )
                    run.hook.kdtool_progress(run, len(kept))
        answers = [kept[name] for name in ids]
    without = [one for one in answers if one.missing]
    reason = next((f" (the first: {one.reason})" for one in without if one.reason), "")
    if without and len(without) == len(answers):
        none = f"it answers none of the {len(without):,} prompts, {_WITHOUT}{reason}"
        run.say(f"{evaluator}: {subject.name} is left out, {none}")
        return None
    if without:
        some = f"{len(without):,} of {len(answers):,} prompts, {_WITHOUT}{reason}"
        run.say(f"{evaluator}: {subject.name} gave no answer to {some}: they count as failed")
    return answers


def unanswered(evaluator: str, subject: kdtool.Subject, answers: Sequence[Answer]) -> Iterator[kdtool.Measurement]:
    """Yield the share of requests without an answer as `<evaluator>.unanswered`, to stand beside scores; nothing for none.

    In scores they count as failed, so that all subjects are compared on the same items.
    """
    if count := sum(one.missing for one in answers):
        yield kdtool.Measurement(
            name=f"{evaluator}.unanswered",
            subject=subject.name,
            unit="fraction",
            value=count / len(answers),
            n=len(answers),
            higher_is_better=False,
            settings={"prompts": f"{_WITHOUT}; they count as failed"},
        )


def cannot(ability: kdtool.Ability) -> str:
    """Say that a subject lacks an ability, to stand behind "it is left out"."""
    return f"it cannot {_ABILITIES[ability]}"


def _needed(requests: Iterable[kdtool.Request]) -> set[kdtool.Ability]:
    return {"continue" if not request.turns else "prefill" if request.prompt else "converse" for request in requests}


@contextmanager
def opened(
    run: kdtool.RunInfo,
    subject: kdtool.Subject,
    evaluator: str,
    unfit: Callable[[kdtool.Runtime], str] | None = None,
) -> Iterator[kdtool.Runtime | None]:
    """Open a subject, and close it behind the block; None, and a line for the user, where that cannot be or it is unfit."""
    found = kdtool.open_subject(run, subject)
    if found is None:
        run.say(f"{evaluator}: {subject.name} is left out, no component opens it")
        yield None
        return
    with found.value as runtime:
        reason = unfit(runtime) if unfit else ""
        if reason:
            run.say(f"{evaluator}: {subject.name} is left out, {reason}")
        yield None if reason else runtime


def seed_of(seed: int, name: str) -> int:
    """Return the seed, of 31 bits, of the request of that id, so that its answer does not depend on what is asked beside."""
    return int.from_bytes(sha256(f"{seed} {name}".encode()).digest()[:4], "big") >> 1


@runtime_checkable
class Counting(Protocol):
    """A runtime that knows its context and counts tokens."""

    @property
    def context(self) -> int:
        """Tokens of a prompt and its answer at most; 0 for no limit."""

    def count(self, text: str) -> int:
        """Return how many tokens a text is."""


def fitted(prompt: str, runtime: kdtool.Runtime, maximum_tokens: int) -> str:
    """Return the end of a prompt that leaves room in the subject's context for an answer; all of it where that is not known.

    It is known of runtimes that are `Counting`, and of others with a model.

    Where the answer would take more than half of the context, the prompt gets the other half: answers end with the context.
    """
    context, count = _context(runtime)
    if not context:
        return prompt
    room = max(1, max(context - maximum_tokens, context // 2) - _STARTS)
    while (tokens := count(prompt)) > room:
        prompt = prompt[len(prompt) - len(prompt) * room // tokens :]
    return prompt


def _context(runtime: kdtool.Runtime) -> tuple[int, Callable[[str], int]]:
    """Return a subject's context, 0 where it is not known, and what counts tokens."""
    if isinstance(runtime, Counting):
        return runtime.context, runtime.count
    model = runtime.model
    if model is None:
        return 0, len
    return model.facts.context, lambda text: len(model.tokenizer.encode(text))


def bytes_to_answer(ahead: kdtool.RunForecast, tokens: int) -> int:
    """Return the memory of a student that answers: weights as saved, and keys and values of texts decoded together.

    `tokens` are those of one prompt and its answer.
    """
    student = ahead.models[ahead.student]
    head_size = student.head_size or student.hidden // student.heads
    values = 2 * student.layers * student.kv_heads * head_size * _TEXTS_AT_ONCE * tokens
    # Autocast does not shrink them: rotary embeddings of float32 states are float32. Weights that stay in bfloat16 do;
    # float16 is widened to float32, since no device measures in it.
    saved = ahead.student_bytes // student.parameters
    return ahead.student_bytes + (saved if student.dtype == "bfloat16" else 4) * values


def bytes_of_exact_heads(ahead: kdtool.RunForecast, teachers: Sequence[str] = ()) -> int:
    """Return the bytes of float32 copies of the student's head and of one teacher's, the largest.

    Logits that are measured are projected in float32. A head that is float32 already is not copied.
    """
    student = ahead.models[ahead.student]
    copied = [student] if ahead.student_bytes < 4 * student.parameters else []
    described = [ahead.models[name] for name in teachers if name in ahead.models]
    copied += sorted((one for one in described if one.dtype != "float32"), key=_head_bytes)[-1:]
    return sum(map(_head_bytes, copied))


def _head_bytes(facts: kdtool.ModelFacts) -> int:
    return 4 * facts.vocabulary * facts.hidden


def file_of(run: kdtool.RunInfo, evaluator: str, subject: kdtool.Subject, what: str) -> Path:
    """Return the file below the run's folder in which something of a subject is kept, such as its samples."""
    return run.folder / (re.sub(r"[^\w.-]", "_", f"{evaluator}.{subject.name}") + f".{what}.jsonl")
