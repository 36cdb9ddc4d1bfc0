"""A real run of pytest on test classes that try to get round their suite: each is a failure or an error, and says why."""

from __future__ import annotations

import re
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

IT = "class TestIt(CorpusConformance):\n    component = Two\n"
UNIQUE = "    def test_ids_are_unique(self): raise ValueError\n"
CASES = {
    "replaced": (IT + UNIQUE, "TestIt replaces test_ids_are_unique"),
    "none": (IT + "    test_ids_are_unique = None\n", "TestIt replaces test_ids_are_unique"),
    "replaced_by_a_mixin": (
        f"class Mixin:\n{UNIQUE}class TestIt(Mixin, CorpusConformance):\n    component = Two\n",
        "Mixin replaces test_ids_are_unique",
    ),
    "replaced_without_reason": (f"{IT}    @pytest.mark.xfail\n{UNIQUE}", "TestIt replaces test_ids_are_unique"),
    "undermined": (IT + "    def _examples(self, run): return []\n", "TestIt replaces _examples"),
    "switched_off": (IT + "    __test__ = False\n", "switches off"),
    "no_component": (
        "class TestIt(CorpusConformance):\n    pass\n",
        "write `component = …`, the corpus class under test",
    ),
    "no_command": (
        "class TestIt(CommandConformance):\n    component = print\n    entry_point = 'x'\n",
        "write `command = …`, the click command",
    ),
    "no_settings": (
        "class Asks(Two):\n    'Asks.'\n    class Config(kdtool.Config):\n        file: str\n"
        "class TestIt(CorpusConformance):\n    component = Asks\n    entry_point = 'x'\n",
        'give `settings`: Asks requires file; write `settings = {"file": …}`',
    ),
    "no_fixture": (IT + "    run = None\n", "'run' not found"),
    "class_skipped": (f"@pytest.mark.skip(reason='later')\n{IT}", "was skipped (Skipped: later)"),
    "module_skipped": (f"pytestmark = pytest.mark.skipif(True, reason='never')\n{IT}", "was skipped (Skipped: never)"),
    "skipped_by_settings": (
        IT + "    def prepare(self, folder): pytest.skip('no files')\n",
        "was skipped (Skipped: no files)",
    ),
    "skipped_by_a_fixture": (
        IT + "    @pytest.fixture\n    def run(self): pytest.skip('no run')\n",
        "was skipped (Skipped: no run)",
    ),
    "skipped_by_the_component": (
        f"{IT}    class component(Two):\n        'Skips.'\n"
        "        def kdtool_examples(self, run): pytest.skip('too hard')\n",
        "was skipped (Skipped: too hard)",
    ),
    "empty_list": (
        IT + "    @pytest.mark.parametrize('number', [])\n    def test_ids_are_unique_too(self, number): pass\n",
        "empty parameter set",
    ),
    "expected_without_reason": (
        f"@pytest.mark.xfail\n{IT}    def prepare(self, folder): raise ValueError\n",
        "only for a reason",
    ),
}
"""Each gets round a test of its suite; the words explain the failure."""
OTHERS = {
    "plain": IT,
    "expected_with_reason": f"{IT}    @pytest.mark.xfail(reason='this corpus has two of each')\n{UNIQUE}",
    "skips": "def test_registered(): pytest.skip('not here')\n",
    "settings": IT
    + (
        "class TestSecond(TestIt):\n    pass\n"
        "class Three(Two):\n    'Three examples.'\n"
        "class TestOther(TestIt):\n    component = Three\n"
    ),
    "expected": f"@pytest.mark.xfail(reason='all of it')\n{IT}class TestSecond(CorpusConformance):\n    component = Two\n",
}
Outcomes = dict[str, list[tuple[str, str, str]]]


