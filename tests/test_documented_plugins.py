"""The pages on writing plugins: their examples are what `kdtool new` makes, run as files, and pass tests as packages."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import kdtool
import pytest
from click.testing import CliRunner
from kdtool._cli import cli
from kdtool._plugins.registry import GROUPS
from whole_runs import rows_of, without

DOCS = Path(__file__).resolve().parent.parent / "docs"


class Example(NamedTuple):
    """The example of a page: `kdtool new KIND NAME`, the file with its code, and a short file before it."""

    kind: str
    name: str
    file: str
    code: str
    first_file: str
    first_code: str

    @property
    def class_name(self) -> str:
        """The component's class."""
        return _class_name(self.code)

    @property
    def first_class_name(self) -> str:
        """The class of the first example."""
        return _class_name(self.first_code)

    @property
    def import_name(self) -> str:
        """The module of its package."""
        return f"kdtool_{self.kind}_{self.name.replace('-', '_')}"


def examples() -> Mapping[str, Example]:
    """Return the example of every kind of component or command."""
    return {
        path.stem.removeprefix("write-a-"): _example(path)
        for path in sorted(DOCS.glob("write-a-*.md"))
        if path.stem != "write-a-plugin"
    }


def _example(path: Path) -> Example:
    text = path.read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n# (?:file: )?([\w.]+)\n(.*?)```", text, re.DOTALL)
    created = re.search(r"kdtool new ([a-z]+) ([a-z0-9-]+)", text)
    if len(blocks) < 2 or created is None or created[1] != path.stem.removeprefix("write-a-"):
        raise ValueError(f"{path} must show two files with examples, and how to make a package of the second")
    return Example(created[1], created[2], *blocks[1], *blocks[0])


def _class_name(code: str) -> str:
    found = re.search(r"^class (\w+)\([A-Za-z.]+\):", code, re.MULTILINE)
    return found[1] if found else ""


EXAMPLES = examples()
COMPUTING = {"teacher", "cache", "student", "transform", "loss", "weighting", "trainer", "optimizer"}
"""Kinds whose suites compute with torch: 7 to 45 seconds."""


@pytest.mark.parametrize("kind", sorted(set(GROUPS) - {"loss"}))  # the loss is README's, which does without types
def test_an_example_is_what_a_new_package_holds(kind: str) -> None:
    example = EXAMPLES[kind]
    CliRunner().invoke(cli, ["new", kind, example.name], catch_exceptions=False)
    module = Path(f"kdtool-{kind}-{example.name}", "src", example.import_name, "__init__.py")
    assert module.read_text(encoding="utf-8") == example.code


def recipe() -> dict[str, Any]:
    """Return a run of which every part is an example, from files beside it."""
    used = {}
    for kind, example in EXAMPLES.items():
        Path(example.file).write_text(example.code, encoding="utf-8")
        used[kind] = f"./{example.file}:{example.class_name}"
    return {
        "name": "files",
        "corpus": {"use": used["corpus"], "characters": 500},
        "filters": {"repeated": {"use": used["filter"]}},
        "rows": {"use": used["packer"], "length": 48},
        "teacher": {"use": used["teacher"], "files": 5},
        "student": {"use": used["student"], "layers": 2, "heads": 2},
        "trainer": {"use": used["trainer"], "learning_rate": 0.2},
        "train": {
            "transforms": {"shrink": {"use": used["transform"]}},
            "weightings": {"beginnings": {"use": used["weighting"]}},
            "losses": {"focal": {"use": used["loss"]}},
            "steps": 12,
        },
        "evaluators": {"swapped-lines": {"use": used["evaluator"], "limit": 4, "characters": 300}},
        "exporters": {"int8": {"use": used["exporter"]}},
        "trackers": {"csv": {"use": used["tracker"], "required": True}},
        "reporter": {"use": used["reporter"]},
    }


def test_a_run_of_which_no_part_is_ours() -> None:
    results = kdtool.run(recipe())
    assert {component.distribution for component in results.components} == {""}
    history = results.arms[0].histories["train"]
    assert history[-1].terms["focal"].value < history[0].terms["focal"].value
    assert {found.subject for found in results.measurements} == {"teacher", "student", "student-int8"}
    for found in results.measurements:
        assert (found.low, found.high) == (None, None), "four lines are too few for an interval"
    assert results.report is not None
    assert "swapped-lines" in results.report.read_text(encoding="utf-8")
    assert len((results.folder / "losses.csv").read_text(encoding="utf-8").splitlines()) == 13


