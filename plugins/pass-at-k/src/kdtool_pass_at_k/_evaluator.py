"""The base of evaluators that run programs: samples, their verdicts, pass@k."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

import kdtool

from kdtool_pass_at_k._config import PassAtKConfig
from kdtool_pass_at_k._estimator import pass_at_k
from kdtool_pass_at_k._problem import Limits, Problem, digest_of
from kdtool_pass_at_k._verdicts import Judged

if TYPE_CHECKING:
    from kdtool_pass_at_k._samples import Sample

__all__ = ["PassAtK"]


class PassAtK(kdtool.Evaluator):
    """Base of evaluators that ask for programs: subclasses give `benchmark`, `harness` and `problems`."""

    benchmark: ClassVar[str] = ""
    """The name before the measurement's: `humaneval` gives `humaneval.pass@1`."""
    harness: ClassVar[Mapping[str, str]] = {}
    """For each form of prompt: which published harness asks and stops alike."""

    class Config(PassAtKConfig):
        """How programs are asked for and judged."""

    limits: Limits = Limits(3.0, 512 * 2**20)
    """What a program may take where the config does not say; may depend on the config."""
    config: Config
    reads_text = False

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._digests: dict[str, str] = {}  # by part: made once, as subjects are measured in a call each

    @property
    def seconds(self) -> float:
        """The time limit of a program."""
        return self.limits.seconds if self.config.seconds is None else self.config.seconds

    def problems(self, run: kdtool.RunInfo) -> Sequence[Problem]:
        """Return all problems of the benchmark, in its order."""
        raise NotImplementedError

    def kdtool_problems(self, run: kdtool.RunInfo) -> Sequence[kdtool.Example]:
        """Return all problems, the prompt as a base model continues it with the benchmark's own solution."""
        return [
            kdtool.Example(one.id, kdtool.Completion(one.forms["base"].prompt, one.solution), "test")
            for one in self.problems(run)
        ]

    def parts(self, problems: Sequence[Problem]) -> Mapping[str, Sequence[Problem]]:
        """Return the problems that are scored together, by what stands before `.pass@k` in their measurements' names."""
        return {self.benchmark: problems}

    def benchmark_settings(self, problems: Sequence[Problem]) -> Mapping[str, str]:
        """Return what the settings of a measurement say of the benchmark, besides how it was asked and judged."""
        return {"like": self.harness.get(self.config.form, "")}

    def kdtool_check(self, run: kdtool.RunInfo, when: str) -> Sequence[str]:
        """Return why programs cannot be run safely here; then read the problems, and ask whether the student can be asked.

        Raises:
            kdtool.UsageError: there are no problems, or the student has no chat template where `form` is `chat`.
        """
        if when == "start":
            return self.missing()
        self._asked(run)
        students = run.implementing("kdtool_build_student") if self.config.form == "chat" else ()
        for name in students:
            if not run.component(name, kdtool.Student).kdtool_tokenizer(run).chat_fingerprint:
                raise kdtool.UsageError(
                    "form: chat asks by a chat template, and the student's tokenizer has none; set form: base, or take a "
                    "tokenizer with a template"
                )
        return ()

    def missing(self) -> Sequence[str]:
        """Return why programs cannot be run safely on this machine."""
        from kdtool_sandbox import missing

        return missing()

    def kdtool_estimate(self, run: kdtool.RunInfo, ahead: kdtool.RunForecast) -> Iterator[kdtool.Estimate]:
        from kdtool_measuring import bytes_to_answer

        student = ahead.models.get(ahead.student)
        if student is not None:
            size = bytes_to_answer(ahead, 2 * self.config.maximum_tokens)
            yield kdtool.Estimate("measured student", (f"scores: {self.benchmark}",), compute_bytes=size)

    def kdtool_evaluate(self, run: kdtool.RunInfo, subjects: Sequence[kdtool.Subject]) -> Iterator[kdtool.Measurement]:
        """Yield `<benchmark>.pass@<k>` of each subject that answers; items are problems.

        Raises:
            kdtool.UsageError: there are no problems.
        """
        from kdtool_measuring import file_of

        from kdtool_pass_at_k._samples import sampled
        from kdtool_pass_at_k._verdicts import judged

        parts = self._asked(run)
        problems = [problem for part in parts.values() for problem in part]
        settings = {name: self._settings(name, part) for name, part in parts.items()}
        limits = Limits(self.seconds, self.limits.memory)
        for subject in subjects:
            samples = sampled(run, subject, problems, self.config, self.benchmark)
            if samples is not None:
                file = file_of(run, self.benchmark, subject, "verdicts")
                verdicts = judged(run, file, problems, samples, limits, self.config.workers)
                for name, part in parts.items():
                    yield from self._measurements(run, subject, name, part, samples, verdicts, settings[name])

    def _asked(self, run: kdtool.RunInfo) -> dict[str, Sequence[Problem]]:
        """Return the problems that are asked, by the part that they are scored with."""
        from kdtool_measuring import chosen

        parts = {name: chosen(part, self.config.problems) for name, part in self.parts(self.problems(run)).items()}
        if not parts or not all(parts.values()):
            raise kdtool.UsageError(
                f"{self.benchmark}: there is no problem to ask; a score of nothing would say nothing"
            )
        return parts

    def _measurements(
        self,
        run: kdtool.RunInfo,
        subject: kdtool.Subject,
        part: str,
        problems: Sequence[Problem],
        samples: Sequence[Sample],
        verdicts: Mapping[str, Judged],
        settings: Mapping[str, str],
    ) -> Iterator[kdtool.Measurement]:
        from kdtool_measuring import Item, measured, unanswered

        judged: dict[str, list[tuple[Sample, Judged]]] = {problem.id: [] for problem in problems}
        for sample in samples:
            if sample.problem in judged:
                judged[sample.problem].append((sample, verdicts[sample.id]))
        isolation = {verdict.isolation for pairs in judged.values() for _, verdict in pairs}
        for k in self.config.k:
            items = []
            for name, pairs in judged.items():
                passed = sum(verdict.passed and not sample.missing for sample, verdict in pairs)
                shown = _shown(pairs) if k == self.config.k[0] else {}
                items.append(Item(name, pass_at_k(len(pairs), passed, k), 1.0, shown))
            yield measured(
                items, run, subject,
                name=f"{part}.pass@{k}", unit="fraction", higher_is_better=True,
                settings={**settings, "sandbox": ", ".join(sorted(isolation))},
            )  # fmt: skip
        yield from unanswered(part, subject, [sample for pairs in judged.values() for sample, _ in pairs])

    def _settings(self, part: str, problems: Sequence[Problem]) -> dict[str, str]:
        config = self.config
        if part not in self._digests:
            self._digests[part] = digest_of(problems, config.form)
        form = problems[0].forms[config.form]
        decoding = f"temperature {config.temperature}" if config.temperature else "greedy"
        # The sandbox runs the Python that runs this; versions judge some programs differently.
        python = any(problem.language == "python" for problem in problems)
        return {
            "problems": f"{len(problems)}"
            if config.problems is None
            else f"{len(problems)}, chosen by their ids' hashes",
            "prompts and tests": self._digests[part],
            "samples": str(config.samples),
            "decoding": f"{decoding}, at most {config.maximum_tokens} tokens, seed {config.seed}",
            "form": config.form,
            "stops": " ".join(repr(stop) for stop in form.stop),
            "time limit": f"{self.seconds:g} s",
            **({"python": ".".join(map(str, sys.version_info[:2]))} if python else {}),
            **self.benchmark_settings(problems),
        }


def _shown(pairs: Sequence[tuple[Sample, Judged]]) -> dict[str, str]:
    """Return what a report shows of a problem: its samples with their verdicts."""
    shown = {}
    for number, (sample, verdict) in enumerate(pairs, 1):
        which = f" {number}" if len(pairs) > 1 else ""
        shown[f"answer{which}"] = sample.text
        told = ("no answer",) if sample.missing else (verdict.status, verdict.reason, verdict.stderr)
        shown[f"verdict{which}"] = "\n".join(dict.fromkeys(part.strip() for part in told if part.strip()))
    return shown
