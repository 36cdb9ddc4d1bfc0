"""Every code block of the documents is executed, or checked as far as that costs nothing.

A page's blocks share a folder and a namespace, in order. In the folder lie a tiny `teacher`, the repository's `recipes`, and
in place of the recipe `quickstart` one with that teacher and little to do, which is `recipe.yaml`, too.

- A block whose first line is a comment with a file name (`# focal.py`, `# file: mine.yaml`) is written there.
- Files of text that pages name are there, with small functions in them; `qa.jsonl` holds a question.
- `python` runs, a file in a namespace of its own; tests of a package that is not installed are only compiled.
- `yaml` with keys of a recipe is checked by `kdtool check`; what a part of a recipe leaves out is filled in.
- `console`, `bash` and indented blocks are commands, behind `$ ` where output follows. What is cheap runs, and its output is
  compared (`…` stands for anything); of the rest, options and recipes are checked, those after `docker run IMAGE`, too.
  `DIR` stands for the teacher's folder.
- `json` and `toml` are parsed; `text` is no code.

`<!-- not run: REASON -->` directly above a block leaves it out. Recipes in READMEs of components are left to
`kdtool_testing.RegistrationConformance`.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import tomllib
from collections.abc import Callable, Mapping
from contextlib import suppress
from fnmatch import fnmatch
from itertools import pairwise
from pathlib import Path
from typing import Any

import click
import kdtool
import pytest
import yaml
from document_blocks import Block, blocks, compare
from kdtool._cli import call, cli
from kdtool._recipe.layers import COLLECTIONS, TOP_KEYS

ROOT = Path(__file__).resolve().parent.parent
READMES = sorted(path for path in ROOT.glob("*/*/README.md") if (path.parent / "pyproject.toml").exists())
DOCS = [
    path
    for path in sorted((ROOT / "docs").rglob("*.md"))
    if path.parent.name != "packages" and path.name != "your-own-loss.md"  # generated, and run by test_tutorial.py
]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *DOCS, *READMES]
LEFT_OUT = 5
"""Limit on the blocks of all pages that are left out."""


class Page:
    """Runs the blocks of one page in a folder of their own."""

    def __init__(self, folder: Path, capture: Callable[[], str], monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.capture = capture
        self.monkeypatch = monkeypatch
        self.namespace: dict[str, Any] = {"__name__": "__main__"}
        self.parts = 0
        self.installs = False

    def run(self, block: Block) -> None:
        """Run or check a block.

        Raises:
            AssertionError: it does not do what it says.
            Exception: whatever it raises.
        """
        if block.file:
            (self.folder / block.file).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / block.file).write_text(block.text, encoding="utf-8")
        getattr(self, f"_{block.language}", self._unknown)(block)

    def _unknown(self, block: Block) -> None:
        raise AssertionError(f"this test cannot check a block of {block.language!r}; plain output is `text`")

    def _text(self, block: Block) -> None:
        pass

    def _python(self, block: Block) -> None:
        """Run it; the empty lines in front make tracebacks show the page's lines."""
        code = compile("\n" * block.line + block.text, str(block.page), "exec")
        if not Path(block.file).name.startswith("test_"):
            exec(code, {"__name__": Path(block.file).stem} if block.file else self.namespace)  # noqa: S102 - our own

    def _json(self, block: Block) -> None:
        for line in block.text.splitlines() if block.text.count("\n{") else [block.text]:
            json.loads(line)

    def _toml(self, block: Block) -> None:
        tomllib.loads(block.text)

    def _yaml(self, block: Block) -> None:
        keys = yaml.safe_load(block.text)
        known = {*TOP_KEYS, *COLLECTIONS.values(), "extends"}
        assert isinstance(keys, dict), "this is no recipe"
        assert keys.keys() <= known, f"no keys of a recipe: {sorted(keys.keys() - known)}"
        path = self.folder / (block.file or "part.yaml")
        if not block.file:
            path.write_text(self._filled_in(keys) + block.text, encoding="utf-8")
        self._check(path)

    def _filled_in(self, keys: Mapping[str, Any]) -> str:
        """Write a recipe with what a part leaves out, and return the line that extends it."""
        if "extends" in keys:
            return ""
        singular = {key: kind for key, kind in COLLECTIONS.items() if key in keys}
        rest = {key: value for key, value in REST.items() if key not in keys and key not in singular.values()}
        self.parts += 1
        path = self.folder / f"rest-{self.parts}.yaml"
        path.write_text(yaml.safe_dump(rest), encoding="utf-8")
        return f"extends: {path.name}\n"

    def _check(self, recipe: Path, settings: Mapping[str, str] | None = None) -> None:
        with suppress(kdtool.ServiceError):  # then the recipe is good, and names a model that is not here
            kdtool.check(recipe, settings)

    def _console(self, block: Block) -> None:
        lines = block.text.replace("\\\n", " ").splitlines()
        prompts = any(line.startswith("$ ") for line in lines)
        commands: list[tuple[str, list[str]]] = []
        for line in lines:
            if not prompts or line.startswith("$ "):
                commands.append((line.removeprefix("$ ").partition(" # ")[0].strip(), []))
            else:
                commands[-1][1].append(line)
        for command, output in commands:
            if command:
                self._command(command, output)

    _bash = _console

    def _command(self, line: str, output: list[str]) -> None:
        checked = False
        for stage in line.partition(" > ")[0].split(" | "):
            words = [word.replace("DIR", "teacher") for word in shlex.split(stage)]
            for known, check in self._programs().items():
                if words[: len(known)] == list(known):
                    check(words[len(known) :], output)
                    checked = True
                    break
        assert checked, f"this test cannot check the command {line!r}"

    def _programs(self) -> dict[tuple[str, ...], Callable[[list[str], list[str]], None]]:
        return {
            ("kdtool",): self._kdtool,
            ("python", "bootstrap.py"): _bootstrap,
            ("pip", "install"): self._pip,
            ("python", "-m"): _module,
            ("docker", "build"): _docker_build,
            ("docker", "run"): self._docker_run,
            ("docker", "volume", "create"): lambda _, __: None,
            ("ray",): _ray,
            **dict.fromkeys([("export",), ("source",)], lambda _, __: None),
            ("cd",): self._cd,
            ("cp",): self._cp,
            # of a package that is not installed; tox runs them in its own environment
            **dict.fromkeys([("pytest",), ("tox", "run"), ("uv", "build"), ("uv", "publish")], lambda _, __: None),
        }

    def _cp(self, words: list[str], _: list[str]) -> None:
        shutil.copy(*words)

    def _cd(self, words: list[str], _: list[str]) -> None:
        """Go into a folder that an earlier command made."""
        self.folder = self.folder / words[0]
        self.monkeypatch.chdir(self.folder)

    def _docker_run(self, words: list[str], output: list[str]) -> None:
        """Check the arguments of kdtool, which follow the name of the image."""
        image = next(at for at, word in enumerate(words) if re.fullmatch("kdtool(-[a-z]+)?", word))
        self._kdtool([word.removeprefix("/opt/kdtool/") for word in words[image + 1 :]], output)

    def _pip(self, words: list[str], _: list[str]) -> None:
        """Nothing is installed: what follows the installation of a package of one's own is not checked against it."""
        self.installs = self.installs or "-e" in words or "." in words
        known = {path.parent: (path.parent / "pyproject.toml").read_text("utf-8") for path in READMES}
        names = {tomllib.loads(text)["project"]["name"] for text in known.values()}
        ours = {word.partition("[")[0] for word in words if word.startswith("kdtool")}
        assert ours <= {*names, "kdtool"}, f"no packages of the project: {sorted(ours - names)}"

    def _kdtool(self, words: list[str], output: list[str]) -> None:
        parsed = _parse(cli, words)
        name = parsed.command_path.split()[-1]
        if name == "run" and not self.installs:
            recipe, settings = self.folder / parsed.params["recipe"], parsed.params["settings"]
            self._check(recipe, settings)
            with suppress(kdtool.ServiceError):
                kdtool.plan(recipe, settings)
        runs = words[0] in RUN
        if name == "push":  # a dry run costs nothing, where the page made the run
            runs = not parsed.params["yes"] and Path("runs", parsed.params["run"]).is_dir()
        if runs or parsed.params.get("only_plan"):
            self.capture()
            code = call(words)
            shown = self.capture()
            assert code == 0 or output, f"kdtool {shlex.join(words)} ends with {code}:\n{shown}"
            compare(output, shown)


