"""Model cards: what an exporter says, and what was measured of its artefact."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import kdtool
import kdtool_testing
import pytest
from kdtool._cli import call
from kdtool._evaluate import Model
from kdtool._results.files import link_export, write_card
from kdtool._store.shared import bytes_below


def test_the_card_of_a_run_s_export_is_completed_by_its_exporter(recipe: dict[str, Any]) -> None:
    results = kdtool.run(recipe)
    artifact = results.arms[0].artifacts[0]
    card = (artifact.path.parent / "README.md").read_text(encoding="utf-8")
    assert card.startswith("# Counts\n\n")
    values = {(one.name, one.subject): one.value for one in results.measurements}
    assert f"nats of student-seed0-json: {values['nats', 'student-seed0-json']}\n" in card
    assert card.endswith(f"{results.verdict}\n")


def test_a_card_is_the_exporter_s_first_one_if_it_does_not_complete_it(recipe: dict[str, Any], tmp_path: Path) -> None:
    text = Path(recipe["exporters"]["json"]["use"].rpartition(":")[0]).read_text(encoding="utf-8")
    (tmp_path / "own.py").write_text(text.replace("def kdtool_card", "def card"), encoding="utf-8")
    results = kdtool.run({**recipe, "exporters": {"json": {"use": f"{tmp_path / 'own.py'}:Export"}}})
    card = results.arms[0].artifacts[0].path.parent / "README.md"
    assert card.read_text(encoding="utf-8") == "# Counts\n"


def test_an_exporter_that_cannot_complete_its_card_leaves_the_results(recipe: dict[str, Any], tmp_path: Path) -> None:
    text = Path(recipe["exporters"]["json"]["use"].rpartition(":")[0]).read_text(encoding="utf-8")
    failing = text.replace('lines = [f"{one.name} of', 'raise ValueError("no"); lines = [f"{one.name} of')
    (tmp_path / "own.py").write_text(failing, encoding="utf-8")
    with pytest.raises(ValueError, match="no"):
        kdtool.run({**recipe, "exporters": {"json": {"use": f"{tmp_path / 'own.py'}:Export"}}})
    results = kdtool.load("toy")
    assert results.measurements
    card = results.arms[0].artifacts[0].path.parent / "README.md"
    assert card.read_text(encoding="utf-8") == "# Counts\n"


def test_other_evaluators_change_the_card_and_not_the_model(recipe: dict[str, Any]) -> None:
    artifact = kdtool.run(recipe).arms[0].artifacts[0]
    card = artifact.path.parent / "README.md"
    assert "nats of" in card.read_text(encoding="utf-8")
    again = kdtool.run(recipe, {"evaluators": False})
    assert again.arms[0].artifacts[0].path == artifact.path
    assert next(stage for stage in again.stages if stage.path == artifact.path.parent).reused
    assert card.read_text(encoding="utf-8") == "# Counts\n"


def test_exported_models_have_a_path_without_a_fingerprint(
    recipe: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in (0, 5):  # the second model takes the first one's place
        results = kdtool.run({**recipe, "seeds": [seed]})
        link, artifact = results.folder / "exports" / "export.json", results.arms[0].artifacts[0]
        assert link.samefile(artifact.path)
        assert results.path_of(artifact) == link
    (tmp_path / "toy.yaml").write_text(json.dumps({**recipe, "seeds": [5]}), encoding="utf-8")
    capsys.readouterr()
    assert call(["run", str(tmp_path / "toy.yaml")]) == 0
    assert f"model: {link}" in capsys.readouterr().out.splitlines()
    link.unlink()
    assert results.path_of(artifact) == artifact.path


def test_a_model_of_several_files_is_linked_as_a_folder(tmp_path: Path) -> None:
    path_of = kdtool_testing.make_results(tmp_path).path_of
    made = tmp_path / "exports" / "safetensors-0123" / "safetensors"
    for content in ("first", "second"):
        made.mkdir(parents=True, exist_ok=True)
        (made / "weights").unlink(missing_ok=True)
        (made / "weights").write_text(content, encoding="utf-8")
        artifact = kdtool.Artifact(made, "safetensors", 5)
        link_export(artifact, tmp_path)
        link = path_of(artifact)
        assert link == tmp_path / "exports" / "safetensors"
        assert (link / "weights").samefile(made / "weights")
    assert bytes_below(tmp_path) == len("second")
    alike = tmp_path / "exports" / "half-4567" / "safetensors"
    alike.mkdir(parents=True)
    link_export(kdtool.Artifact(alike, "safetensors", 0), tmp_path)
    assert path_of(kdtool.Artifact(alike, "safetensors", 0)) == tmp_path / "exports" / "half"
    assert (link / "weights").exists(), "folders of two exporters may have one name"
    whole = kdtool.Artifact(made.parent, "safetensors", 5)
    link_export(whole, tmp_path)
    assert (path_of(whole) / "safetensors" / "weights").is_file()


def test_of_two_files_with_one_name_the_last_is_linked(tmp_path: Path) -> None:
    path_of = kdtool_testing.make_results(tmp_path).path_of
    for folder in ("one-0123", "two-4567"):
        (tmp_path / "exports" / folder).mkdir(parents=True)
        (tmp_path / "exports" / folder / "model").write_text(folder, encoding="utf-8")
        link_export(kdtool.Artifact(tmp_path / "exports" / folder / "model", "gguf", 8), tmp_path)
    first, second = (
        kdtool.Artifact(tmp_path / "exports" / folder / "model", "gguf", 8) for folder in ("one-0123", "two-4567")
    )
    assert path_of(first) == first.path
    assert path_of(second) == tmp_path / "exports" / "model"


def test_a_file_that_lies_elsewhere_has_its_own_path(tmp_path: Path) -> None:
    results = kdtool_testing.make_results(tmp_path)
    for path in (tmp_path / "exports", tmp_path / "exports" / "model", tmp_path.parent / "model"):
        assert results.path_of(kdtool.Artifact(path, "gguf", 8)) == path
        path.mkdir(exist_ok=True)
        link_export(kdtool.Artifact(path, "gguf", 8), tmp_path)
        assert path.is_dir()


def test_a_model_can_be_used_while_it_is_measured(recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("kdtool._run.execute.write_report", stop)
    with pytest.raises(KeyboardInterrupt):
        kdtool.run(recipe)
    (link,) = Path("runs").glob("*/exports/export.json")
    assert link.is_file()


def test_a_damaged_card_is_written_anew(recipe: dict[str, Any]) -> None:
    artifact = kdtool.run(recipe).arms[0].artifacts[0]
    card = artifact.path.parent / "README.md"
    whole = card.read_bytes()
    card.write_bytes(b"\xff" + whole[1:])
    assert all(stage.reused for stage in kdtool.run(recipe).stages)
    assert card.read_bytes() == whole


def test_a_model_that_is_not_yet_measured_has_its_card(recipe: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(kdtool.KdtoolError):
        kdtool.run(recipe, {"evaluators": {"fails": {"use": f"{_write_failing(tmp_path)}:Fails"}}})
    (card,) = Path("runs").glob("*/exports/*/README.md")
    assert card.read_text(encoding="utf-8") == "# Counts\n"


def _write_failing(folder: Path) -> Path:
    file = folder / "failing.py"
    file.write_text(
        "import kdtool\n\n\nclass Fails(kdtool.Evaluator):\n    measures_jointly = True\n\n"
        "    def kdtool_evaluate(self, run, subjects):\n"
        "        raise kdtool.UsageError('no')\n        yield\n",
        encoding="utf-8",
    )
    return file


def test_a_card_that_the_exporter_wrote_itself_is_not_written_over(recipe: dict[str, Any], tmp_path: Path) -> None:
    text = Path(recipe["exporters"]["json"]["use"].rpartition(":")[0]).read_text(encoding="utf-8")
    own = text.replace('target = run.folder / "export.json"', '(target := run.folder / "README.md").touch()')
    (tmp_path / "own.py").write_text(own, encoding="utf-8")
    with pytest.raises(kdtool.PluginError, match=r"returned a card and also wrote .*README\.md"):
        kdtool.run({**recipe, "exporters": {"json": {"use": f"{tmp_path / 'own.py'}:Export"}}})


def test_who_has_no_card_gets_none(tmp_path: Path) -> None:
    write_card(kdtool.Artifact(tmp_path / "model.gguf", "gguf", 1), "# Model")
    assert not list(tmp_path.iterdir())


def test_an_interrupted_run_leaves_no_export_without_a_card(recipe: dict[str, Any], tmp_path: Path) -> None:
    artifact = kdtool.run(recipe, {"evaluators": False}).arms[0].artifacts[0]
    (artifact.path.parent / "README.md").unlink()  # as if it had been killed just before
    with pytest.raises(kdtool.KdtoolError):
        kdtool.run(recipe, {"evaluators": {"fails": {"use": f"{_write_failing(tmp_path)}:Fails"}}})
    assert (artifact.path.parent / "README.md").read_text(encoding="utf-8") == "# Counts\n"


def test_measuring_again_does_not_take_a_new_card_for_a_new_model(tmp_path: Path) -> None:
    (tmp_path / "weights").write_text("1", encoding="utf-8")
    before = Model("model", "model", tmp_path).digest()
    (tmp_path / "README.md").write_text("# Model", encoding="utf-8")
    assert Model("model", "model", tmp_path).digest() == before
    (tmp_path / "weights").write_text("2", encoding="utf-8")
    assert Model("model", "model", tmp_path).digest() != before
