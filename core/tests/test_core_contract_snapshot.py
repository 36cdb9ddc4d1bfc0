"""The contract is as last recorded; additions and breaking changes are named, with what to do."""

from __future__ import annotations

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