RUN = ("check", "claims", "new", "plugins", "schema", "runs", "clean", "--help", "--version")
"""Commands of kdtool that cost next to nothing."""

REST: Mapping[str, Any] = {
    "name": "part",
    "corpus": {"use": "python-source"},
    "rows": {"use": "packed", "length": 64},
    "teacher": {"use": "causal-lm", "model": "teacher", "dtype": "float32"},
    "student": {"use": "pruned", "layers": 3},
    "trainer": {"use": "standard"},
    "train": {"losses": {"ce": {}}, "steps": 2},
}
"""The rest of a recipe, for a part of one in a document."""

QUICKSTART = ROOT / "plugins/essentials/src/kdtool_essentials/recipes/quickstart.yaml"
TINY: Mapping[str, Any] = {
    "extends": str(QUICKSTART),
    "corpus": {"train_files": 8, "validation_files": 2, "test_files": 3},
    "rows": {"length": 64, "maximum_tokens": 2048},
    "teacher": {"use": "causal-lm", "model": "teacher", "dtype": "float32"},
    "student": {"layers": 3, "keep": None},
    "trainer": {"batch": 2, "dtype": "float32"},
    "train": {"steps": 8},
    "exporters": ["safetensors"],
    "evaluators": {
        "perplexity": {"limit": 3, "characters": 400},
        "line-completion": False,
        "samples": False,
        "efficiency": False,
    },
}
"""The quickstart with a tiny teacher and little to do."""


