"""A real run of pytest on test classes that try to get round their suite: each is a failure or an error, and says why."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

HEAD = """
import kdtool
import pytest
from kdtool.testing import CorpusConformance

class Two(kdtool.Corpus):
    "Two examples."
    def kdtool_examples(self, run):
        yield kdtool.Example("a", kdtool.Text("x"))
        yield kdtool.Example("b", kdtool.Text("y"))

"""

CASES = {
    "plain": ("class TestIt(CorpusConformance):\n    component = Two\n", "passed", ""),
    "replaced": (
        "class TestIt(CorpusConformance):\n    component = Two\n    def test_ids_are_unique(self): pass\n",
        "failed",
        "TestIt replaces test_ids_are_unique",
    ),
    "none": (
        "class TestIt(CorpusConformance):\n    component = Two\n    test_ids_are_unique = None\n",
        "failed",
        "TestIt replaces test_ids_are_unique",
    ),
    "switched_off": (
        "class TestIt(CorpusConformance):\n    __test__ = False\n    component = Two\n",
        "failed",
        "switches off",
    ),
    "no_component": ("class TestIt(CorpusConformance):\n    pass\n", "failed", "has no attribute 'component'"),
    "no_fixture": (
        "class TestIt(CorpusConformance):\n    component = Two\n    run = None\n",
        "failed",
        "'run' not found",
    ),
    "class_skipped": (
        "@pytest.mark.skip(reason='later')\nclass TestIt(CorpusConformance):\n    component = Two\n",
        "failed",
        "was skipped (Skipped: later)",
    ),
    "module_skipped": (
        "pytestmark = pytest.mark.skipif(True, reason='never')\n"
        "class TestIt(CorpusConformance):\n    component = Two\n",
        "failed",
        "was skipped (Skipped: never)",
    ),
    "skipped_by_settings": (
        "class TestIt(CorpusConformance):\n    component = Two\n"
        "    def prepared(self, folder): pytest.skip('no files')\n",
        "failed",
        "was skipped (Skipped: no files)",
    ),
    "skipped_by_a_fixture": (
        "class TestIt(CorpusConformance):\n    component = Two\n"
        "    @pytest.fixture\n    def run(self): pytest.skip('no run')\n",
        "failed",
        "was skipped (Skipped: no run)",
    ),
    "skipped_by_the_component": (
        "class Skips(Two):\n    'Skips.'\n    def kdtool_examples(self, run): pytest.skip('too hard')\n"
        "class TestIt(CorpusConformance):\n    component = Skips\n",
        "failed",
        "was skipped (Skipped: too hard)",
    ),
    "empty_list": (
        "class TestIt(CorpusConformance):\n    component = Two\n"
        "    @pytest.mark.parametrize('number', [])\n    def test_ids_are_unique_too(self, number): pass\n",
        "failed",
        "empty parameter set",
    ),
    "expected_without_reason": (
        "@pytest.mark.xfail\nclass TestIt(CorpusConformance):\n    component = Two\n"
        "    def prepared(self, folder): raise ValueError\n",
        "failed",
        "only for a reason",
    ),
    "expected_with_reason": (
        "class TestIt(CorpusConformance):\n    component = Two\n"
        "    @pytest.mark.xfail(reason='this corpus has two of each')\n"
        "    def test_ids_are_unique(self): raise ValueError\n",
        "skipped",
        "this corpus has two of each",
    ),
}


RECORDER = """
import json
def record(report):
    with open("outcomes.jsonl", "a", encoding="utf-8") as file:
        text = str(report.longrepr) + getattr(report, "wasxfail", "")
        file.write(json.dumps([report.nodeid, report.outcome, text]) + "\\n")
def pytest_runtest_logreport(report):
    if report.when == "call" or not report.passed:
        record(report)
def pytest_collectreport(report):
    if report.failed:
        record(report)
"""


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[tuple[str, str]]]:
    """Outcome and words of the tests of each case, from one run of pytest."""
    folder = tmp_path_factory.mktemp("guard")
    (folder / "conftest.py").write_text(RECORDER, encoding="utf-8")
    for name, (body, _, _) in CASES.items():
        (folder / f"test_{name}.py").write_text(HEAD + body, encoding="utf-8")
    options = ["-q", "-p", "no:cacheprovider", "--rootdir=.", "--continue-on-collection-errors"]
    command = [sys.executable, "-m", "pytest", *options, "-k", "test_ids_are_unique"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, encoding="utf-8")
    assert done.returncode == 1, done.stdout + done.stderr
    found: dict[str, list[tuple[str, str]]] = {}
    for line in (folder / "outcomes.jsonl").read_text(encoding="utf-8").splitlines():
        test, outcome, text = json.loads(line)
        found.setdefault(Path(test.partition("::")[0]).stem.removeprefix("test_"), []).append((outcome, text))
    return found


@pytest.mark.parametrize("name", CASES)
def test_a_suite_cannot_be_got_round(name: str, outcomes: dict[str, list[tuple[str, str]]]) -> None:
    _, outcome, words = CASES[name]
    assert any(found == outcome and words in text for found, text in outcomes[name]), outcomes[name]


def test_skips_of_other_tests_stay_skips(tmp_path: Path) -> None:
    content = "import pytest\nfrom kdtool.testing import make_run\n\ndef test_it():\n    pytest.skip('not here')\n"
    (tmp_path / "test_other.py").write_text(content, encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, encoding="utf-8")
    assert done.returncode == 0, done.stdout
    assert "1 skipped" in done.stdout
