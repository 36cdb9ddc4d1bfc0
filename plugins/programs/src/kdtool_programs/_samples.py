"""Samples: a subject's answers to each problem."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import kdtool
from kdtool_asking import Answer, collect_answers, fit_prompt, seed_of

if TYPE_CHECKING:
    from kdtool_programs._config import PassAtKConfig
    from kdtool_programs._problem import Problem

__all__ = ["Sample", "collect_samples"]


@dataclass(frozen=True)
class Sample(Answer):
    """An answer to a problem. If it does not continue the form's prompt, a server began a separate turn."""

    problem: str


def collect_samples(
    run: kdtool.RunInfo,
    subject: kdtool.Subject,
    problems: Sequence[Problem],
    config: PassAtKConfig,
    benchmark: str,
) -> list[Sample] | None:
    """Return all samples of a subject, in the order of problems; None, with a message to the user, if it cannot answer."""
    wanted = {f"{problem.id}#{number}": problem for problem in problems for number in range(config.samples)}

    def request(name: str, runtime: kdtool.Runtime) -> kdtool.Request:
        return _request(name, wanted[name], config, runtime)

    def unfit(runtime: kdtool.Runtime) -> str:
        return _unfit(runtime, config)

    answers = collect_answers(run, subject, list(wanted), request, evaluator=benchmark, unfit=unfit)
    return None if answers is None else [Sample(**asdict(answer), problem=wanted[answer.id].id) for answer in answers]


def _unfit(runtime: kdtool.Runtime, config: PassAtKConfig) -> str:
    """Return why a subject cannot be asked in this form; "" if it can."""
    model = runtime.model
    if config.form == "chat" and model is not None and not model.tokenizer.chat_fingerprint:
        return "its tokenizer has no chat template (form: base asks without one)"
    return ""


def _request(name: str, problem: Problem, config: PassAtKConfig, runtime: kdtool.Runtime) -> kdtool.Request:
    """Make a request.

    A bare prompt that is too long for the model is cut at its beginning, as lm-evaluation-harness does. A conversation is
    never cut.
    """
    form = problem.forms[config.form]
    continues = config.form == "base" or "prefill" in runtime.abilities
    behind = form.suffix or ""
    prompt = form.prompt if form.turns else fit_prompt(form.prompt, runtime, config.maximum_tokens, behind)
    return kdtool.Request(
        id=name,
        prompt=prompt if continues else "",
        max_tokens=config.maximum_tokens,
        stop=form.stop if continues else (),
        temperature=config.temperature,
        seed=seed_of(config.seed, name),
        turns=form.turns,
        suffix=form.suffix,
    )
