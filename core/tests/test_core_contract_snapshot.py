"""The contract is as last recorded; additions and breaking changes are named, with what to do."""

from __future__ import annotations

import json
from pathlib import Path

import contract_snapshot
import pytest
from contract_snapshot import current, differences, released


def test_the_contract_is_as_recorded() -> None:
    breaking, additions = differences(released(), current())
    remedy = "undo them, or raise the version as CONTRIBUTING.md says and name in CHANGELOG.md what plugins must change"
    assert not breaking, "\n  ".join([f"these changes break plugins; {remedy}:", *breaking])
    remedy = "run `python core/tests/contract_snapshot.py` and name what is new in CHANGELOG.md"
    assert not additions, "\n  ".join([f"the contract grew; {remedy}:", *additions])


OLD = {
    "Row": "class(object)",
    "Row.key": "required 0: str",
    "Row.count": "1: int = 0",
    "Loss": "class(Component)",
    "Loss.kdtool_token_loss": "hook(chunk: TokenChunk) -> Tensor | None",
    "run": "function -> Results",
    "run(recipe)": "required 0: Path",
}


@pytest.mark.parametrize(
    ("changes", "breaks"),
    [
        ({"Row.key": None}, True),
        ({"Row.count": "1: int = 1"}, True),
        ({"Row.more": "required 2: str"}, True),
        ({"Row.more": "2: str = ''"}, False),
        ({"Loss.kdtool_token_loss": "hook(chunk: TokenChunk, step: int) -> Tensor | None"}, True),
        ({"Loss.kdtool_more": "hook() -> None"}, False),
        ({"run(out)": "required 1: Path"}, True),
        ({"run(out)": "by name: Path = 'runs'"}, False),
        ({"New": "class(object)", "New.key": "required 0: str"}, False),
        ({"Loss": None}, True),
    ],
)
def test_breaks_are_told_from_additions(changes: dict[str, str | None], breaks: bool) -> None:
    new = {key: text for key, text in {**OLD, **changes}.items() if text is not None}
    breaking, additions = differences(OLD, new)
    assert bool(breaking) == breaks
    assert bool(additions) != breaks
    assert all(next(iter(changes)) in line for line in breaking)


def test_everything_that_plugins_name_is_in_it() -> None:
    found = current()
    expected = {"Teacher.kdtool_signal", "Hooks.component(name)", "Tokenizer.encode(text)", "RowSource.__len__"}
    assert expected | {"run(recipe)", "RecipeError", "testing.ComponentConformance.prepare"} <= found.keys()
    assert found["Teacher.kdtool_open"].endswith(" first")
    assert found["SignalRequest.temperature"] == "2: float = 1.0"
    assert found["RunInfo.folder"] == "required 2: Path"
    assert found["Loss.needs"] == "Needs = ()"


def test_writing_it_anew_hides_no_break(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    path = Path("contract.json")
    monkeypatch.setattr(contract_snapshot, "FILE", path)
    assert contract_snapshot.main() == 0
    content = json.loads(path.read_text(encoding="utf-8"))
    assert content == current()
    content.pop("SignalRequest.layers")
    path.write_text(json.dumps(content), encoding="utf-8")
    assert contract_snapshot.main() == 0
    assert "SignalRequest.layers is new" in capsys.readouterr().out
    content["SignalRequest.gone"] = "0: int = 0"
    path.write_text(json.dumps(content), encoding="utf-8")
    assert contract_snapshot.main() == 1
    assert "SignalRequest.gone is gone" in capsys.readouterr().err
    assert json.loads(path.read_text(encoding="utf-8")) == content