def _parse(command: click.Command, words: list[str], parent: click.Context | None = None) -> click.Context:
    """Parse arguments as the command line does, without calling anything."""
    rest = [word for word in words if not word.startswith("-")] if isinstance(command, click.Group) else []
    if not isinstance(command, click.Group) or not rest:
        return command.make_context(command.name or "kdtool", list(words), parent=parent)
    context = click.Context(command, parent=parent, info_name=command.name or "kdtool")
    found = command.get_command(context, rest[0])
    assert found is not None, f"there is no command {rest[0]!r}"
    return _parse(found, words[words.index(rest[0]) + 1 :], context)


def _bootstrap(words: list[str], _: list[str]) -> None:
    assert words[0] in {"quickstart", "everything", "benchmarks", "test"}


def _docker_build(words: list[str], _: list[str]) -> None:
    pairs = [*pairwise(words)]
    options, arguments = dict(pairs), [value for name, value in pairs if name == "--build-arg"]
    declared = re.findall(r"^ARG (\w+)", (ROOT / options["--file"]).read_text(encoding="utf-8"), re.MULTILINE)
    assert {argument.partition("=")[0] for argument in arguments} <= {*declared}, f"unknown arguments in {arguments}"


def _ray(words: list[str], _: list[str]) -> None:
    from ray.scripts.scripts import cli as ray

    _parse(ray, words)


def _module(words: list[str], _: list[str]) -> None:
    from importlib.util import find_spec

    assert find_spec(words[0]) is not None, f"there is no module {words[0]}"


def _write_texts(folder: Path) -> None:
    """Write the text that corpora of the pages read, of each form enough for a row of 512 tokens."""
    import pyarrow as pa
    from pyarrow import parquet

    code = [f"def add_{number}(value):\n    return value + {number}\n" for number in range(601, 661)]
    asked = [f"Write a function that adds {number}." for number in range(601, 661)]
    (folder / "src").mkdir()
    for number in range(20):
        (folder / "src" / f"part_{number}.py").write_text("".join(code[number : number + 40]), encoding="utf-8")
    pairs = list(zip(asked, code, strict=True))
    lines: dict[str, list[dict[str, Any]]] = {
        "chats": [
            {"messages": [{"role": "user", "content": ask}, {"role": "assistant", "content": text}]}
            for ask, text in pairs
        ],
        "mbpp": [
            {"task_id": number, "text": ask, "code": text, "test_list": [f"assert add_{number}(0) == {number}"]}
            for number, (ask, text) in enumerate(pairs, 601)
        ],
        "prompts": [{"prompt": ask} for ask in asked],
        "pairs": [{"prompt": ask, "chosen": text, "rejected": text.replace("+", "-")} for ask, text in pairs],
    }
    for name, objects in lines.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in objects), encoding="utf-8")
    table = pa.table({"content": code, "license": ["MIT"] * len(code)})
    parquet.write_table(table, folder / "code.parquet")


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that all pages share, as a reader's runs do."""
    return tmp_path_factory.mktemp("store")


