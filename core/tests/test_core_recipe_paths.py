"""Paths in settings start at the file of the recipe in which they stand, and a recipe's folder can be moved."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import kdtool
import pytest
from kdtool._assembly.assemble import assemble
from kdtool._recipe.parser import load_recipe
from kdtool._results.files import component_record

READS = '''
import hashlib
from collections.abc import Mapping

import kdtool


class Nested(kdtool.Config):
    file: kdtool.RecipePath | None = None


class Reads(kdtool.Corpus):
    """Sentences of files."""

    class Config(kdtool.Config):
        file: kdtool.RecipePath
        more: tuple[kdtool.RecipePath, ...] = ()
        nested: Nested = Nested()
        named: Mapping[str, kdtool.RecipePath] = {}
        model: kdtool.RecipePathOrName = "owner/name"
        text: str = ""

    config: Config

    def kdtool_identity(self, run):
        return {"file": hashlib.sha256(self.config.file.read_bytes()).hexdigest()}

    def kdtool_examples(self, run):
        for number, line in enumerate(self.config.file.read_text().splitlines()):
            yield kdtool.Example(str(number), kdtool.Text(line), "test" if number % 3 == 0 else "train")
'''


@pytest.fixture
def written(recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe and its data in `first/inner`, with its corpus in `first`; the working directory is another one."""
    inner = tmp_path / "first" / "inner"
    inner.mkdir(parents=True)
    (inner.parent / "reads.py").write_text(READS, encoding="utf-8")
    (inner / "text.txt").write_text("".join(f"sentence {number} of twelve\n" for number in range(12)))
    corpus = {"use": "../reads.py:Reads", "file": "text.txt", "more": ["a", "../b"], "text": "text.txt"}
    (inner / "recipe.yaml").write_text(json.dumps({**recipe, "corpus": corpus}), encoding="utf-8")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return inner / "recipe.yaml"


def config_of(path: Path | dict[str, Any], **settings: Any) -> Any:
    with assemble(load_recipe(path, settings)) as assembly:
        (corpus,) = assembly.of_kind("corpus").values()
        return corpus.config


def test_paths_start_at_the_recipe_and_other_text_stays(written: Path) -> None:
    config = config_of(written)
    assert config.file == written.parent / "text.txt"
    assert config.more == (written.parent / "a", written.parent / "../b")
    assert config.text == "text.txt"


def test_each_layer_has_its_own_folder(written: Path) -> None:
    top = Path("top.yaml")
    top.write_text(
        f"extends: {written}\ncorpus: {{more: [c], nested: {{file: d}}, named: {{x: e, y: /f}}}}\n", encoding="utf-8"
    )
    config = config_of(top.absolute(), **{"corpus.nested.file": "g"})
    here = Path.cwd()
    assert config.file == written.parent / "text.txt"
    assert [path.absolute() for path in config.more] == [here / "c"]
    assert config.nested.file.absolute() == here / "g"
    assert {name: path.absolute() for name, path in config.named.items()} == {"x": here / "e", "y": Path("/f")}
    mapping = {"extends": str(written), "corpus": {"file": "h"}}
    assert (config_of(mapping).file, config_of(mapping).more[0]) == (Path("h"), written.parent / "a")


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("owner/name", "owner/name"),
        ("auto", "auto"),
        ("./owner", "{}/owner"),
        ("../owner", "{}/../owner"),
        ("here", "{}/here"),
        ("/there", "/there"),
        ("x" * 5000, "x" * 5000),
    ],
)
def test_a_name_is_a_path_where_it_looks_like_one_or_is_there(model: str, expected: str, written: Path) -> None:
    (written.parent / "here").mkdir()
    Path("auto").mkdir()  # of the working directory
    data = json.loads(written.read_text("utf-8"))
    data["corpus"]["model"] = model
    written.write_text(json.dumps(data), encoding="utf-8")
    assert config_of(written).model == expected.format(written.parent)


def test_a_path_of_the_home_folder_is_expanded(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/reader")
    monkeypatch.setenv("USERPROFILE", "/home/reader")
    assert config_of(written, **{"corpus.file": "~/text.txt"}).file == Path("/home/reader/text.txt")


def test_a_moved_recipe_makes_nothing_again_and_no_record_holds_the_folder(written: Path) -> None:
    one = {"seeds": [0], "control": False}
    kdtool.run(written, one)
    with assemble(load_recipe(written, one)) as assembly:
        records = [component_record(built).config for built in assembly.built.values()]
    assert records[0]["file"] == "text.txt"
    moved = Path(shutil.move(written.parents[1], "second")) / "inner" / written.name
    assert {stage.action for stage in kdtool.plan(moved, one)} == {"reuse"}
    (moved.parent / "text.txt").write_text("other\n" * 12)
    assert "run" in {stage.action for stage in kdtool.plan(moved, one)}


@pytest.mark.parametrize(
    "content",
    ["root:*:20228:0:99:7:::\ndaemon:*:20228\n", "root: 20228\nname: daemon\n", "root: [20228\n", "root 20228\n", ""],
)
def test_a_file_elsewhere_that_is_not_a_recipe_is_named_without_its_content(tmp_path: Path, content: str) -> None:
    own = tmp_path / "own"
    own.mkdir()
    (tmp_path / "shadow").write_text(content, encoding="utf-8")
    (own / "link.yaml").symlink_to(tmp_path / "shadow")
    (own / "recipe.yaml").write_text("extends: ../shadow\n", encoding="utf-8")
    (own / "linked.yaml").write_text("extends: link.yaml\n", encoding="utf-8")
    for name in ("recipe.yaml", "linked.yaml"):
        with pytest.raises(kdtool.RecipeError) as refused:
            load_recipe(own / name)
        (problem,) = refused.value.problems
        assert (problem.key, problem.line) == ("extends", 1)
        assert "outside the recipe's folder, is not a recipe" in problem.message
        assert not {"root", "daemon", "20228"} & {*str(refused.value).replace(":", " ").split()}
        assert refused.value.__context__ is None


def test_mistakes_of_a_recipe_elsewhere_are_shown(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "base.yaml").write_text("seeds: [a]\n", encoding="utf-8")
    (tmp_path / "own" / "recipe.yaml").write_text("extends: ../base.yaml\n", encoding="utf-8")
    with pytest.raises(kdtool.RecipeError, match="seeds: must be a list"):
        load_recipe(tmp_path / "own" / "recipe.yaml")
