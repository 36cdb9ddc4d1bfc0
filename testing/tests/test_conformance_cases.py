"""Every suite passes sound components and refuses broken ones, by exactly the tests that should see the fault.

The components are in `cases/`; pytest runs them in a process of its own.
"""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from types import ModuleType

import pytest
from kdtool_testing import RegistrationConformance
from outcomes import outcomes_of

CASES = Path(__file__).with_name("cases")


def _module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _registration() -> str:
    """Return what deselects the tests of registration: these components are in no distribution."""
    names = {name for cls in RegistrationConformance.__mro__ for name in vars(cls) if name.startswith("test_")}
    return " or ".join(sorted(names))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "needs"), [("light_cases", ()), ("torch_cases", ("torch", "safetensors"))])
def test_suites_tell_sound_from_broken(name: str, needs: tuple[str, ...], tmp_path: Path) -> None:
    for library in needs:
        pytest.importorskip(library)
    path = Path(shutil.copy(CASES / f"{name}.py", tmp_path / f"test_{name}.py"))
    found: dict[str, set[str]] = {}
    for test, outcome, text in outcomes_of(tmp_path, "-k", f"not ({_registration()})"):
        assert "::" in test, text
        _, cls, function = test.split("::")
        failed = found.setdefault(cls, set())
        if outcome != "passed":
            failed.add(function.partition("[")[0])
    expected: dict[str, set[str]] = {
        name: vars(cls)["fails"] for name, cls in vars(_module(path)).items() if name.startswith("Test")
    }
    assert len(expected) > 10
    assert list(found) == list(expected)
    unseen = {name: missed for name, fails in expected.items() if (missed := fails - found[name])}
    wrongly = {name: more for name, fails in expected.items() if (more := found[name] - fails)}
    assert (unseen, wrongly) == ({}, {})
