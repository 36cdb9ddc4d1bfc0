"""Scores in the Hub's newer form, `.eval_results/*.yaml`."""

from __future__ import annotations

from collections.abc import Sequence

import kdtool

from kdtool_model_card._card_file import CardFile
from kdtool_model_card._front_matter import BENCHMARKS, benchmark_of, scores

__all__ = ["eval_results"]


def eval_results(results: kdtool.Results, files: Sequence[CardFile]) -> str:
    """Return the text of `.eval_results/kdtool.yaml`: pass@1 of benchmarks that the Hub knows; "" without any."""
    import yaml
    from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

    entries = []
    for score in scores(results, files):
        if benchmark_of(score) in BENCHMARKS and score.name.endswith(".pass@1"):
            dataset, task = BENCHMARKS[benchmark_of(score)]
            bounds = (
                f", 95 % interval {score.low:.4g} to {score.high:.4g}" if score.low is not None and score.high else ""
            )
            notes = f"{score.name} by kdtool, {score.n} problems{bounds}"
            entries.append(EvalResultEntry(dataset_id=dataset, task_id=task, value=score.value, notes=notes))
    return yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False) if entries else ""
