"""Base class of evaluators that run programs, and the estimator of pass@k."""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from math import prod
from typing import ClassVar

import kdtool
from kdtool_measuring import Item, bytes_to_answer, choose, file_of, make_measurement, measure_missing_answers

from kdtool_programs.problems import Limits, Problem, digest_of
from kdtool_programs.samples import Judged, PassAtKConfig, Sample, collect_samples, judge_samples
from kdtool_programs.sandbox import missing
from kdtool_programs.view import Package, find_package, find_packages


class PassAtK(kdtool.Evaluator):
    """Base class of evaluators that ask for programs: subclasses define `benchmark`, `harness` and `problems`."""

    benchmark: ClassVar[str] = ""
    """Prefix of the measurements' names: `humaneval` yields `humaneval.pass@1`."""
    harness: ClassVar[Mapping[str, str]] = {}
    """For each form of prompt, the published harness with the same prompts and stop strings."""

    class Config(PassAtKConfig):
        """Settings of an evaluator that runs programs."""

    limits: Limits = Limits(3.0, 512 * 2**20)
    """Resource limits of a program, unless the config overrides them; may depend on the config."""
    harness_packages: tuple[str, ...] = ()
    """Packages that programs find in the benchmark's own harness; may depend on the config."""
    config: Config
    reads_text = False
    needs_sandbox = True

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.measurements = self.measurements_of(self.benchmark)
        self._digests: dict[str, str] = {}  # by part: made once, as subjects are measured in a call each

    def measurements_of(self, part: str) -> tuple[str, ...]:
        """Return the names of a part's measurements; the part is one of `parts`, or a pattern of them."""
        return (*(f"{part}.pass@{k}" for k in self.config.k), f"{part}.unanswered", f"{part}.missing-modules")

    @property
    def seconds(self) -> float:
        """The time limit of a program."""
        return self.limits.seconds if self.config.seconds is None else self.config.seconds

    @property
    def packages(self) -> list[Package]:
        """The packages that programs in Python may import. Raises as `find_packages`."""
        given = self.config.packages
        return find_packages(filter(find_package, self.harness_packages) if given is None else given)

    def problems(self, run: kdtool.RunInfo) -> Sequence[Problem]:
        """Return all problems of the benchmark, in its order."""
        raise NotImplementedError

    def kdtool_problems(self, run: kdtool.RunInfo) -> Sequence[kdtool.Example]:
        """Return all problems as the prompt for base models with the reference solution."""
        return [
            kdtool.Example(problem.id, kdtool.Completion(problem.forms["base"].prompt, problem.solution), "test")
            for problem in self.problems(run)
        ]

    def parts(self, problems: Sequence[Problem]) -> Mapping[str, Sequence[Problem]]:
        """Group problems that are scored together, by the name before `.pass@k` in their measurements."""
        return {self.benchmark: problems}

    def benchmark_settings(self, problems: Sequence[Problem]) -> Mapping[str, str]:
        """Return the measurement's settings that are specific to the benchmark."""
        return {"like": self.harness.get(self.config.form, "")}

    def kdtool_check(self, run: kdtool.RunInfo, when: str) -> Sequence[str]:
        """Return what the sandbox lacks; once there is text, check the problems and the student's chat template.

        Raises:
            kdtool.UsageError: there are no problems, `form` is `chat` and the student lacks a chat template, or a package
                cannot be shown.
        """
        if when == "start":
            return self.missing()
        self._select_problems(run)
        students = run.implementing("kdtool_build_student") if self.config.form == "chat" else ()
        for name in students:
            if not run.component(name, kdtool.Student).kdtool_tokenizer(run).chat_fingerprint:
                raise kdtool.UsageError(
                    "form: chat needs a chat template, but the student's tokenizer has none; set form: base, or use a "
                    "tokenizer with a template"
                )
        return ()

    def missing(self) -> Sequence[str]:
        """Return what the sandbox lacks to run programs safely here."""
        return missing(packages=self.packages)

    def kdtool_estimate(self, run: kdtool.RunInfo, ahead: kdtool.RunForecast) -> Iterator[kdtool.Estimate]:
        student = ahead.models.get(ahead.student)
        if student is not None:
            size = bytes_to_answer(ahead, 2 * self.config.maximum_tokens)
            yield kdtool.Estimate("measured student", ("scores",), compute_bytes=size)

    def kdtool_evaluate(self, run: kdtool.RunInfo, subjects: Sequence[kdtool.Subject]) -> Iterator[kdtool.Measurement]:
        """Yield `<benchmark>.pass@<k>` of each subject that answers; items are problems.

        Raises:
            kdtool.UsageError: there are no problems.
        """
        parts = self._select_problems(run)
        problems = [problem for part in parts.values() for problem in part]
        settings = {name: self._settings(name, part) for name, part in parts.items()}
        limits = Limits(self.seconds, self.limits.memory)
        for subject in subjects:
            samples = collect_samples(run, subject, problems, self.config, self.benchmark)
            if samples is not None:
                file = file_of(run, self.benchmark, subject, "verdicts")
                verdicts = judge_samples(run, file, problems, samples, limits, self.packages)
                for name, part in parts.items():
                    yield from self._measurements(run, subject, name, part, samples, verdicts, settings[name])

    def _select_problems(self, run: kdtool.RunInfo) -> dict[str, Sequence[Problem]]:
        """Select the problems to ask, grouped by part."""
        parts = {name: choose(part, self.config.limit) for name, part in self.parts(self.problems(run)).items()}
        if not parts or not all(parts.values()):
            raise kdtool.UsageError(
                f"{self.benchmark}: there is no problem to ask, so there would be no score; give it other files or settings"
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
        judged: dict[str, list[tuple[Sample, Judged]]] = {problem.id: [] for problem in problems}
        for sample in samples:
            if sample.problem in judged:
                judged[sample.problem].append((sample, verdicts[sample.id]))
        isolation = {verdict.isolation for pairs in judged.values() for _, verdict in pairs}
        for k in self.config.k:
            items = []
            for name, pairs in judged.items():
                passed = sum(verdict.has_passed and not sample.missing for sample, verdict in pairs)
                shown = _describe_samples(pairs) if k == 1 else {}
                items.append(Item(name, pass_at_k(len(pairs), passed, k), 1.0, shown))
            yield make_measurement(
                items,
                run,
                subject,
                name=f"{part}.pass@{k}",
                unit="fraction",
                higher_is_better=True,
                settings={**settings, "sandbox": ", ".join(sorted(isolation))},
            )
        yield from measure_missing_answers(part, subject, [sample for pairs in judged.values() for sample, _ in pairs])
        yield from _measure_missing_modules(
            run, part, subject, [verdict for pairs in judged.values() for _, verdict in pairs]
        )

    def _settings(self, part: str, problems: Sequence[Problem]) -> dict[str, str]:
        config = self.config
        if part not in self._digests:
            self._digests[part] = digest_of(problems, config.form)
        form = problems[0].forms[config.form]
        decoding = f"temperature {config.temperature}" if config.temperature else "greedy"
        packages = ", ".join(f"{package.name} {package.version}" for package in self.packages)
        # The sandbox runs the Python that runs this; versions judge some programs differently.
        python = any(problem.language == "python" for problem in problems)
        return {
            "problems": f"{len(problems)}" if config.limit is None else f"{len(problems)}, chosen by their ids' hashes",
            "prompts and tests": self._digests[part],
            "samples": str(config.samples),
            "decoding": f"{decoding}, at most {config.maximum_tokens} tokens",
            "form": config.form,
            "stops": " ".join(repr(stop) for stop in form.stop),
            "time limit": f"{self.seconds:g} s",
            **({"python": ".".join(map(str, sys.version_info[:2])), "packages": packages or "none"} if python else {}),
            **self.benchmark_settings(problems),
        }


_MISSING_MODULE = re.compile(r"ModuleNotFoundError: No module named '([^'.]+)")


def _measure_missing_modules(
    run: kdtool.RunInfo, part: str, subject: kdtool.Subject, verdicts: Sequence[Judged]
) -> Iterator[kdtool.Measurement]:
    """Yield the share of programs that failed for a missing module; nothing if there are none."""
    lacking = Counter(match[1] for verdict in verdicts if (match := _MISSING_MODULE.search(verdict.reason)))
    if count := lacking.total():
        modules = ", ".join(f"{name} ({times:,})" for name, times in sorted(lacking.items()))
        share = f"{count:,} of {len(verdicts):,} programs of {subject.name} failed for a missing module"
        run.say(f"{part}: {share}: {modules}; the evaluator's `packages` shows installed packages to programs")
        yield kdtool.Measurement(
            f"{part}.missing-modules",
            subject.name,
            "fraction",
            count / len(verdicts),
            len(verdicts),
            higher_is_better=False,
            texts={"modules": modules},
        )


def _describe_samples(pairs: Sequence[tuple[Sample, Judged]]) -> dict[str, str]:
    """Return the texts that a report shows for a problem: its samples with their verdicts."""
    shown = {}
    for number, (sample, verdict) in enumerate(pairs, 1):
        which = f" {number}" if len(pairs) > 1 else ""
        shown[f"answer{which}"] = sample.text
        told = ("no answer",) if sample.missing else (verdict.status, verdict.reason, verdict.stderr)
        shown[f"verdict{which}"] = "\n".join(dict.fromkeys(part.strip() for part in told if part.strip()))
    return shown


def pass_at_k(n: int, c: int, k: int) -> float:
    """Return the estimated probability that at least one of k samples passes, given that c of n samples passed.

    1 − C(n − c, k) / C(n, k), as a product that neither overflows nor cancels. Chen et al. 2021 (arXiv 2107.03374),
    equation 1 and its figure 3.

    Args:
        n: samples drawn, at least k.
        c: samples that passed, 0 to n.
        k: from 1.

    Raises:
        ValueError: k is not in 1…n, or c not in 0…n.
    """
    if not 1 <= k <= n or not 0 <= c <= n:
        raise ValueError(
            f"pass@{k} of {n} samples, {c} passed, cannot be estimated: expected are 1 ≤ k ≤ n and 0 ≤ c ≤ n"
        )
    return 1.0 if n - c < k else 1.0 - prod(1 - k / i for i in range(n - c + 1, n + 1))
