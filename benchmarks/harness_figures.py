"""Perplexity, HumanEval and MBPP of one model by kdtool's evaluators and by lm-evaluation-harness with its own model class.

    pip install lm_eval
    python -m kdtool_teacher_smollm2                   # fetches SmolLM2-135M-Instruct and prints its folder
    python benchmarks/harness_figures.py MODEL mbpp.jsonl --out FOLDER

Both open the same folder in float32 and ask with kdtool's prompts, which for HumanEval are the harness's. Programs of both
are judged in kdtool's sandbox. `--task` also asks MBPP with the prompt of the harness's own task, which has three examples
before each problem. A call with the same FOLDER continues one that was ended. Ends with 1 if a figure differs for another
reason than the token before a text.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from importlib.metadata import version
from math import exp, log
from pathlib import Path
from typing import Any

import kdtool
import torch
import transformers
import yaml
from kdtool_evaluator_humaneval import HumanEval
from kdtool_evaluator_mbpp import MbppEvaluator
from kdtool_evaluator_perplexity import Perplexity
from kdtool_measuring import Answer, journal
from kdtool_programs import PassAtK, Sandbox, Task
from kdtool_testing import OneRuntime, make_run
from kdtool_transformers import TransformersModel, TransformersRuntime, open_model
from lm_eval import tasks as harness_tasks
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

SUBJECT = kdtool.Subject("model", "teacher")
TOLERANCE = 1e-4
TEXTS, CHARACTERS = ("bisect", "heapq", "textwrap", "fnmatch"), 1500
GROUP = 8


def main() -> int:
    """Compare; return 1 if a figure differs without an explanation."""
    arguments = _arguments()
    transformers.utils.logging.disable_progress_bar()
    print(
        f"lm-evaluation-harness {version('lm_eval')}, transformers {transformers.__version__}, torch {torch.__version__}"
    )
    opened = open_model(arguments.model, dtype=torch.float32, offline=True)
    harness = HFLM(pretrained=str(arguments.model), device="cpu", dtype="float32", batch_size=GROUP)
    differences = compare_perplexity(opened, harness, arguments.out)
    limits = {"limit": arguments.problems, "maximum_tokens": arguments.tokens}
    humaneval = HumanEval(HumanEval.Config(**limits))
    mbpp = MbppEvaluator(MbppEvaluator.Config(file=arguments.mbpp, **limits))
    for evaluator in (humaneval, mbpp):
        differences += compare_programs(evaluator, opened, harness, arguments.out)
    if arguments.task:
        task_of_the_harness(mbpp, harness, arguments.out, arguments.mbpp)
    return int(differences > 0)


def compare_perplexity(ours: TransformersModel, harness: HFLM, out: Path) -> int:
    """Print perplexities of the same texts, by the harness with its own first token and with kdtool's."""
    texts = {name: source_of(name) for name in TEXTS}
    examples = [kdtool.Example(name, kdtool.Text(text), split="test") for name, text in texts.items()]
    run = make_run(folder_of(out, "perplexity"), {"any": OneRuntime(TransformersRuntime(ours))}, examples)
    found = {
        each.name: each for each in Perplexity(Perplexity.Config(characters=CHARACTERS)).kdtool_evaluate(run, [SUBJECT])
    }
    start = ours.tokenizer.scoring_context
    tokens = sum(len(ours.tokenizer.encode(text)) for text in texts.values())
    size = sum(len(text.encode()) for text in texts.values())
    differing = 0
    for prefix in (harness.prefix_token_id, start[0]):
        harness.custom_prefix_token_id = prefix
        requests = [Instance("loglikelihood_rolling", {}, (text,), n) for n, text in enumerate(texts.values())]
        nats = -sum(harness.loglikelihood_rolling(requests, disable_tqdm=True))
        theirs = {"perplexity": exp(nats / tokens), "bits-per-byte": nats / log(2) / size}
        for name, value in theirs.items():
            print(f"{name}: kdtool {found[name].value:.6f}, harness {value:.6f} after token {prefix} ({tokens} tokens)")
            is_same = abs(found[name].value / value - 1) < TOLERANCE
            differing += not is_same and prefix == start[0]
    return differing


def source_of(name: str) -> str:
    """Return the beginning of a module of the standard library."""
    import importlib

    return Path(str(importlib.import_module(name).__file__)).read_text("utf-8")[:CHARACTERS]


