"""Every suite passes sound components and refuses broken ones, by exactly the tests that should see the fault.

The components are in `cases/`; pytest runs them in a process of its own.
"""

from __future__ import annotations

import shutil
from importlib import import_module
from pathlib import Path

import pytest
from case import faults
from kdtool_testing import RegistrationConformance
from outcomes import outcomes_of


@pytest.mark.slow
@pytest.mark.parametrize(("name", "needs"), [("light_cases", ()), ("torch_cases", ("torch", "safetensors"))])
def test_suites_distinguish_sound_from_broken(name: str, needs: tuple[str, ...], tmp_path: Path) -> None:
    for library in needs:
        pytest.importorskip(library)
    folder = Path(shutil.copytree(Path(__file__).with_name("cases"), tmp_path / "cases"))
    # these components are in no distribution
    registration = {test for cls in RegistrationConformance.__mro__ for test in vars(cls) if test.startswith("test_")}
    found: dict[str, set[str]] = {}
    for test, outcome, text in outcomes_of(folder, f"{name}.py", "-k", f"not ({' or '.join(sorted(registration))})"):
        assert "::" in test, text
        _, cls, function = test.split("::")
        failed = found.setdefault(cls, set())
        if outcome != "passed":
            failed.add(function.partition("[")[0])
    expected = {name: faults(cls) for name, cls in vars(import_module(name)).items() if name.startswith("Test")}
    assert len(expected) > 10
    assert sorted(found) == sorted(expected)
    unseen = {name: missed for name, fails in expected.items() if (missed := fails - found[name])}
    wrongly = {name: more for name, fails in expected.items() if (more := found[name] - fails)}
    assert (unseen, wrongly) == ({}, {})
