"""The published solutions pass, changed ones fail, and requests are those of the harness that is named."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import kdtool
import pytest
from kdtool_evaluator_humaneval import HumanEval
from kdtool_programs import Module, Problem
from kdtool_testing import EvaluatorConformance, make_run
from kdtool_testing.sandbox import find_failures, sandbox_is_there

PLUS = Path(__file__).resolve().parents[4] / "shared" / "data" / "evalplus" / "HumanEvalPlus-OriginFmt.jsonl.gz"


needs_sandbox = pytest.mark.skipif(not sandbox_is_there(), reason="no sandbox on this machine")


@needs_sandbox
class TestHumanEval(EvaluatorConformance):
    component = HumanEval
    entry_point = "humaneval"
    settings: ClassVar[dict[str, Any]] = {"limit": 3, "maximum_tokens": 32}

    def nothing_to_measure(self, folder: Path) -> Iterator[dict[str, Any]]:
        (folder / "plus.jsonl").touch()
        yield {"plus": str(folder / "plus.jsonl")}


def problems(folder: Path, **settings: Any) -> list[Problem]:
    return list(HumanEval(HumanEval.Config(**settings)).problems(make_run(folder)))


@needs_sandbox
def test_all_published_solutions_pass_and_empty_ones_fail(tmp_path: Path) -> None:
    found = problems(tmp_path)
    assert len(found) == 164
    right = {one.id: one.continued(one.solution) for one in found}
    wrong = {f"{one.id} empty": one.continued("    return None\n") for one in found}
    assert find_failures(right | wrong) == set(wrong)


@needs_sandbox
def test_a_whole_program_passes_with_the_helpers_of_the_prompt(tmp_path: Path) -> None:
    by_id = {one.id: one for one in problems(tmp_path)}
    whole = by_id["HumanEval/32"].whole(
        "def find_zero(xs):\n    low, high = -1e3, 1e3\n    while poly(xs, low) * poly(xs, high) > 0:\n"
        "        low, high = low * 2, high * 2\n    while high - low > 1e-10:\n        middle = (low + high) / 2\n"
        "        if poly(xs, middle) * poly(xs, low) > 0:\n            low = middle\n        else:\n"
        "            high = middle\n    return low\n"
    )
    code = "from __future__ import annotations\n\ndef has_close_elements(numbers: List[float], threshold: float) -> bool:\n"
    code += "    return any(abs(a - b) < threshold for at, a in enumerate(numbers) for b in numbers[:at])\n"
    works = {"whole": whole, "__future__": by_id["HumanEval/0"].whole(code)}
    works["__future__ in text"] = by_id["HumanEval/0"].continued(
        code.partition("\n\n")[2].partition("\n")[2] + "# __future__"
    )
    assert find_failures(works) == set()


@pytest.mark.skipif(not PLUS.is_file(), reason="HumanEval+ is not here")
def test_the_plus_tests_are_read(tmp_path: Path) -> None:
    found = problems(tmp_path, plus=PLUS)
    assert len(found) == 164
    works = [one.continued("") for one in found]
    assert all(isinstance(work, Module) and len(work.tests) > 500 for work in works)
    assert HumanEval(HumanEval.Config(plus=PLUS)).benchmark == "humaneval+"


def test_prompts_are_asked_as_published(tmp_path: Path) -> None:
    (first, *_) = problems(tmp_path)
    assert first.forms["base"].prompt.startswith("from typing import List\n\n\ndef has_close_elements")
    assert first.forms["base"].stop == ("\nclass", "\ndef", "\n#", "\nif", "\nprint")
    assert first.forms["chat"].turns[0][1].startswith("Write a solution to the following problem")
    assert first.forms["chat"].stop == ("\nclass", "\ndef", "\n#", "\nif", "\nprint", "```")
    assert HumanEval.Config().maximum_tokens == 1024


@pytest.mark.parametrize("content", ["", "no json", '{"task_id": "x"}'])
def test_another_file_is_refused_with_what_was_expected(content: str, tmp_path: Path) -> None:
    file = tmp_path / "other.jsonl"
    file.write_text(content)
    with pytest.raises(kdtool.UsageError, match=r"humaneval\.plus.*HumanEvalPlus-OriginFmt"):
        problems(tmp_path, plus=file)
