"""The filter `decontamination`: removes training text that contains a problem of the recipe's benchmarks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import kdtool

if TYPE_CHECKING:
    from kdtool_overlap._benchmarks import Benchmarks, Match

__all__ = ["Decontamination"]


class Decontamination(kdtool.Filter):
    """Rejects examples that share an n-gram of words, or renamed code, with a problem of one of the recipe's evaluators.

    N-grams of more than two problems of a benchmark do not count, nor do lists and repetitions. Code is found under other
    names, in another format and without its comments. Held-out examples are filtered like those of the split "train".
    """

    needs_hook = "kdtool_problems"

    class Config(kdtool.Config):
        """Settings of `decontamination`."""

        n: int = kdtool.Field(default=10, ge=3, le=100)
        """Words per n-gram: names, keywords and numbers, ignoring punctuation. DeepSeek-Coder's filter uses 10
        (arXiv 2401.14196), GPT-3's 13, PaLM's 8."""

    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._benchmarks: Benchmarks | None = None

    def kdtool_identity(self, run: kdtool.RunInfo) -> Mapping[str, str]:
        """Collect the evaluators' problems, and return the SHA-256 of these.

        Raises:
            kdtool.UsageError: no evaluator publishes any.
        """
        from kdtool_overlap._benchmarks import digest_of, problems_of

        return {"problems": digest_of(problems_of(run, "decontamination"))}

    def kdtool_filter(self, run: kdtool.RunInfo, examples: Sequence[kdtool.Example]) -> Sequence[str | None]:
        """Return the benchmark of the problem that an example contains, or None.

        Raises:
            kdtool.UsageError: no evaluator has problems.
        """
        from kdtool_overlap._benchmarks import Benchmarks, problems_of
        from kdtool_overlap._words import whole_text_of

        if self._benchmarks is None:
            self._benchmarks = Benchmarks(problems_of(run, "decontamination"), self.config.n)
        return [self._reason(matches) for matches in self._benchmarks.found_in([*map(whole_text_of, examples)])]

    def _reason(self, matches: Sequence[Match]) -> str | None:
        shared = dict.fromkeys(match.benchmark for match in matches if not match.is_renamed)
        if shared:
            return f"{self.config.n} words of {', '.join(shared)}"[:80]
        renamed = dict.fromkeys(match.benchmark for match in matches)
        return f"renamed code of {', '.join(renamed)}"[:80] if renamed else None
