"""Samples: what a subject answers to each problem. Asked once; a resumed run asks for those that are missing."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import kdtool
from kdtool_measuring import journal

if TYPE_CHECKING:
    from kdtool_pass_at_k import PassAtK
    from kdtool_pass_at_k._problem import Problem

__all__ = ["Sample", "file_of", "sampled"]


@dataclass(frozen=True)
class Sample:
    """An answer to a problem.

    `finish` says why it ended, as in `kdtool.TextAnswer`; `continues` whether it goes on behind the form's prompt: a server
    begins its own turn.
    """

    id: str
    problem: str
    text: str
    finish: str
    tokens: int
    continues: bool


def sampled(
    run: kdtool.RunInfo,
    subject: kdtool.Subject,
    problems: Sequence[Problem],
    evaluator: PassAtK,
) -> list[Sample] | None:
    """Return all samples of a subject, in the order of problems; None, and a line for the user, where it does not answer."""
    config, benchmark = evaluator.config, evaluator.benchmark
    wanted = {f"{problem.id}#{number}": problem for problem in problems for number in range(config.samples)}
    with journal(file_of(run, benchmark, subject, "samples")) as kept:
        missing = [name for name in wanted if name not in kept.records]
        if missing:
            opened = kdtool.open_subject(run, subject)
            reason = "no component opens it" if opened is None else _unfit(opened.value, config)
            if opened is None or reason:
                if opened is not None:
                    opened.value.close()
                run.say(f"{benchmark}: {subject.name} is left out, {reason}")
                return None
            with opened.value as runtime:
                continues = config.form == "base" or runtime.model is not None
                for answer in runtime.answer([_request(name, wanted[name], config, continues) for name in missing]):
                    problem, tokens = wanted[answer.id].id, answer.tokens_out
                    kept.add(asdict(Sample(answer.id, problem, answer.text, answer.finish, tokens, continues)))
                    run.hook.kdtool_progress(run, len(kept.records))
        return [Sample(**kept.records[name]) for name in wanted]


def file_of(run: kdtool.RunInfo, benchmark: str, subject: kdtool.Subject, what: str) -> Path:
    """Return the file below the run's folder that holds samples or verdicts of a subject."""
    return run.folder / (re.sub(r"[^\w.-]", "_", f"{benchmark}.{subject.name}") + f".{what}.jsonl")


def _unfit(runtime: kdtool.Runtime, config: PassAtK.Config) -> str:
    """Say why a subject cannot be asked in this form; "" where it can."""
    model = runtime.model
    if config.form == "chat" and model is not None and not model.tokenizer.chat_fingerprint:
        return "its tokenizer has no chat template (form: base asks without one)"
    return ""


def _request(name: str, problem: Problem, config: PassAtK.Config, continues: bool) -> kdtool.Request:
    form = problem.forms[config.form]
    seed = int.from_bytes(sha256(f"{config.seed} {name}".encode()).digest()[:4], "big") >> 1
    return kdtool.Request(
        id=name,
        prompt=form.prompt if continues else "",
        max_tokens=config.maximum_tokens,
        stop=form.stop if continues else (),
        temperature=config.temperature,
        seed=seed,
        turns=form.turns,
    )
