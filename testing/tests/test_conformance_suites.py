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
from case import subject
from kdtool_testing import CommandConformance, ComponentConformance, CorpusConformance, PackerConformance, make_run
from kdtool_testing.model_checks import check_tokenizer
from kdtool_testing.toy import SpacedTokenizer

FAULTS = (AssertionError, pytest.fail.Exception)


def fails(suite: type[ComponentConformance], test: str, component: type[kdtool.Component], *given: Any) -> None:
    """Assert that a suite's test, as a subclass on `component` would run it, fails."""
    with pytest.raises(FAULTS):
        getattr(subject(suite, component), test)(*given)


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


# --- commands ---


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
