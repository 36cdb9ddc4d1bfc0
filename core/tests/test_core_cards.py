"""Model cards: what an exporter says, and what was measured of its artefact."""

from __future__ import annotations

import json
from pathlib import Path

import kdtool
import pytest
from kdtool._cli import call
from kdtool._evaluate import Model
from kdtool._results.files import write_card
from toy_recipe import TOY, Recipe


def test_the_card_of_a_run_s_export_is_completed_by_its_exporter(recipe: Recipe) -> None:
    results = kdtool.run(recipe)
    artifact = results.arms[0].artifacts[0]
    card = (artifact.path.parent / "README.md").read_text(encoding="utf-8")
    assert card.startswith("# Counts\n\n")
    values = {(one.name, one.subject): one.value for one in results.measurements}
    assert f"nats of student-seed0-json: {values['nats', 'student-seed0-json']}\n" in card
    assert card.endswith(f"{results.verdict}\n")


def _export(recipe: Recipe, folder: Path, old: str, new: str) -> Recipe:
    """Return the recipe with a changed copy of the toy's exporter."""
    source = TOY.read_text(encoding="utf-8")
    assert old in source
    (folder / "own.py").write_text(source.replace(old, new), encoding="utf-8")
    return {**recipe, "exporters": {"json": {"use": "./own.py:Export"}}}


def test_an_exporter_that_cannot_complete_its_card_leaves_the_results(recipe: Recipe, tmp_path: Path) -> None:
    failing = _export(recipe, tmp_path, 'lines = [f"{one.name} of', 'raise ValueError("no"); lines = [f"{one.name} of')
    with pytest.raises(ValueError, match="no"):
        kdtool.run(failing)
    results = kdtool.load("toy")
    assert results.measurements
    card = results.arms[0].artifacts[0].path.parent / "README.md"
    assert card.read_text(encoding="utf-8") == "# Counts\n"


def test_a_card_that_the_exporter_wrote_itself_is_not_written_over(recipe: Recipe, tmp_path: Path) -> None:
    writes = '(target := run.folder / "README.md").touch()'
    with pytest.raises(kdtool.PluginError, match=r"returned a card and also wrote .*README\.md"):
        kdtool.run(_export(recipe, tmp_path, 'target = run.folder / "export.json"', writes))


def test_other_evaluators_change_the_card_and_not_the_model_and_a_damaged_one_is_written_anew(recipe: Recipe) -> None:
    artifact = kdtool.run(recipe).arms[0].artifacts[0]
    card = artifact.path.parent / "README.md"
    whole = card.read_bytes()
    assert b"nats of" in whole
    card.write_bytes(b"\xff" + whole[1:])
    assert all(stage.reused for stage in kdtool.run(recipe).stages)
    assert card.read_bytes() == whole
    again = kdtool.run(recipe, {"evaluators": False})
    assert again.arms[0].artifacts[0].path == artifact.path
    assert next(stage for stage in again.stages if stage.path == artifact.path.parent).reused
    assert card.read_text(encoding="utf-8") == "# Counts\n"


def test_exported_models_have_a_path_without_a_fingerprint(
    recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in (0, 5):  # the second model takes the first one's place
        results = kdtool.run({**recipe, "seeds": [seed]})
        link, artifact = results.folder / "exports" / "export.json", results.arms[0].artifacts[0]
        assert link.samefile(artifact.path)
        assert results.path_of(artifact) == link
    (tmp_path / "toy.yaml").write_text(json.dumps({**recipe, "seeds": [5]}), encoding="utf-8")
    capsys.readouterr()
    assert call(["run", str(tmp_path / "toy.yaml")]) == 0
    assert f"  {link}\n" in capsys.readouterr().out
    link.unlink()
    assert results.path_of(artifact) == artifact.path


FAILS = """
import kdtool


class Fails(kdtool.Evaluator):
    measures_jointly = True

    def kdtool_evaluate(self, run, subjects):
        raise kdtool.UsageError("no")
        yield
"""


def test_a_model_that_is_not_yet_measured_can_be_used_and_has_its_card(recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "failing.py").write_text(FAILS, encoding="utf-8")
    for _ in range(2):
        with pytest.raises(kdtool.UsageError):
            kdtool.run(recipe, {"evaluators": {"fails": {"use": "./failing.py:Fails"}}})
        assert Path("runs/toy/exports/export.json").is_file()
        (card,) = Path("runs").glob("*/exports/*/README.md")
        assert card.read_text(encoding="utf-8") == "# Counts\n"
        card.unlink()  # as if the run had been killed just before


def test_measuring_again_does_not_take_a_new_card_for_a_new_model(tmp_path: Path) -> None:
    write_card(kdtool.Artifact(tmp_path / "model.gguf", "gguf", 1), "# Model")
    assert not list(tmp_path.iterdir()), "an artifact without a card gets none"
    (tmp_path / "weights").write_text("1", encoding="utf-8")
    before = Model("model", "model", tmp_path).digest()
    (tmp_path / "README.md").write_text("# Model", encoding="utf-8")
    assert Model("model", "model", tmp_path).digest() == before
    (tmp_path / "weights").write_text("2", encoding="utf-8")
    assert Model("model", "model", tmp_path).digest() != before
