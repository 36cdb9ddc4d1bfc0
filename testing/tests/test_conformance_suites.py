"""The conformance suites refuse what is broken: each case is a component with one fault and the test that must see it.

Every suite passes sound components and refuses broken ones, by exactly the tests that should see the fault.

The components are in `cases/`; pytest runs them in a process of its own.

A real run of pytest on test classes that try to get round their suite: each is a failure or an error, and says why.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from importlib import import_module
from itertools import count
from pathlib import Path
from typing import Any, ClassVar

import click
import kdtool
import pydantic
import pytest
from case import faults, subject
from kdtool_testing import (
    CommandConformance,
    ComponentConformance,
    CorpusConformance,
    PackerConformance,
    RegistrationConformance,
    make_run,
)
from kdtool_testing.model_checks import check_tokenizer
from kdtool_testing.toy import SpacedTokenizer
from outcomes import outcomes_of

FAULTS = (AssertionError, pytest.fail.Exception)


def fails(suite: type[ComponentConformance], test: str, component: type[kdtool.Component], *given: Any) -> None:
    """Assert that a suite's test, as a subclass on `component` would run it, fails."""
    with pytest.raises(FAULTS):
        getattr(subject(suite, component), test)(*given)


class Undescribed(kdtool.Corpus):
    """A corpus."""

    class Config(kdtool.Config):
        """Settings."""

        number: int = 3
        lost: float = kdtool.Field(default=0.0, ge=0)
        """Described."""


class Loose(kdtool.Corpus):
    """A corpus whose bound is only for show."""

    class Config(kdtool.Config):
        """Settings."""

        number: int = kdtool.Field(default=3, json_schema_extra={"minimum": 1})
        """A number."""


def test_settings_must_be_described_and_bounded() -> None:
    fails(ComponentConformance, "test_its_class_and_every_setting_are_described", Undescribed)
    fails(ComponentConformance, "test_its_numbers_have_bounds", Undescribed)
    fails(ComponentConformance, "test_values_just_outside_bounds_are_refused", Loose)


class Inner(kdtool.Config):
    """The service."""

    host: str = "example.org"
    """The address of the service."""


@pytest.mark.parametrize(
    ("name", "annotation", "default", "about"),
    [
        ("address", str, "auto", "The cluster."),
        ("server_url", str | None, None, "The service."),
        ("proxies", dict[str, str], {}, "By scheme."),
        ("place", str, "somewhere", "HOST:PORT of the service."),
        ("target", str, "https://example.org", "The service."),
        ("peers", tuple[Inner, ...], (), "The others."),
        ("env", list[str], [], "Names."),
        ("forwarded", tuple[str, ...], (), "Environment variables that workers get."),
        ("hub_token", pydantic.SecretStr | None, None, "For the Hub."),
        ("key_variable", str, "EXAMPLE_API_KEY", "Of the service."),
    ],
)
def test_addresses_and_variables_must_be_typed(name: str, annotation: Any, default: Any, about: str) -> None:
    field: Any = (annotation, kdtool.Field(default, description=about))
    config = pydantic.create_model("Config", __base__=kdtool.Config, **{name: field})
    component = type("Sends", (kdtool.Corpus,), {"Config": config})
    fails(ComponentConformance, "test_addresses_and_names_of_variables_are_typed", component)


def test_unknown_settings_must_be_refused() -> None:
    class Open(kdtool.Corpus):
        class Config(kdtool.Config, extra="ignore"):
            """Settings."""

    fails(ComponentConformance, "test_unknown_settings_are_refused", Open)


def test_a_hook_that_does_not_exist_is_seen() -> None:
    component = type("Misspelt", (kdtool.Corpus,), {"kdtool_exampels": lambda self, run: None})
    fails(ComponentConformance, "test_nothing_hinders_its_registration", component)


def corpus(make: Any, identity: Mapping[str, str] | None = None) -> type[kdtool.Corpus]:
    methods = {"kdtool_examples": lambda self, run: make(), "kdtool_identity": lambda self, run: identity}
    return type("Some", (kdtool.Corpus,), methods)


