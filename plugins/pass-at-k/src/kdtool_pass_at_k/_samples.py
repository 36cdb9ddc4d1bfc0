"""Samples: what a subject answers to each problem."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import kdtool
from kdtool_measuring import Answer, answered, fitted, seed_of

if TYPE_CHECKING:
    from kdtool_pass_at_k._config import PassAtKConfig
    from kdtool_pass_at_k._problem import Problem

__all__ = ["Sample", "sampled"]


@dataclass(frozen=True)
class Sample(Answer):
    """An answer to a problem. Where it does not continue the form's prompt, a server has begun its own turn."""

    problem: str


def sampled(
    run: kdtool.RunInfo,
    subject: kdtool.Subject,
    problems: Sequence[Problem],
    config: PassAtKConfig,
    benchmark: str,
) -> list[Sample] | None:
    """Return all samples of a subject, in the order of problems; None, and a line for the user, where it does not answer."""
    wanted = {f"{problem.id}#{number}": problem for problem in problems for number in range(config.samples)}

    def request(name: str, runtime: kdtool.Runtime) -> kdtool.Request:
        return _request(name, wanted[name], config, runtime)

    def unfit(runtime: kdtool.Runtime) -> str:
        return _unfit(runtime, config)

    answers = answered(run, subject, list(wanted), request, evaluator=benchmark, unfit=unfit)
    return None if answers is None else [Sample(**asdict(one), problem=wanted[one.id].id) for one in answers]


def _unfit(runtime: kdtool.Runtime, config: PassAtKConfig) -> str:
    """Say why a subject cannot be asked in this form; "" where it can."""
    model = runtime.model
    if config.form == "chat" and model is not None and not model.tokenizer.chat_fingerprint:
        return "its tokenizer has no chat template (form: base asks without one)"
    return ""


def _request(name: str, problem: Problem, config: PassAtKConfig, runtime: kdtool.Runtime) -> kdtool.Request:
    """Make a request.

    Of a bare prompt that is too long for the model its end is asked, as lm-evaluation-harness does. A conversation is asked
    whole: without its beginning it would be none.
    """
    form = problem.forms[config.form]
    continues = config.form == "base" or "prefill" in runtime.abilities
    prompt = form.prompt if form.turns else fitted(form.prompt, runtime, config.maximum_tokens)
    return kdtool.Request(
        id=name,
        prompt=prompt if continues else "",
        max_tokens=config.maximum_tokens,
        stop=form.stop if continues else (),
        temperature=config.temperature,
        seed=seed_of(config.seed, name),
        turns=form.turns,
    )
