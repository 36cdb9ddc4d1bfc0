"""A real run of pytest on test classes that try to get round their suite: each is a failure or an error, and says why."""

from __future__ import annotations

from pathlib import Path

import pytest
from outcomes import outcomes_of

HEAD = """
import kdtool
import pytest
from kdtool_testing import CommandConformance, CorpusConformance

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
    "undermined": (
        "class TestIt(CorpusConformance):\n    component = Two\n    def _examples(self, run): return []\n",
        "failed",
        "TestIt replaces _examples",
    ),
    "switched_off": (
        "class TestIt(CorpusConformance):\n    __test__ = False\n    component = Two\n",
        "failed",
        "switches off",
    ),
    "no_component": (
        "class TestIt(CorpusConformance):\n    pass\n",
        "failed",
        "write `component = …`, the corpus class under test",
    ),
    "no_command": (
        "class TestIt(CommandConformance):\n    component = print\n    entry_point = 'x'\n",
        "failed",
        "write `command = …`, the click command",
    ),
    "no_settings": (
        "class Asks(Two):\n    'Asks.'\n    class Config(kdtool.Config):\n        file: str\n"
        "class TestIt(CorpusConformance):\n    component = Asks\n    entry_point = 'x'\n",
        "failed",
        'give `settings`: Asks requires file; write `settings = {"file": …}`',
    ),
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
        "    def prepare(self, folder): pytest.skip('no files')\n",
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
        "    def prepare(self, folder): raise ValueError\n",
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


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[tuple[str, str]]]:
    """Outcome and words of the tests of each case, from one run of pytest."""
    folder = tmp_path_factory.mktemp("guard")
    for name, (body, _, _) in CASES.items():
        (folder / f"test_{name}.py").write_text(HEAD + body, encoding="utf-8")
    found: dict[str, list[tuple[str, str]]] = {}
    for test, outcome, text in outcomes_of(folder, "-k", "test_ids_are_unique"):
        found.setdefault(Path(test.partition("::")[0]).stem.removeprefix("test_"), []).append((outcome, text))
    return found


@pytest.mark.parametrize("name", CASES)
def test_a_suite_cannot_be_got_round(name: str, outcomes: dict[str, list[tuple[str, str]]]) -> None:
    _, outcome, words = CASES[name]
    assert any(found == outcome and words in text for found, text in outcomes[name]), outcomes[name]


@pytest.mark.parametrize("name", ["no_component", "no_command", "no_settings"])
def test_a_class_without_what_it_tests_is_one_error(name: str, outcomes: dict[str, list[tuple[str, str]]]) -> None:
    assert len(outcomes[name]) == 1


def test_a_class_of_a_local_file_passes_all_but_its_registration(tmp_path: Path) -> None:
    (tmp_path / "test_local.py").write_text(HEAD + CASES["plain"][0], encoding="utf-8")
    found = outcomes_of(tmp_path, "-k", "registered or breaking_version or ids_are_unique")
    assert sorted(outcome for _, outcome, _ in found) == ["failed", "failed", "passed"]
    assert all("write `entry_point = …`" in text for _, outcome, text in found if outcome == "failed")


def test_skips_of_other_tests_stay_skips(tmp_path: Path) -> None:
    content = "import pytest\nfrom kdtool_testing import make_run\n\ndef test_it():\n    pytest.skip('not here')\n"
    (tmp_path / "test_other.py").write_text(content, encoding="utf-8")
    ((_, outcome, _),) = outcomes_of(tmp_path)
    assert outcome == "skipped"
