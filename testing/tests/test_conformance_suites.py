"""The conformance suites refuse what is broken: each case is a component with one fault and the test that must see it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import click
import kdtool
import pytest
from kdtool_testing import CommandConformance, ComponentConformance, CorpusConformance, PackerConformance, make_run
from kdtool_testing.model_checks import check_tokenizer
from kdtool_testing.readme_examples import uses
from kdtool_testing.toy import SpacedTokenizer

FAULTS = (AssertionError, pytest.fail.Exception)


def fails(
    suite: type[ComponentConformance], test: str, component: type[kdtool.Component], *given: Any, **more: Any
) -> None:
    """Assert that a suite's test, as a subclass on `component` would run it, fails."""
    subject = type("Subject", (suite,), {"component": component, "entry_point": "x", "__module__": __name__, **more})()
    with pytest.raises(FAULTS):
        getattr(subject, test)(*given)


# --- the guard ---


def test_a_suite_s_test_cannot_be_deleted() -> None:
    with pytest.raises(TypeError, match="replaces test_ids_are_unique"):
        type("Bad", (CorpusConformance,), {"test_ids_are_unique": None, "__module__": __name__})


def test_a_suite_s_test_cannot_be_replaced_by_way_of_a_mixin() -> None:
    class Mixin:
        def test_ids_are_unique(self) -> None:
            """Pass whatever happens."""

    with pytest.raises(TypeError, match=r"Mixin replaces test_ids_are_unique"):
        type("Bad", (Mixin, CorpusConformance), {"__module__": __name__})


def test_a_suite_cannot_be_switched_off() -> None:
    with pytest.raises(TypeError, match="switches off"):
        type("Bad", (CorpusConformance,), {"__test__": False, "__module__": __name__})


def test_a_test_may_be_replaced_by_one_that_is_expected_to_fail_for_a_reason() -> None:
    @pytest.mark.xfail(reason="two files of this corpus have the same id")
    def expected(self: CorpusConformance) -> None:
        raise AssertionError

    @pytest.mark.xfail
    def silent(self: CorpusConformance) -> None:
        raise AssertionError

    type("Fine", (CorpusConformance,), {"test_ids_are_unique": expected, "__module__": __name__})
    with pytest.raises(TypeError, match="replaces"):
        type("Bad", (CorpusConformance,), {"test_ids_are_unique": silent, "__module__": __name__})


# --- every component ---


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


def test_unknown_settings_must_be_refused() -> None:
    class Open(kdtool.Corpus):
        class Config(kdtool.Config, extra="ignore"):
            """Settings."""

    fails(ComponentConformance, "test_unknown_settings_are_refused", Open)


def test_a_heavy_import_is_seen_where_it_happens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = "import kdtool\nimport {}\n\nclass Heavy(kdtool.Corpus):\n    pass\n"
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    for module, heavy in (("light_module", "json"), ("heavy_module", "numpy")):
        (tmp_path / f"{module}.py").write_text(source.format(heavy), encoding="utf-8")
        component = type("Heavy", (kdtool.Corpus,), {"__module__": module})
        subject = type("Subject", (ComponentConformance,), {"component": component, "__module__": __name__})()
        if heavy == "json":
            subject.test_importing_and_building_it_is_light()
        else:
            with pytest.raises(AssertionError, match=r"heavy_module\.py.*line 2[\s\S]*numpy is imported"):
                subject.test_importing_and_building_it_is_light()


def test_a_hook_that_does_not_exist_is_seen() -> None:
    component = type("Misspelt", (kdtool.Corpus,), {"kdtool_exampels": lambda self, run: None})
    fails(ComponentConformance, "test_nothing_hinders_its_registration", component)


# --- corpora ---


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


# --- packers ---


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
    getattr(type("Subject", (PackerConformance,), {"component": Carrying, "__module__": __name__})(), test)(run)
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
        """Return the tokens of a part."""
        return list(tokenizer.encode(part))


class Behind(Apart):
    """The same, each part as what stands behind another."""

    def encoded(self, part: str, tokenizer: Any) -> list[int]:
        """Return the tokens of a part."""
        return list(tokenizer.encode_behind("x", part))


def test_packers_and_tokenizers_that_put_a_space_between_a_prompt_and_its_completion_are_seen(tmp_path: Path) -> None:
    test, run = "test_a_completion_follows_its_prompt_as_in_the_text", make_run(tmp_path)
    getattr(type("Subject", (PackerConformance,), {"component": Behind, "__module__": __name__})(), test)(run)
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


# --- examples of READMEs, commands ---


def test_a_readme_s_recipe_is_assembled_with_stand_ins_for_what_is_missing(tmp_path: Path) -> None:
    own = f"use: {json.dumps(f'{tmp_path.as_posix()}/own.py:Own')}"
    source = 'import kdtool\n\nclass Own(kdtool.Filter):\n    "Keeps all."\n    def kdtool_filter(self): ...\n'
    (tmp_path / "own.py").write_text(source, encoding="utf-8")
    whole = f"teacher: {{use: not-installed, size: 3}}\nfilters:\n  own: {{{own}}}\n"
    kinds = {kind for kind, _ in uses(whole, tmp_path / "whole")}
    assert {"teacher", "filter", "loss", "trainer"} <= kinds
    assert ("filter", f"{tmp_path.as_posix()}/own.py:Own") in uses(whole, tmp_path / "again")
    phases = "extends: mine.yaml\ntrain:\n  first: {losses: {not-installed: {weight: 0.5}}, steps: 3}\n"
    assert {kind for kind, _ in uses(phases, tmp_path / "phases")} >= {"loss", "corpus"}
    for number, (block, message) in enumerate(
        {
            "teachher: {use: x}\n": "did you mean",
            f"filters:\n  own: {{{own}, size: 3}}\n": "unknown setting of filter",
            "train: {losses: {ce: {weight: -1}}, steps: 3}\n": "weight",
        }.items()
    ):
        with pytest.raises(kdtool.RecipeError, match=message):
            uses(block, tmp_path / f"bad{number}")
    with pytest.raises(ValueError, match="is not a file"):
        uses("extends: quickstart\n", tmp_path / "nowhere")


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


def test_a_package_without_a_readme_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    suite = type("Subject", (CommandConformance,), {"entry_point": "x", "__module__": __name__})()
    monkeypatch.setattr("kdtool_testing.suite.find", lambda *_: SimpleNamespace(distribution="mine"))
    bare = SimpleNamespace(metadata=SimpleNamespace(json={}))
    monkeypatch.setattr("kdtool_testing.suite.distribution", lambda _: bare)
    monkeypatch.setattr("kdtool_testing.suite.inspect.getfile", lambda _: "/nowhere/tests/test_x.py")
    with pytest.raises(AssertionError, match=r"mine has no README: write README\.md"):
        suite.test_its_readme_names_it()