def compare_programs(evaluator: PassAtK, ours: TransformersModel, harness: HFLM, out: Path) -> int:
    """Print pass@1 of both and how many samples are equal; return how many verdicts differ."""
    name = evaluator.benchmark
    run = make_run(folder_of(out, name), {"any": OneRuntime(TransformersRuntime(ours))})
    (found,) = [each for each in evaluator.kdtool_evaluate(run, [SUBJECT]) if each.name == f"{name}.pass@1"]
    assert found.items is not None
    rows = {row["item"]: row for row in map(json.loads, found.items.read_text("utf-8").splitlines())}
    problems = [problem for problem in evaluator.problems(run) if problem.id in rows]
    settings = {"max_gen_toks": evaluator.config.maximum_tokens, "do_sample": False}
    contexts = {
        each.id: (each.forms["base"].prompt, {**settings, "until": list(each.forms["base"].stop)}) for each in problems
    }
    texts = generate(harness, contexts, folder_of(out, f"{name}-harness") / "samples.jsonl")
    verdicts = judge({each.id: each.continued(texts[each.id]) for each in problems}, evaluator.seconds)
    same = sum(rows[each.id]["shown"]["answer"] == texts[each.id] for each in problems)
    theirs = sum(verdicts.values()) / len(problems)
    print(f"{name}: kdtool {found.value:.4f}, harness {theirs:.4f}; {same} of {len(problems)} samples equal")
    for each in problems:
        if rows[each.id]["shown"]["answer"] != texts[each.id]:
            print(f"  {each.id}: kdtool {rows[each.id]['shown']['answer']!r:.200}\n    harness {texts[each.id]!r:.200}")
    return sum(bool(rows[each.id]["sum"]) != verdicts[each.id] for each in problems)


def task_of_the_harness(mbpp: PassAtK, harness: HFLM, out: Path, file: Path) -> None:
    """Print pass@1 of the harness's own task `mbpp`, with its three examples, on kdtool's problems."""
    records = {record["task_id"]: record for record in map(json.loads, file.read_text("utf-8").splitlines())}
    path = Path(harness_tasks.__file__).with_name("mbpp") / "mbpp.yaml"
    task = yaml.load(path.read_text("utf-8"), _Loader)  # noqa: S506 (a safe loader)
    template = kdtool_template(task["doc_to_text"])
    shown = "".join(template(records[number]) + records[number]["code"] + "\n[DONE]\n\n" for number in (2, 3, 4))
    run = make_run(folder_of(out, "mbpp"))
    taken = {each.id for each in mbpp._select_problems(run)["mbpp"]}
    problems = [each for each in mbpp.problems(run) if each.id in taken]
    settings = {"max_gen_toks": mbpp.config.maximum_tokens, **task["generation_kwargs"]}
    contexts = {each.id: (shown + template(records[int(each.id.partition("/")[2])]), settings) for each in problems}
    texts = generate(harness, contexts, folder_of(out, "mbpp-task") / "samples.jsonl")
    verdicts = judge({each.id: each.whole(texts[each.id]) for each in problems}, mbpp.seconds)
    print(f"mbpp by the harness's own task with three examples: {sum(verdicts.values()) / len(problems):.4f}")


def kdtool_template(source: str) -> Any:
    """Return the function that renders a prompt of the harness."""
    from lm_eval.utils import apply_template

    return lambda record: apply_template(source, record)


def generate(harness: HFLM, contexts: Mapping[str, tuple[str, Any]], file: Path) -> Mapping[str, str]:
    """Return the harness's texts by problem, each group on disk before the next."""
    with journal(file, Answer, print) as kept:
        missing = [name for name in contexts if name not in kept]
        for names in (missing[start : start + GROUP] for start in range(0, len(missing), GROUP)):
            requests = [Instance("generate_until", {}, contexts[name], 0) for name in names]
            for name, text in zip(names, harness.generate_until(requests, disable_tqdm=True), strict=True):
                kept.add(Answer(name, text, "stop", 0, continues=True))
        return {name: kept[name].text for name in contexts}


def judge(works: Mapping[str, Any], seconds: float) -> Mapping[str, bool]:
    """Return which programs pass."""
    with Sandbox(workers=1) as sandbox:
        return {
            each.id: each.has_passed for each in sandbox.run(Task(name, work, seconds) for name, work in works.items())
        }


def folder_of(out: Path, name: str) -> Path:
    """Return a folder for one kind of records."""
    (out / name).mkdir(parents=True, exist_ok=True)
    return out / name


class _Loader(yaml.SafeLoader):
    """Reads the harness's YAML without calling its functions."""


_Loader.add_constructor("!function", lambda _, node: str(node.value))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("model", type=Path, help="folder that transformers opens")
    parser.add_argument("mbpp", type=Path, help="mbpp.jsonl")
    parser.add_argument("--out", type=Path, required=True, help="folder of all samples")
    parser.add_argument(
        "--problems", type=int, default=40, help="problems of each benchmark, chosen by their ids' hashes"
    )
    parser.add_argument("--tokens", type=int, default=64, help="maximum tokens of an answer")
    parser.add_argument("--task", action="store_true", help="ask MBPP with the harness's prompt, too")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