@pytest.fixture
def page(
    tmp_path: Path,
    teacher_folder: Path,
    store: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Page:
    """A folder with what pages take for granted, which is the working folder."""
    monkeypatch.setenv("KDTOOL_STORE", str(store))
    monkeypatch.setenv("ANTHROPIC_API_KEY", "a check asks for one")
    shutil.copytree(teacher_folder, tmp_path / "teacher")
    shutil.copytree(ROOT / "recipes", tmp_path / "recipes")
    _write_texts(tmp_path)
    (tmp_path / "qa.jsonl").write_text('{"prompt": "2 + 3 =", "expected": "5"}\n', encoding="utf-8")
    for name in ("quickstart", "quickstart-seeds", "recipe.yaml"):  # files come before installed recipes
        (tmp_path / name).write_text(yaml.safe_dump(dict(TINY)), encoding="utf-8")

    def capture() -> str:
        out, error = capfd.readouterr()
        return out + error

    return Page(tmp_path, capture, monkeypatch)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_code_blocks_do_what_they_say(path: Path, page: Page) -> None:
    for block in blocks(path, path.read_text(encoding="utf-8")):
        if block.reason or (block.language == "yaml" and path in READMES):
            continue
        try:
            page.run(block)
        except (Exception, SystemExit) as error:
            error.add_note(f"{path.relative_to(ROOT)}:{block.line}")
            raise


def test_page_on_the_run_directory_names_every_file_that_a_run_leaves(recipe: dict[str, Any], tmp_path: Path) -> None:
    recipe["evaluators"] = {"perplexity": {"limit": 2, "characters": 200}}
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "def "}\n', encoding="utf-8")
    answers = {"use": "answers", "prompts": [str(tmp_path / "prompts.jsonl")], "max_tokens": 4, "keep_truncated": True}
    recipe["corpora"] = {"library": recipe.pop("corpus"), "answers": answers}
    adapt = {"trains": "teacher", "corpus": recipe["corpora"]["library"], "losses": {"ce": {}}, "steps": 1}
    recipe["train"] = {"adapt": adapt, "distil": recipe["train"]}
    results = kdtool.run(recipe, store=tmp_path / "store")
    text = (ROOT / "docs" / "run-directory.md").read_text(encoding="utf-8")
    for heading, folder in {"In the run's folder": results.folder, "In the store": tmp_path / "store"}.items():
        section = text.partition(f"## {heading}\n")[2].partition("\n## ")[0]
        named = [re.sub("[A-Z]{2,}|S(?=-)", "*", path) for path in re.findall(r"^\| `([^`]+)`", section, re.MULTILINE)]
        left = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
        left = {path for path in left if not path.endswith(".lock")}
        assert named
        assert [path for path in left if not any(fnmatch(path, pattern) for pattern in named)] == []
        assert [pattern for pattern in named if not any(fnmatch(path, pattern) for path in left)] == []


def test_readme_shows_the_quickstart_as_it_is() -> None:
    page = ROOT / "README.md"
    shown = next(block for block in blocks(page, page.read_text(encoding="utf-8")) if block.language == "yaml")
    recipe = QUICKSTART.read_text(encoding="utf-8")
    assert yaml.safe_load(shown.text) == yaml.safe_load(recipe)


def test_blocks_are_left_out_for_a_reason_and_seldom() -> None:
    found = [block for path in PAGES for block in blocks(path, path.read_text(encoding="utf-8")) if block.reason]
    assert len(found) <= LEFT_OUT, [f"{block.page}:{block.line}" for block in found]
    assert all(len(block.reason) > 20 for block in found)
