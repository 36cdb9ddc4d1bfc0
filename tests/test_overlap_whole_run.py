"""A corpus that holds a solution of HumanEval, in a whole run: reported, then removed and gone from what is trained."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import kdtool
import pytest
from kdtool._run.stages.row_files import StoredRows
from kdtool_evaluator_humaneval import HumanEval
from kdtool_programs.testing import sandbox_is_there
from kdtool_testing import make_run

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not sandbox_is_there(), reason="no sandbox on this machine")]
COPIED = "HumanEval/10"
OWN = '''
import kdtool


class Own(kdtool.Evaluator):
    """Has a problem."""

    def kdtool_problems(self, run):
        return [kdtool.Example("own", kdtool.Completion("# the area\\n", "def area(width, height): return width * height"))]

    def kdtool_evaluate(self, run, subjects):
        return iter(())
'''


@pytest.fixture
def roomy(teacher_folder: Path, tmp_path: Path) -> Path:
    """The small teacher with a context that holds a prompt of HumanEval."""
    folder = tmp_path / "roomy"
    shutil.copytree(teacher_folder, folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 1024}), encoding="utf-8")
    return folder


@pytest.fixture
def leaking(recipe: dict[str, Any], roomy: Path, tmp_path: Path) -> dict[str, Any]:
    """The small recipe with a corpus in which somebody wrote a program around a solution of HumanEval."""
    problems = HumanEval(HumanEval.Config()).kdtool_problems(make_run(tmp_path))
    (problem,) = [problem for problem in problems if problem.id == COPIED]
    area = "".join(f"def area_{i}(width, height):\n    return {i} * width * height\n\n\n" for i in range(8))
    program = f"import sys\n\n\n{''.join(kdtool.parts_of(problem.body))}\n\nprint(make_palindrome(sys.argv[1]))\n"
    lines = [json.dumps({"id": name, "text": text}) for name, text in {"area": area, "program": program}.items()]
    Path("leaking.jsonl").write_text("\n".join(lines), encoding="utf-8")
    recipe["corpora"] = {"leaking": {"use": "jsonl", "files": ["leaking.jsonl"]}, "library": recipe.pop("corpus")}
    recipe["evaluators"] = {
        "humaneval": {"problems": 1, "maximum_tokens": 4, "workers": 1},
        "contamination": {},
        "memorisation": {"passages": 6, "prefix": 8, "continuation": 4, "n": 3, "characters": 5000},
    }
    recipe["teacher"]["model"] = str(roomy)
    recipe["control"] = {"match": ["tokens"]}
    return recipe


def trained_text(results: kdtool.Results, tokenizer: Path) -> str:
    from transformers import AutoTokenizer

    (path,) = (stage.path for stage in results.stages if stage.name == "rows")
    rows = StoredRows(path, "")
    opened = AutoTokenizer.from_pretrained(tokenizer)
    return "".join(opened.decode(list(rows[number].input_ids)) for number in range(len(rows)))


def values(results: kdtool.Results, name: str) -> dict[str, float]:
    return {found.subject: found.value for found in results.measurements if found.name == name}


def test_a_leaked_solution_is_reported_and_then_removed(
    leaking: dict[str, Any], roomy: Path, teacher_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    leaked = kdtool.run(leaking)
    assert values(leaked, "contamination.humaneval") == pytest.approx(
        dict.fromkeys(("student", "control", "student-safetensors"), 1 / 164)
    )
    assert (
        f"1 of 164 problems of humaneval share words or code with the training text, in 1 of 10 documents: {COPIED}"
        in (capsys.readouterr().err)
    )
    assert "contamination" not in leaked.verdict, "it tells nothing of one model against another"
    assert "make_palindrome" in trained_text(leaked, teacher_folder)
    assert leaked.report is not None
    assert "Contamination: humaneval" in leaked.report.read_text(encoding="utf-8")
    for name in ("memorised", "longest-copy"):
        assert values(leaked, name).keys() == {"teacher", "student", "control", "student-safetensors"}

    Path("leaking.yaml").write_text(json.dumps(leaking), encoding="utf-8")
    foreign = kdtool.evaluate([f"foreign={roomy}"], recipe="leaking.yaml")
    assert values(foreign, "memorised").keys() == {"teacher", "foreign"}
    assert not values(foreign, "contamination.humaneval"), "nobody looked into its text"
    assert any("contamination: foreign" in note for note in foreign.notes)

    cleaned = kdtool.run({**leaking, "filters": {"decontamination": {}}, "name": "cleaned"})
    assert set(values(cleaned, "contamination.humaneval").values()) == {0.0}
    text = trained_text(cleaned, teacher_folder)
    assert "make_palindrome" not in text
    assert "area_7" in text
    reason = {"10 words of humaneval": 1}
    assert cleaned.data["rejected"] == {"filters.decontamination": reason}
    assert {name: own.get("rejected") for name, own in cleaned.data["corpora"].items()} == {
        "corpora.leaking": reason,
        "corpora.library": None,
    }
    assert cleaned.report is not None
    assert "10 words of humaneval" in cleaned.report.read_text(encoding="utf-8")


def test_other_problems_filter_anew_and_other_settings_of_their_evaluator_do_not(leaking: dict[str, Any]) -> None:
    recipe = {**leaking, "filters": {"decontamination": {}}}
    del recipe["control"], recipe["exporters"], recipe["evaluators"]["memorisation"]
    kdtool.run(recipe)
    fewer = kdtool.plan(recipe, {"evaluators.humaneval.maximum_tokens": 5})
    assert {stage.name: stage.action for stage in fewer}["text"] == "reuse"
    Path("own.py").write_text(OWN, encoding="utf-8")
    other = kdtool.plan({**recipe, "evaluators": {**recipe["evaluators"], "own": {"use": "./own.py:Own"}}})
    assert {stage.name: stage.action for stage in other}["text"] == "run"