def test_the_first_examples_of_all_pages_work_in_one_run(capsys: pytest.CaptureFixture[str]) -> None:
    used = {}
    for kind, example in EXAMPLES.items():
        Path(example.first_file).write_text(example.first_code, encoding="utf-8")
        used[kind] = f"./{example.first_file}:{example.first_class_name}"
    results = kdtool.run(
        {
            "name": "first",
            "corpus": used["corpus"],
            "filters": {"mine": {"use": used["filter"]}},
            "rows": {"use": "packed", "length": 64, "maximum_tokens": 2560},
            "teacher": used["teacher"],
            "signals": used["cache"],
            "student": used["student"],
            "trainer": {"use": used["trainer"], "batch": 2, "learning_rate": 1e-3, "compile": "off"},
            "optimizer": used["optimizer"],
            "train": {
                "transforms": {"mine": {"use": used["transform"]}},
                "weightings": {"mine": {"use": used["weighting"]}},
                "losses": {"mine": {"use": used["loss"]}},
                "steps": 8,
            },
            "evaluators": {"mine": {"use": used["evaluator"]}},
            "exporters": {"mine": {"use": used["exporter"]}},
            "trackers": {"mine": {"use": used["tracker"], "required": True}},
            "reporter": used["reporter"],
        }
    )
    history = results.arms[0].histories["train"]
    assert history[-1].terms["mine"].value < history[0].terms["mine"].value
    assert {found.name for found in results.measurements} == {"returns"}
    assert results.report is not None
    assert results.report.read_text(encoding="utf-8").startswith(f"first\n{results.verdict}\n")
    (exported,) = results.folder.glob("exports/*/*.zip")
    assert exported.samefile(results.folder / "exports" / exported.name)
    said = "".join(capsys.readouterr())
    assert re.search(r"signals of \d+ rows: ", said)
    assert "student, step 8 of 8: loss " in said


def test_the_teacher_s_tokens_are_recorded_by_a_cache_from_a_file() -> None:
    cache = EXAMPLES["cache"]
    signals = {"use": f"./{cache.file}:{cache.class_name}", "k": 8}
    plain = without(recipe(), "evaluators", "exporters", "reporter")
    train = {"losses": {"forward-kl": {}}, "steps": 12}
    history = kdtool.run({**plain, "signals": signals, "train": train}).arms[0].histories["train"]
    assert history[-1].terms["forward-kl"].value < history[0].terms["forward-kl"].value


def test_a_weighting_from_a_file_labels_text_and_weighs_tokens() -> None:
    page = (DOCS / "write-a-weighting.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n# file: nested.py\n(.*?)```", page, re.DOTALL)
    Path("nested.py").write_text(code, encoding="utf-8")
    plain = without(recipe(), "evaluators", "exporters", "reporter")
    train = {"weightings": {"nested": {"use": "./nested.py:Nested"}}, "losses": {"ce": {}}, "steps": 12}
    corpus = {"use": "python-source", "train_files": 2, "validation_files": 1, "test_files": 1}
    packed = {**plain, "corpus": corpus, "rows": {"use": "packed", "length": 48, "maximum_tokens": 960}}
    results = kdtool.run({**packed, "train": train})
    assert {depth for row in rows_of(results, "rows/train") for depth in row.columns["depth"]} >= {0, 1}
    with pytest.raises(kdtool.RecipeError, match="does not carry labels to tokens"):
        kdtool.check({**plain, "train": train})


def create(kind: str, name: str) -> Path:
    CliRunner().invoke(cli, ["new", kind, name, "--bare"], catch_exceptions=False)
    return Path(f"kdtool-{kind}-{name}").absolute()


def declare_installed(package: Path, site: Path) -> None:
    """Write what pip would write beside the modules of an installed package."""
    project = tomllib.loads((package / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    info = site / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir(parents=True)
    lines = ["Metadata-Version: 2.1", f"Name: {project['name']}", f"Version: {project['version']}"]
    lines += [f"Requires-Dist: {requirement}" for requirement in project["dependencies"]]
    (info / "METADATA").write_text("\n".join(lines) + "\n", encoding="utf-8")
    ((group, points),) = project["entry-points"].items()
    ((name, value),) = points.items()
    (info / "entry_points.txt").write_text(f"[{group}]\n{name} = {value}\n", encoding="utf-8")


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, marks=[pytest.mark.slow, *([pytest.mark.nightly] if kind != "loss" else [])])
        if kind in COMPUTING
        else kind
        for kind in sorted(GROUPS)
    ],
)
def test_a_bare_package_passes_its_own_tests(kind: str, tmp_path: Path) -> None:
    run_tests(create(kind, "mine"), tmp_path)


@pytest.mark.slow
def test_the_company_s_teacher_passes_its_own_tests_as_printed(tmp_path: Path) -> None:
    package = create("teacher", "house")
    page = (DOCS / "company-teacher.md").read_text(encoding="utf-8")
    (code, test) = re.findall(r"```python\n# (?:file: )?[\w./-]+\n(.*?)```", page, re.DOTALL)
    (package / "src" / "kdtool_teacher_house" / "__init__.py").write_text(code, encoding="utf-8")
    (package / "tests" / "test_kdtool_teacher_house.py").write_text(test, encoding="utf-8")
    run_tests(package, tmp_path)


def run_tests(package: Path, tmp_path: Path) -> None:
    declare_installed(package, tmp_path / "site")
    paths = os.pathsep.join([str(package / "src"), str(tmp_path / "site")])
    done = subprocess.run(
        [sys.executable, "-P", "-m", "pytest", "-q", str(package)],
        env={**os.environ, "PYTHONPATH": paths},
        cwd=package,
        capture_output=True,
        text=True,
        check=False,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("kind", sorted(GROUPS))
def test_a_bare_plugin_is_the_first_example_of_its_page(kind: str) -> None:
    example = EXAMPLES[kind]
    names = {'"hello"': '"mine"', "def hello": "def mine_command", '"returns"': '"mine"'}
    if example.first_class_name:
        names[example.first_class_name] = f"Mine{kind.capitalize()}"
    code = example.first_code
    for name, new in names.items():
        code = code.replace(name, new)
    (module,) = create(kind, "mine").glob("src/*/__init__.py")
    assert module.read_text(encoding="utf-8") == code
