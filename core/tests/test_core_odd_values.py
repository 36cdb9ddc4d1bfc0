"""Values that are no recipe's: misspelt keys and names, numbers beyond all sizes, pipes and devices in place of files."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import kdtool
import pytest
from kdtool._recipe.parser import load_recipe
from toy_recipe import TOY


def message_of(recipe: Any, settings: dict[str, Any] | None = None) -> str:
    with pytest.raises(kdtool.RecipeError) as caught:
        kdtool.check(recipe, settings)
    return str(caught.value)


def test_a_misspelt_key_of_the_core_is_suggested(recipe: dict[str, Any]) -> None:
    told = message_of(recipe, {"train.losses.count": {"use": f"{TOY}:Count", "wieght": 0.5}})
    assert "unknown setting of loss" in told
    assert "did you mean 'weight'?" in told


def test_one_name_in_place_of_a_list_is_told_the_list(recipe: dict[str, Any]) -> None:
    told = message_of(recipe, {"exporters": "safetensors"})
    assert "exporters: must be a list of different names or a mapping, not 'safetensors'" in told
    assert "write `exporters: [safetensors]`; or, for a component that has settings" in told
    assert "write `exporters: [NAME, …]`; or" in message_of(recipe, {"exporters": 7})


def test_a_number_beyond_all_sizes_is_refused(recipe: dict[str, Any]) -> None:
    for value in (2**63 - 1, -(2**53)):
        told = message_of(recipe, {"corpus.documents": value, "rows.length": 4})
        assert told.splitlines()[1:] == [
            f"  corpus.documents: must be within ±9,007,199,254,740,991 (2^53 - 1), not {value}"
        ]
    load_recipe(recipe, {"corpus.documents": 2**53 - 1})


REFUSES = """
import kdtool
from toy import Student

class Narrow(Student):
    class Config(kdtool.Config):
        layers: int = 1
    def kdtool_describe(self, run):
        raise kdtool.UsageError(f"layers: {self.config.layers} is more than 30")
"""


def test_a_refusal_by_a_component_has_the_place_of_its_setting(recipe: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "narrow.py").write_text(REFUSES, encoding="utf-8")
    told = message_of({**recipe, "student": {"use": "./narrow.py:Narrow", "layers": 40}})
    assert told.startswith("1 problem in the recipe:\n  recipe: student.layers: 40 is more than 30\n")


READS = """
import kdtool

class Lines(kdtool.Corpus):
    class Config(kdtool.Config):
        files: tuple[kdtool.RecipePath, ...] = kdtool.Field(min_length=1)
    def kdtool_examples(self, run):
        for path in self.config.files:
            yield kdtool.Example(path.name, kdtool.Text(path.read_text()), "train")
"""


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has neither")
def test_pipes_and_devices_are_refused_before_they_are_opened(recipe: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "reads.py").write_text(READS, encoding="utf-8")
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", "/dev/zero"):
        told = message_of({**recipe, "corpus": {"use": "./reads.py:Lines", "files": [name]}})
        assert told.startswith("1 problem in the recipe:\n  recipe: corpus.files.0: names a pipe or a device")


def test_seeds_and_mistakes_in_thousands_end_in_a_short_message(recipe: dict[str, Any]) -> None:
    assert "must be a list of at most 1,000 different whole numbers" in message_of(recipe, {"seeds": [*range(20_000)]})
    told = message_of({**recipe, **{f"key{number}": 1 for number in range(3000)}})
    assert told.startswith("3000 problems in the recipe:")
    assert told.endswith("\n  and 2,950 more; correct these first")
    assert len(told) < 50_000


def test_null_turns_off_on_the_command_line_and_means_defaults_in_a_file(
    recipe: dict[str, Any], tmp_path: Path
) -> None:
    assert load_recipe(recipe, {"evaluators.nats": "null", "exporters": "null"}).data["evaluators"] == {"nats": False}
    (tmp_path / "above.yaml").write_text("extends: below.yaml\nevaluators: {nats: null}\n", encoding="utf-8")
    (tmp_path / "below.yaml").write_text(json.dumps(recipe), encoding="utf-8")
    assert load_recipe(tmp_path / "above.yaml").data["evaluators"] == recipe["evaluators"]
