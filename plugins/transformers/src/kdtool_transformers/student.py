"""The part that all students on transformers share: saved folders, a teacher's tokenizer, and estimates.

Student plugins subclass `CausalStudent`. Light: torch and transformers load in hooks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import kdtool

if TYPE_CHECKING:
    from kdtool_transformers.tokenizer import TransformersTokenizer


class CausalStudent(kdtool.Student):
    """A student whose folder is a causal language model of transformers.

    One that starts from random weights implements `kdtool_tokenizer` and `kdtool_build_student`; one that reads weights also
    `kdtool_describe`, which must not read any.
    """

    _or_own = ""
    """Another remedy if no teacher has a tokenizer that fits."""

    def kdtool_identity(self, run: kdtool.RunInfo) -> Mapping[str, str]:
        from kdtool_transformers.tokenizer import TransformersTokenizer

        tokenizer = self.kdtool_tokenizer(run)
        return {"tokenizer": tokenizer.identity} if isinstance(tokenizer, TransformersTokenizer) else {}

    def kdtool_describe(self, run: kdtool.RunInfo) -> kdtool.LanguageModel:
        return self._build_without_values(run)

    def _build_without_values(self, run: kdtool.RunInfo) -> kdtool.LanguageModel:
        import torch

        with torch.device("meta"):
            return self.kdtool_build_student(run)

    def tokenizer_of(self, run: kdtool.RunInfo, source: str) -> TransformersTokenizer:
        """Return the tokenizer of a teacher.

        Raises:
            kdtool.UsageError: `source` is not a teacher of the recipe with a tokenizer of transformers.
        """
        from kdtool_transformers.tokenizer import TransformersTokenizer

        known = [
            name for name in run.implementing("kdtool_tokenizer") if name.partition(".")[0] in {"teacher", "teachers"}
        ]
        if source not in known:
            there = f"there are: {', '.join(known)}" if known else "there are none"
            raise kdtool.UsageError(
                f"source: {source} is not a teacher of this recipe with a tokenizer; {there}{self._or_own}"
            )
        tokenizer = run.component(source, kdtool.Teacher).kdtool_tokenizer(run)
        if not isinstance(tokenizer, TransformersTokenizer):
            raise kdtool.UsageError(
                f"source: the tokenizer of {source} is not one of transformers; name another teacher{self._or_own}"
            )
        return tokenizer

    def kdtool_estimate(self, run: kdtool.RunInfo, ahead: kdtool.RunForecast) -> Iterator[kdtool.Estimate]:
        from kdtool_torch import student_estimates

        yield from student_estimates(ahead, self.others())

    def others(self) -> Iterable[Mapping[str, Any]]:
        """Return settings under which the student would be smaller or larger, for `kdtool check` to propose."""
        return ()

    def kdtool_open(self, run: kdtool.RunInfo, subject: kdtool.Subject) -> kdtool.Runtime | None:
        from kdtool_torch import compute_dtype, pick_device

        from kdtool_transformers.opening import open_model
        from kdtool_transformers.runtime import TransformersRuntime

        if subject.role not in ("student", "control", "base") or subject.path is None:
            return None
        device = pick_device()
        model = open_model(subject.path, device=device, offline=True)
        return TransformersRuntime(model, compute_dtype("auto", device))
