"""The order in which packages enter the index: all of them, and each after what it needs."""

from __future__ import annotations

from pathlib import Path

import publishing_order
import pytest
from hypothesis import given
from hypothesis import strategies as st
from packages import declared, folder_of, folders
from packaging.requirements import Requirement
from publishing_order import PER_DAY, order, wheel_of


@given(st.dictionaries(st.integers(0, 9), st.sets(st.integers(0, 9)), min_size=1), st.data())
def test_a_package_comes_after_what_it_needs(edges: dict[int, set[int]], data: st.DataObject) -> None:
    projects = {f"p{name}": [f"p{needed}" for needed in sorted(edges[name]) if needed < name] for name in edges}
    first = data.draw(st.lists(st.sampled_from(sorted(projects)), unique=True))
    names = order(projects, first)
    assert sorted(names) == sorted(projects)
    assert all(
        names.index(needed) < names.index(name) for name in names for needed in projects[name] if needed in names
    )


def _days(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[list[str]]:
    assert publishing_order.main(list(arguments)) == 0
    lines = capsys.readouterr().out.splitlines()
    return [line.partition(": ")[2].split() for line in lines if line.startswith("day")]


def test_every_package_is_published_on_one_day_the_quickstart_first(capsys: pytest.CaptureFixture[str]) -> None:
    days = _days(capsys)
    names = [name for day in days for name in day]
    assert sorted(names) == sorted(declared(folder)["project"]["name"] for folder in folders())
    assert max(map(len, days)) == PER_DAY
    assert names[0] == "kdtool"
    extra = declared(folder_of("kdtool"))["project"]["optional-dependencies"]["quickstart"]
    minimal = {"kdtool"}
    waiting = [Requirement(text).name for text in extra]
    while waiting:
        name = waiting.pop()
        if name in names and name not in minimal:
            minimal.add(name)
            waiting += [Requirement(text).name for text in declared(folder_of(name))["project"]["dependencies"]]
    assert set(names[: len(minimal)]) == minimal


def test_one_day_is_printed_as_names_or_files_for_a_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    second = _days(capsys, "--per-day", "6")[1]
    assert publishing_order.main(["--per-day", "6", "2"]) == 0
    assert capsys.readouterr().out.split() == second
    for folder in folders():
        name = declared(folder)["project"]["name"].replace("-", "_")
        (tmp_path / f"{name}-0.1.0-py3-none-any.whl").touch()
    assert publishing_order.main(["--per-day", "6", "--wheels", str(tmp_path), "2"]) == 0
    assert capsys.readouterr().out.split() == [str(wheel_of(name, tmp_path)) for name in second]