def outcomes_by_file(folder: Path, tests: str) -> Outcomes:
    """Return class and test, outcome and words of each test of a folder, by the case that its file is named after."""
    found: Outcomes = {}
    for test, outcome, text in outcomes_of(folder, "-k", tests):
        file, _, name = test.partition("::")
        found.setdefault(Path(file).stem.removeprefix("test_"), []).append((name, outcome, text))
    return found


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Outcomes:
    """Tests of each case, from one run of pytest."""
    folder = tmp_path_factory.mktemp("guard")
    for name, body in {**{name: body for name, (body, _) in CASES.items()}, **OTHERS}.items():
        (folder / f"test_{name}.py").write_text(HEAD + body, encoding="utf-8")
    return outcomes_by_file(folder, "ids_are_unique or registered or breaking_version")


@pytest.mark.parametrize("name", CASES)
def test_a_suite_cannot_be_got_round(name: str, outcomes: Outcomes) -> None:
    found = [(outcome, text) for test, outcome, text in outcomes[name] if "::" not in test or "unique" in test]
    assert any(outcome == "failed" and CASES[name][1] in text for outcome, text in found), found


def test_a_test_may_be_replaced_by_one_that_is_expected_to_fail_for_a_reason(outcomes: Outcomes) -> None:
    (found,) = [(outcome, text) for name, outcome, text in outcomes["expected_with_reason"] if "unique" in name]
    assert found[0] == "skipped"
    assert "this corpus has two of each" in found[1]


@pytest.mark.parametrize("name", ["no_component", "no_command", "no_settings"])
def test_a_class_without_what_it_tests_is_one_error(name: str, outcomes: Outcomes) -> None:
    assert len(outcomes[name]) == 1


def test_a_class_of_a_local_file_passes_all_but_its_registration(outcomes: Outcomes) -> None:
    found = outcomes["plain"]
    assert sorted(outcome for _, outcome, _ in found) == ["failed", "failed", "passed"]
    assert all("write `entry_point = …`" in text for _, outcome, text in found if outcome == "failed")


def test_skips_of_other_tests_stay_skips(outcomes: Outcomes) -> None:
    ((_, outcome, _),) = outcomes["skips"]
    assert outcome == "skipped"


def test_what_settings_do_not_change_is_tested_once_for_a_component(outcomes: Outcomes, tmp_path: Path) -> None:
    ran = [name.partition("::test_")[0] for name, _, _ in outcomes["settings"] if "registered" in name]
    assert ran == ["TestIt", "TestOther"]
    every = [name.partition("::test_")[0] for name, _, _ in outcomes["settings"] if "unique" in name]
    assert every == ["TestIt", "TestSecond", "TestOther"]
    assert [outcome for name, outcome, _ in outcomes["expected"] if "registered" in name] == ["skipped", "failed"]
    (tmp_path / "test_settings.py").write_text(HEAD + OTHERS["settings"], encoding="utf-8")
    (alone,) = outcomes_by_file(tmp_path, "TestSecond and registered")["settings"]
    assert alone[0].startswith("TestSecond")


def test_a_heavy_import_is_seen_where_it_happens(tmp_path: Path) -> None:
    content = "from kdtool_testing import CorpusConformance\n"
    for module in ("json", "numpy", "decimal"):
        source = f"import kdtool\nimport {module}\n\nclass Own(kdtool.Corpus):\n    pass\n"
        (tmp_path / f"with_{module}.py").write_text(source, encoding="utf-8")
        content += f"from with_{module} import Own as {module}\n"
        content += f"class Test_{module}(CorpusConformance):\n    component = {module}\n"
    (tmp_path / "test_imports.py").write_text(content, encoding="utf-8")
    found = {name: (outcome, text) for name, outcome, text in outcomes_by_file(tmp_path, "light")["imports"]}
    assert [outcome for outcome, _ in found.values()] == ["passed", "failed", "passed"]
    text = found["Test_numpy::test_importing_and_building_it_is_light"][1]
    assert re.search(r"with_numpy\.py.*line 2[\s\S]*numpy is imported", text)
