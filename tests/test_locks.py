"""The lock files in `locks/`: in step with the packages, with hashes, and without an address."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from lock import NAMES, requirements
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent


def _entries(text: str) -> dict[str, list[str]]:
    """Versions by name."""
    found: dict[str, list[str]] = {}
    for name, version in re.findall(r"^([\w.-]+)==([^\s;]+)", text, re.MULTILINE):
        found.setdefault(canonicalize_name(name), []).append(version)
    return found


@pytest.mark.parametrize("name", NAMES)
def test_lock_has_a_version_that_each_requirement_allows(name: str) -> None:
    lock = (ROOT / "locks" / f"{name}.txt").read_text(encoding="utf-8")
    locked = _entries(lock + (ROOT / "constraints.txt").read_text(encoding="utf-8"))
    wanted = [Requirement(text) for text in requirements(name)]
    wrong = [
        str(requirement)
        for requirement in wanted
        for version in locked.get(canonicalize_name(requirement.name), [""])
        if not version or version not in requirement.specifier
    ]
    assert wanted
    assert not wrong, "run `python tests/lock.py`"


@pytest.mark.parametrize("name", NAMES)
def test_each_file_of_a_lock_is_named_by_its_hash_and_by_no_address(name: str) -> None:
    lock = (ROOT / "locks" / f"{name}.txt").read_text(encoding="utf-8")
    assert "://" not in lock
    assert not re.search(r"^(-|.* @ )", lock, re.MULTILINE)
    entries = re.split(r"^(?=[^\s#])", lock, flags=re.MULTILINE)[1:]
    assert entries
    assert all(re.search(r"\\\n +--hash=sha256:[0-9a-f]{64}", entry) for entry in entries)


def test_locks_agree_on_versions() -> None:
    """An environment that holds the quickstart becomes one with everything without replacing a package."""
    test, *others = (
        _entries((ROOT / "locks" / f"{name}.txt").read_text(encoding="utf-8"))
        for name in ("test", "everything", "quickstart", "tox")
    )
    for lock in others:
        assert lock.items() <= test.items()
