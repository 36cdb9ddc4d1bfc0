"""Names that are made of other text are valid."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import kdtool
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kdtool._cli import call
from kdtool._text.names import NAME, name_from
from variants import variant


@given(st.text() | st.text(st.characters(codec="ascii")) | st.text("aé.-_ \udce9", min_size=60))
def test_whatever_is_made_a_name_is_one(text: str) -> None:
    assert NAME.fullmatch(name_from(text, "run"))
    assert NAME.fullmatch(name_from(text, "run", apart="x"))
    assert NAME.fullmatch(name_from(text, "run", dots=True).replace(".", "_"))
    if NAME.fullmatch(text) and text[-1] not in "-_":
        assert name_from(text, "run") == text


@pytest.mark.parametrize(
    ("one", "other"), [("modèle", "modele"), ("模型", "学生"), ("a" * 70, "a" * 71), ("na\udce9", "na\udce8")]
)
def test_names_stay_apart_where_letters_are_lost(one: str, other: str) -> None:
    assert name_from(one, "run") != name_from(other, "run")


@pytest.mark.parametrize(
    ("file", "begin", "name"),
    [
        ("a.b.yaml", "", "a-b"),
        ("my recipe.yaml", "", "my-recipe"),
        ("plain.yaml", '"name": null, ', "plain"),
        ("plain.yaml", '"name": "own", ', "own"),
        ("plain.yaml", '"name": 3, ', "3"),
    ],
)
def test_recipe_is_named_after_its_file(
    recipe: dict[str, Any], tmp_path: Path, file: str, begin: str, name: str
) -> None:
    del recipe["name"]
    (tmp_path / file).write_text("{" + begin + json.dumps(recipe)[1:], encoding="utf-8")
    assert kdtool.run(Path(file), {"seeds": [0], "control": False}).folder == tmp_path / "runs" / name


def test_a_name_that_is_none_is_refused_with_what_one_is(recipe: dict[str, Any]) -> None:
    with pytest.raises(kdtool.RecipeError, match="name: must be a name of up to 64 letters, digits, - or _ that"):
        kdtool.check({**recipe, "name": "a b"})


@pytest.mark.parametrize("name", ["my model (1)", "模型"])
def test_models_of_any_name_are_measured(
    recipe: dict[str, Any], tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "toy.yaml").write_text(json.dumps(recipe), encoding="utf-8")
    (tmp_path / name).mkdir()
    (tmp_path / name / "counts.json").write_text('{"97": 2.0}', encoding="utf-8")
    opener = f"exporters.json.use={variant('Opener')['use']}"
    arguments = [name, "--recipe", "toy.yaml", "--set", opener, "--with", "nats"]
    assert call(["eval", *arguments]) == 0, capsys.readouterr().err
    (folder,) = Path("runs").iterdir()
    assert NAME.fullmatch(folder.name)
    assert call(["eval", *arguments, "--name", "a b"]) == 2
    assert "the run's name (`--name`) must be a name of up to 64 letters" in capsys.readouterr().err
