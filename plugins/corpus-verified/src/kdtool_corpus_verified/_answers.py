"""Ask the teacher, once per sample: each answer is on disk before the next one counts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import kdtool
from kdtool_asking import ask_teacher, kept_answers, seed_of

if TYPE_CHECKING:
    from kdtool_corpus_verified._config import VerifiedConfig

__all__ = ["ask_for_answers"]

_STOP = ("\nclass", "\nassert", '\n"""', "\nprint", "\nif", "\n```")
"""Stop strings of bigcode-evaluation-harness for MBPP (task mbpp), and the end of a block of code."""
_INSTRUCTION = "Write Python code that does what this says. Answer with one block of code that holds all of it.\n\n"


def ask_for_answers(
    run: kdtool.RunInfo, config: VerifiedConfig, prompts: Mapping[str, str], file: Path, *, again: bool
) -> Mapping[str, kdtool.TextAnswer]:
    """Return the answer to each prompt, by the prompts' ids.

    Args:
        run: the run, which reaches the teacher.
        config: the teacher, and the settings of its answers.
        prompts: by id; the id determines the seed for sampling.
        file: journal of the answers.
        again: retry requests that were refused before.

    Raises:
        UsageError: the teacher refuses all requests.
        PluginError: the teacher skips a request.
    """
    with kept_answers(run, file, again=again) as kept:
        missing = [name for name in prompts if name not in kept]
        if missing:
            requests = (_request(name, prompts[name], config, run.seed) for name in missing)
            ask_teacher(run, config.ask, requests, kept, progress=lambda: run.hook.kdtool_progress(run, len(kept)))
        for name in missing:
            if name not in kept:
                raise kdtool.PluginError(
                    f"{run.hook.owner(config.ask)} returned no answer to {name!r}; kdtool_answer must yield one per request"
                )
        return {name: kept[name] for name in prompts}


def _request(name: str, prompt: str, config: VerifiedConfig, seed: int) -> kdtool.Request:
    chats = config.form == "chat"
    return kdtool.Request(
        id=name,
        prompt="" if chats else prompt,
        max_tokens=config.max_tokens,
        stop=config.stop if config.stop is not None else () if chats else _STOP,
        temperature=config.temperature,
        seed=seed_of(seed, name),
        turns=(("user", _INSTRUCTION + prompt),) if chats else (),
    )