def test_corpora_must_be_stable_unique_and_say_their_identity(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    numbers = count()
    text = kdtool.Text("x")

    fails(CorpusConformance, "test_ids_are_unique", corpus(lambda: [kdtool.Example("a", text)] * 2), run)
    random = corpus(lambda: [kdtool.Example(f"a{next(numbers)}", text)])
    fails(CorpusConformance, "test_the_same_examples_come_in_the_same_order", random, run)
    fails(CorpusConformance, "test_examples_are_given_one_by_one", corpus(list), run)
    fails(CorpusConformance, "test_examples_are_well_formed", corpus(list), run)
    loud = corpus(lambda: [kdtool.Example("a", text, language="Python")])
    fails(CorpusConformance, "test_examples_are_well_formed", loud, run)
    fails(CorpusConformance, "test_what_it_was_made_from_is_said_and_stable", corpus(list), run)


def packer(rows: Any) -> type[kdtool.Packer]:
    return type("Some", (kdtool.Packer,), {"kdtool_rows": lambda self, run, examples, tokenizer: rows(examples)})


def one_row_each(examples: Iterable[kdtool.Example], key: Any = None) -> Iterator[kdtool.Row]:
    """Make rows of 32 bytes of whatever text there is, prompts learned and all."""
    for number, example in enumerate(examples):
        ids = list(json.dumps(str(example.body)).encode()[:32].ljust(32))
        yield kdtool.Row(key(number, example) if key else f"{number} {ids}", ids, [True] * 32, [0] * 32)


def test_packers_must_stream_label_rightly_and_name_rows_by_content(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    fails(PackerConformance, "test_only_completions_are_learned", packer(one_row_each), run)
    fails(PackerConformance, "test_only_the_assistant_s_turns_are_learned", packer(one_row_each), run)
    by_number = packer(lambda examples: one_row_each(examples, lambda number, _: str(number)))
    fails(PackerConformance, "test_keys_change_with_the_text", by_number, run)
    by_text = packer(lambda examples: one_row_each(examples, lambda _, example: str(example.body)))
    fails(PackerConformance, "test_keys_stay_unique_where_texts_repeat", by_text, run)
    numbers = count()
    by_chance = packer(lambda examples: one_row_each(examples, lambda *_: str(next(numbers))))
    fails(PackerConformance, "test_keys_are_unique_and_the_same_each_time", by_chance, run)
    padded = packer(lambda examples: (kdtool.Row("a", [1, 2], [True, True], [0, -1]) for _ in examples))
    fails(PackerConformance, "test_tokens_and_documents_are_well_formed", padded, run)
    uneven = packer(lambda examples: (kdtool.Row(f"{i}", [1] * i, [True], [0]) for i, _ in enumerate(examples)))
    fails(PackerConformance, "test_rows_have_one_length_in_all_their_parts", uneven, run)


def test_packers_that_give_annotations_to_the_wrong_tokens_are_seen(tmp_path: Path) -> None:
    class Carrying(kdtool.Packer):
        """One row of each text, 16 bytes long; `late` by so many tokens."""

        carries_annotations = True
        late = 0

        def kdtool_rows(self, run: Any, examples: Iterable[kdtool.Example], tokenizer: Any) -> Iterator[kdtool.Row]:
            for example in examples:
                if isinstance(example.body, kdtool.Text):
                    ids, part = list(example.body.text.encode()[:16]), slice(self.late, self.late + 16)
                    columns = {name: values[part] for name, values in example.annotations.items()}
                    yield kdtool.Row(example.id, ids, [True] * 16, [0] * 16, columns)

    test, run = "test_annotations_come_to_the_tokens_that_are_learned", make_run(tmp_path)
    getattr(subject(PackerConformance, Carrying), test)(run)
    fails(PackerConformance, test, type("Late", (Carrying,), {"late": 1}), run)
    silent = type("Silent", (packer(one_row_each),), {"carries_annotations": True})
    fails(PackerConformance, test, silent, run)


class Apart(kdtool.Packer):
    """One row of each text, whose parts are encoded as if nothing stood before."""

    def kdtool_rows(self, run: Any, examples: Iterable[kdtool.Example], tokenizer: Any) -> Iterator[kdtool.Row]:
        for example in examples:
            ids = [token for part in kdtool.parts_of(example.body) for token in self.encoded(part, tokenizer)]
            yield kdtool.Row(example.id, ids, [True] * len(ids), [0] * len(ids))

    def encoded(self, part: str, tokenizer: Any) -> list[int]:
        return list(tokenizer.encode(part))


class Behind(Apart):
    """The same, each part as what stands behind another."""

    def encoded(self, part: str, tokenizer: Any) -> list[int]:
        return list(tokenizer.encode_behind("x", part))


def test_packers_and_tokenizers_that_put_a_space_between_a_prompt_and_its_completion_are_seen(tmp_path: Path) -> None:
    test, run = "test_a_completion_follows_its_prompt_as_in_the_text", make_run(tmp_path)
    getattr(subject(PackerConformance, Behind), test)(run)
    fails(PackerConformance, test, Apart, run)

    check_tokenizer(SpacedTokenizer(), tmp_path / "right")
    wrong = type("Wrong", (SpacedTokenizer,), {"encode_behind": kdtool.Tokenizer.encode_behind})
    with pytest.raises(AssertionError, match="follows it unchanged"):
        check_tokenizer(wrong(), tmp_path / "wrong")


class Hoarder(kdtool.Packer):
    """Reads ahead by far more than a row."""

    read: ClassVar[int] = 0

    def kdtool_rows(self, run: kdtool.RunInfo, examples: Any, tokenizer: Any) -> Iterator[kdtool.Row]:
        first = []
        for example in examples:
            first.append(example)
            if len(first) > 100_000:
                raise AssertionError("would never have ended")
        yield from one_row_each(first)


def test_packers_that_collect_all_examples_first_are_seen(tmp_path: Path) -> None:
    fails(PackerConformance, "test_rows_come_before_the_examples_end", Hoarder, make_run(tmp_path))


def test_commands_must_be_described() -> None:
    silent = click.Command("silent", params=[click.Option(["--fast"])])
    for test in ("test_it_is_a_command_that_says_what_it_does", "test_its_options_and_arguments_are_explained"):
        for command in (silent, print):
            subject = type("Subject", (CommandConformance,), {"command": command, "__module__": __name__})()
            with pytest.raises((AssertionError, AttributeError)):
                getattr(subject, test)()
    told = click.Command("told", help="Does it.", params=[click.Option(["--fast"], help="Faster.")])
    subject = type("Subject", (CommandConformance,), {"command": told, "__module__": __name__})()
    subject.test_it_is_a_command_that_says_what_it_does()
    subject.test_its_options_and_arguments_are_explained()


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
