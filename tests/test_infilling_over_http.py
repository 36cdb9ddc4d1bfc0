"""The evaluator `infilling` scores a model behind `kdtool serve` exactly as it scores the model itself."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import kdtool
import pytest
from kdtool_evaluator_infilling import Infilling
from kdtool_teacher_openai import OpenAI
from kdtool_testing import OneRuntime, make_run

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "plugins" / "serve" / "tests"))

from kdtool_testing.sandbox import sandbox_is_there
from running import running

pytestmark = pytest.mark.skipif(not sandbox_is_there(), reason="no sandbox on this machine")


@pytest.fixture(autouse=True)
def _without_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


def measured(folder: Path, component: Any) -> tuple[float, int, dict[str, str]]:
    """Return score, number of tasks and answers of the model that a component opens."""
    folder.mkdir()
    name = "teacher" if isinstance(component, kdtool.Teacher) else "opener"
    run = make_run(folder, {name: component})
    evaluator = Infilling(Infilling.Config(problems=40, maximum_tokens=24, temperature=1.0))
    (score,) = (
        one
        for one in evaluator.kdtool_evaluate(
            run, [kdtool.Subject("teacher", "teacher" if name == "teacher" else "student")]
        )
        if one.name == "infilling.single-line.pass@1"
    )
    lines = next(folder.rglob("*.samples.jsonl")).read_text(encoding="utf-8").splitlines()
    answers = [json.loads(line) for line in lines]
    return score.value, score.n, {one["id"]: one["text"] for one in answers if "id" in one}


def test_a_real_model_gives_the_same_answers(marked_teacher_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(marked_teacher_folder, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 4096}), encoding="utf-8")
    with kdtool.open_models(folder) as models:  # prompts fit, so that nobody has to cut them
        (name,) = models.subjects
        with models.open(name) as runtime:
            here = measured(tmp_path / "here", OneRuntime(runtime))
        with running(models, limits=None) as server:
            teacher = OpenAI(OpenAI.Config(url=f"{server.url}/v1", model=name, api="completions", concurrency=4))
            assert measured(tmp_path / "there", teacher) == here
            teacher.kdtool_close()
    assert any(here[2].values()), "answers of a model without training, but answers"
