"""Runs in threads: they import the same code, use the same store, and leave the process's standard output alone."""

from __future__ import annotations

import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import kdtool

SLOW = '''
import time
import kdtool

time.sleep(0.3)


class Nothing(kdtool.Evaluator):
    """Measures nothing; its file takes a while to import."""

    def kdtool_evaluate(self, run, subjects):
        return []
'''


def test_runs_in_threads_share_code_and_store_and_end_as_if_alone(recipe: dict[str, Any]) -> None:
    Path("slow.py").write_text(SLOW, encoding="utf-8")
    recipe = {
        **recipe,
        "control": "tokens",
        "evaluators": {**recipe["evaluators"], "slow": {"use": "./slow.py:Nothing"}},
    }
    streams = sys.stdout, sys.stderr
    together = threading.Barrier(3)

    def run(factor: float) -> dict[str, float]:
        together.wait()
        results = kdtool.run(recipe, {"name": f"f{factor:.0f}", "trainer.factor": factor}, out="threads")
        return {measurement.subject: measurement.value for measurement in results.measurements}

    factors = (1.0, 3.0, 9.0)
    with ThreadPoolExecutor(len(factors)) as pool:
        found = list(pool.map(run, factors))
    assert (sys.stdout, sys.stderr) == streams
    for factor, values in zip(factors, found, strict=True):
        results = kdtool.run(recipe, {"trainer.factor": factor}, out="alone", store="alone")
        assert values == {measurement.subject: measurement.value for measurement in results.measurements}
