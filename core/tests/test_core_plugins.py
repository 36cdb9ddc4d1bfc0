"""Registration, hooks and registries: an author's mistakes are named, and nothing is imported before it is used."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kdtool
import pytest
from kdtool._cli import call
from kdtool._plugins import distributions
from kdtool._plugins.hook_specs import BASES, KINDS, SPECS, mistakes
from kdtool._plugins.hooks import ComponentHooks, owner_of
from kdtool._plugins.registry import GROUPS, entries_by_name


class Good(kdtool.TokenLoss):
    """A loss."""

    def kdtool_token_loss(self, chunk: Any) -> Any:
        return chunk


def _loss(**members: Any) -> type:
    return type("Bad", (kdtool.TokenLoss,), members)


async def _coroutine(self: Any, chunk: Any) -> Any:
    return chunk


@pytest.mark.parametrize(
    ("cls", "message"),
    [
        (_loss(kdtool_token_los=lambda self, chunk: chunk), "did you mean 'kdtool_token_loss'"),
        (_loss(kdtool_token_loss=lambda self, chunks: chunks), "did you mean 'chunk'"),
        (_loss(kdtool_token_loss=lambda self, chunk, extra=1: chunk), "takes plain arguments"),
        (_loss(kdtool_token_loss=lambda self, **kw: kw), "takes plain arguments"),
        (_loss(kdtool_token_loss=staticmethod(lambda chunk: chunk)), "staticmethod"),
        (_loss(kdtool_token_loss=property(lambda self: 1 / 0)), "property"),
        (_loss(kdtool_token_loss=_coroutine), "async def"),
        (_loss(kdtool_examples=lambda self, run: iter(())), "a hook of kdtool.Corpus"),
        (_loss(kdtool_layers=lambda self, student, teacher: ()), "a hook of kdtool.SequenceLoss"),
        (_loss(), "has no kdtool_token_loss"),
        (_loss(token_loss=lambda self, chunk: chunk), "did you mean 'kdtool_token_loss' by 'token_loss'?"),
        (_loss(kdtol_token_loss=lambda self, chunk: chunk), "did you mean 'kdtool_token_loss' by 'kdtol_token_loss'?"),
        (_loss(kdtool_token_loss=lambda chunk: chunk), "has kdtool_token_loss without self"),
        (_loss(__eq__=lambda self, other: True), "equality"),
        (_loss(Config=dict), "does not extend kdtool.Config"),
        (_loss(Config=type("Config", (kdtool.Config,), {"__annotations__": {"weight": int}})), "'weight'"),
        (kdtool.Teacher, "is a teacher, not a loss"),
        (object, "does not extend kdtool.TokenLoss or kdtool.SequenceLoss"),
        (kdtool.Loss, "does not extend kdtool.TokenLoss or kdtool.SequenceLoss"),
        (type("Both", (kdtool.TokenLoss, kdtool.SequenceLoss), {}), "extends more than one of kdtool.TokenLoss or"),
        (3, "is not a class but int"),
    ],
)
def test_mistake_is_named(cls: Any, message: str) -> None:
    assert any(message in found for found in mistakes(cls, "loss"))


def test_a_component_without_hooks_is_refused_in_kinds_that_need_none_in_particular() -> None:
    """Such as a weighting: it gives weights of tokens, or balances terms."""
    (wrong,) = mistakes(type("Nothing", (kdtool.Weighting,), {}), "weighting")
    assert wrong == "has none of the hooks of a weighting: kdtool_annotate, kdtool_token_weight, kdtool_balance"
    (wrong,) = mistakes(type("Weighs", (kdtool.Weighting,), {"token_weight": lambda self, chunk: chunk}), "weighting")
    assert (
        "kdtool_annotate, kdtool_token_weight, kdtool_balance; did you mean 'kdtool_token_weight' by 'token_weight'?"
        in wrong
    )
    balances = type("Balances", (kdtool.Weighting,), {"kdtool_balance": lambda self, terms, step: None})
    assert not list(mistakes(balances, "weighting"))


@pytest.mark.parametrize(("kind", "hook"), [("logits", "kdtool_signal"), ("text", "kdtool_answer")])
def test_a_teacher_has_the_hooks_of_the_signals_that_it_offers(recipe: dict[str, Any], kind: str, hook: str) -> None:
    source = (
        "import kdtool\nclass T(kdtool.Teacher):\n"
        f"    offers = frozenset({{{kind!r}}})\n    def kdtool_tokenizer(self, run): return None\n"
    )
    Path("plain.py").write_text(source, encoding="utf-8")
    expected = re.escape(f"teacher 'teacher' (./plain.py:T): offers {kind!r}, but has no {hook}")
    with pytest.raises(kdtool.RecipeError, match=expected):
        kdtool.check({**recipe, "teacher": {"use": "./plain.py:T"}})


def test_good_component_and_fewer_arguments_are_accepted() -> None:
    assert not list(mistakes(Good, "loss"))
    assert not list(mistakes(_loss(kdtool_token_loss=lambda self: []), "loss"))


def _hooks(**components: Any) -> kdtool.Hooks:
    return ComponentHooks(components)


class Generates(kdtool.Corpus):
    """A corpus that fails late."""

    def kdtool_examples(self, run: Any) -> Iterator[Any]:
        yield kdtool.Example("1", kdtool.Text(""))
        raise ValueError("late")


def test_answers_are_named_in_order_and_none_is_left_out() -> None:
    silent = _loss(kdtool_layers=lambda self: None)
    hooks = _hooks(b=Good(None), a=Good(None), c=silent(None))
    assert hooks.kdtool_token_loss("x") == {"b": "x", "a": "x"}
    assert hooks.implementing("kdtool_token_loss") == tuple(hooks.bound("kdtool_token_loss")) == ("b", "a")
    assert hooks.kdtool_layers("s", "t") == {}


def test_one_component_is_called_with_any_arguments_and_typed_as_its_kind() -> None:
    chunk: Any = "y"
    hooks = _hooks(a=Good(None), b=_loss(divergence=True)(None))
    loss = hooks.component("a", kdtool.TokenLoss)
    assert loss.kdtool_token_loss(chunk) == loss.kdtool_token_loss(chunk=chunk) == "y"
    assert hooks.component("b", kdtool.Loss).divergence
    assert loss.kdtool_token_gradient(chunk) is None, "what it does not implement answers as the inherited default"
    with pytest.raises(kdtool.PluginError, match=r"loss 'b' \(b\) must implement kdtool_token_loss"):
        hooks.component("b", kdtool.TokenLoss).kdtool_token_loss(chunk)
    with pytest.raises(kdtool.UsageError, match=r"no loss is called 'd'; there are: a, b"):
        hooks.component("d", kdtool.Loss)
    with pytest.raises(kdtool.UsageError, match=r"loss 'a' \(a\) is not a teacher; this recipe has no teacher"):
        hooks.component("a", kdtool.Teacher)
    with pytest.raises(TypeError, match="takes exactly"):
        hooks.kdtool_token_loss()
    with pytest.raises(AttributeError, match="kdtool_tokens is not a hook"):
        hooks.kdtool_tokens("x")


def test_fewer_arguments_work_through_every_way_of_calling() -> None:
    few = _loss(kdtool_layers=lambda self, teacher: [(0, teacher)])
    hooks = _hooks(few=few(None))
    assert hooks.kdtool_layers("s", 1) == {"few": [(0, 1)]}
    assert hooks.bound("kdtool_layers")["few"]("s", teacher=1) == [(0, 1)]


def test_who_raises_is_named_also_in_generators() -> None:
    hooks = _hooks(late=Generates(None))
    with pytest.raises(ValueError, match="late") as caught:
        list(hooks.component("late", kdtool.Corpus).kdtool_examples(None))  # type: ignore[arg-type]
    owner = owner_of(caught.value)
    assert owner is not None
    assert owner.name == "late"
    assert "raised by corpus 'late'" in caught.value.__notes__[0]


WRONG: tuple[Any, ...] = ("text", 3.5, object())
TEXTUAL = {"kdtool_card"}
"""Hooks that answer with text, the first of the wrong answers."""
UNCHECKED = {"kdtool_token_loss", "kdtool_token_weight", "kdtool_modules", "kdtool_optimizer"}
"""Hooks that answer with objects of torch, which is not imported for their sake; trainers look at shapes."""


@pytest.mark.parametrize("name", sorted(SPECS.keys() - UNCHECKED))
def test_every_hook_refuses_what_it_does_not_allow(name: str) -> None:
    answers: list[Any] = [None]
    kind = next(base for base in BASES[1:] if hasattr(base, name))
    component = type("Wrong", (kind,), {name: lambda self: answers[-1]})
    hook = getattr(ComponentHooks({"wrong": component(None)}).component("wrong", kind), name)
    values = dict.fromkeys(SPECS[name].arguments)
    for wrong in (None, *WRONG[name in TEXTUAL :]):
        answers.append(wrong)
        allowed = wrong is None and not SPECS[name].answers.must_answer
        if allowed or SPECS[name].answers.is_none:  # nobody looks at what it returns
            assert hook(**values) is None
            continue
        with pytest.raises(kdtool.PluginError, match=f"{name} must return") as caught:
            hook(**values)
        assert getattr(owner_of(caught.value), "name", "") == "wrong"


def test_items_of_a_wrong_class_are_refused_when_they_are_read() -> None:
    wrong = type(
        "Wrong", (kdtool.Corpus,), {"kdtool_examples": lambda self, run: [kdtool.Example("1", kdtool.Text("")), 3]}
    )
    run: Any = None
    examples = ComponentHooks({"wrong": wrong(None)}).component("wrong", kdtool.Corpus).kdtool_examples(run)
    assert next(examples).id == "1"
    with pytest.raises(kdtool.PluginError, match="kdtool_examples must return an iterator of Example, but returned 3"):
        next(examples)


def test_every_hook_is_documented_and_says_since_when() -> None:
    for name, spec in SPECS.items():
        assert spec.declared.__doc__, name
        assert "Since " in spec.declared.__doc__, name


def _distribution(folder: Path, name: str, group: str, entry: str, module: str, requires: str = "") -> None:
    info = folder / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir(parents=True)
    requirement = f"Requires-Dist: {requires}\n" if requires else ""
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\nSummary: about {name}\n{requirement}"
    (info / "METADATA").write_text(metadata, encoding="utf-8")
    (info / "entry_points.txt").write_text(f"[{group}]\n{entry}\n", encoding="utf-8")
    (folder / f"{entry.partition('=')[2].strip().partition(':')[0]}.py").write_text(module, encoding="utf-8")


def _kdtool(*arguments: str, path: Path) -> subprocess.CompletedProcess[str]:
    code = f"import sys; sys.path.insert(0, {str(path)!r}); from kdtool._cli import main; main()"
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, encoding="utf-8")


def test_broken_twice_offered_and_unknown_plugins_are_explained_and_others_still_work(tmp_path: Path) -> None:
    good = "import kdtool\nclass X(kdtool.TokenLoss):\n    'A loss.'\n    def kdtool_token_loss(self, chunk): ...\n"
    _distribution(tmp_path, "x-good", "kdtool.losses", "x-good = x_good:X", good)
    _distribution(tmp_path, "x-broken", "kdtool.losses", "x-broken = x_broken:X", "import tree_nope", "tree-nope>=0.2")
    _distribution(tmp_path, "x-one", "kdtool.losses", "x-twice = x_one:X", good)
    _distribution(tmp_path, "x-two", "kdtool.losses", "x-twice = x_two:X", good)

    listed = _kdtool("plugins", "list", path=tmp_path)
    assert listed.returncode == 0
    assert "about x-broken" in listed.stdout
    assert "offered twice" in listed.stdout
    assert _kdtool("plugins", "show", "x-good", path=tmp_path).returncode == 0

    broken = _kdtool("plugins", "show", "x-broken", path=tmp_path)
    assert broken.returncode == 1
    assert "x-broken 1.0" in broken.stderr
    assert "pip install 'tree-nope>=0.2'" in broken.stderr
    assert "Traceback" not in broken.stderr

    twice = _kdtool("plugins", "show", "x-twice", path=tmp_path)
    both = "write `use: x_one:X` (x-one) or `use: x_two:X` (x-two), or uninstall one of them"
    assert f"x-one 1.0 and x-two 1.0 both register loss 'x-twice'; {both}" in twice.stderr
    unknown = _kdtool("plugins", "show", "x-god", path=tmp_path)
    assert unknown.returncode == 2
    assert "did you mean 'x-good'" in unknown.stderr


def test_check_imports_every_plugin_and_names_those_that_cannot_be_used(tmp_path: Path) -> None:
    assert _kdtool("plugins", "check", path=tmp_path).returncode == 0
    good = "import kdtool\nclass X(kdtool.TokenLoss):\n    def kdtool_token_loss(self, chunk): ...\n"
    _distribution(tmp_path, "x-good", "kdtool.losses", "x-good = x_good:X", good)
    _distribution(tmp_path, "x-broken", "kdtool.losses", "x-broken = x_broken:X", "import tree_nope", "tree-nope>=0.2")
    _distribution(tmp_path, "x-none", "kdtool.losses", "x-none = x_none:X", good.replace("_loss(", "_los("))
    _distribution(tmp_path, "x-command", "kdtool.commands", "x-command = x_command:X", "1 / 0")
    found = _kdtool("plugins", "check", path=tmp_path)
    assert found.returncode == 1
    lines = found.stdout.splitlines()
    assert [line.split("'")[1] for line in lines[:-1]] == ["x-broken", "x-none", "x-command"]
    assert "pip install 'tree-nope>=0.2'" in lines[0]
    assert "did you mean 'kdtool_token_loss'" in lines[1]
    assert "ZeroDivisionError" in lines[2]
    assert lines[-1].startswith("3 of ")


def test_list_of_one_kind_holds_no_other(tmp_path: Path) -> None:
    _distribution(tmp_path, "x-good", "kdtool.losses", "x-good = x_good:X", "")
    _distribution(tmp_path, "x-told", "kdtool.commands", "x-told = x_told:x", "")
    for arguments in (["plugins", "--kind", "loss"], ["plugins", "list", "--kind", "loss"]):
        heading, *lines = _kdtool(*arguments, path=tmp_path).stdout.splitlines()
        assert heading == f"loss ({len(lines)})"
        assert "  x-good" in {line[:8] for line in lines}


def test_list_is_searched(tmp_path: Path) -> None:
    _distribution(tmp_path, "x-good", "kdtool.losses", "x-good = x_good:X", "raise SystemExit('imported')")
    for word in ("X-GOO", "ABOUT x-g"):
        assert _kdtool("plugins", word, path=tmp_path).stdout == "loss (1)\n  x-good  about x-good\n"
    assert "No plugins with 'gnu'" in _kdtool("plugins", "gnu", path=tmp_path).stdout


def test_help_sorts_commands_and_names_packages_of_others(tmp_path: Path) -> None:
    _distribution(tmp_path, "x-told", "kdtool.commands", "x-told = x_told:x", "raise SystemExit('imported')")
    _distribution(tmp_path, "x-long", "kdtool.commands", "serve = x_long:x", "raise SystemExit('imported')")
    _, *sections = re.split(r"\n(\w+):\n", _kdtool("--help", path=tmp_path).stdout)
    found = dict(zip(sections[::2], sections[1::2], strict=True))
    assert [name for name in found if name != "Use"] == ["Options", "Start", "Measure", "Manage", "Extend", "Plugins"]
    extend = re.findall(r"^  ([a-z]+)  ", found["Extend"], re.MULTILINE)
    assert [name for name in extend if name != "new"] == ["plugins", "schema"], "`new` is a separate package"
    assert re.search(r"^  x-told +about x-told \(x-told\)$", found["Plugins"], re.MULTILINE)


def test_command_that_a_built_in_one_hides_is_marked(tmp_path: Path) -> None:
    _distribution(tmp_path, "x-run", "kdtool.commands", "run = x_run:x", "")
    assert "not used, kdtool has a command" in _kdtool("plugins", "--kind", "command", path=tmp_path).stdout
    assert "x-run" not in _kdtool("--help", path=tmp_path).stdout


SETTINGS = """
import kdtool
from typing import Literal
from kdtool import Field
class Part(kdtool.Config):
    share: float = Field(0.5, gt=0, le=1)
    'How much.'
class T(kdtool.Teacher):
    'A teacher.'
    offers = frozenset({"text", "logits"})
    class Config(kdtool.Config):
        order: int = Field(ge=1)
        'How many tokens.'
        part: Part | None = None
        'A part.'
        how: Literal["fast", "slow"] = "fast"
        'How.'
    def kdtool_signal(self, batch, want): ...
    def kdtool_answer(self, requests): ...
class L(kdtool.TokenLoss):
    'A loss.'
    needs = ("logits", frozenset({"top-k", "sampled"}))
    def kdtool_token_loss(self, chunk): ...
"""


def test_shown_plugin_has_bounds_nested_keys_and_a_line_for_a_recipe(tmp_path: Path) -> None:
    _distribution(tmp_path, "x-teacher", "kdtool.teachers", "x-teacher = x_teacher:T", SETTINGS)
    _distribution(tmp_path, "x-loss", "kdtool.losses", "x-loss = x_loss:L", SETTINGS)
    shown = _kdtool("plugins", "show", "x-teacher", path=tmp_path).stdout
    lines = [line.strip() for line in shown.splitlines()]
    expected = [
        "order: a whole number of at least 1 (required)",
        "part: a mapping with the keys share = null",
        "part.share: a number above 0 and at most 1 = 0.5",
        "how: 'fast' or 'slow' = \"fast\"",
        "in a recipe:  teachers: {x-teacher: {order: …}}",
    ]
    assert [line for line in lines if line in expected] == expected
    loss = _kdtool("plugins", "show", "x-loss", path=tmp_path).stdout
    assert "in a recipe, below train:  losses: {x-loss: {}}" in loss


def test_a_kind_that_does_not_exist_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["plugins", "list", "--kind", "losses"]) == 2
    assert "'losses' is not one of 'corpus', " in capsys.readouterr().err


def test_shells_complete_commands() -> None:
    words = {"COMP_WORDS": "kdtool plug", "COMP_CWORD": "1", "_KDTOOL_COMPLETE": "bash_complete"}
    command = [sys.executable, "-m", "kdtool"]
    found = subprocess.run(command, env={**os.environ, **words}, capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout, found.stderr) == (0, "plain,plugins\n", "")


def test_a_plugin_of_another_kind_than_was_asked_for_is_told_as_what_it_is(tmp_path: Path) -> None:
    _distribution(tmp_path, "x-good", "kdtool.losses", "x-good = x_good:X", "")
    _distribution(tmp_path, "x-told", "kdtool.commands", "x-told = x_told:x", "")
    other = _kdtool("plugins", "show", "x-good", "--kind", "corpus", path=tmp_path)
    assert (other.returncode, other.stderr) == (2, "error: 'x-good' is of the kind loss, not corpus\n")
    command = _kdtool("plugins", "show", "x-told", path=tmp_path)
    assert (command.returncode, command.stderr) == (
        2,
        "error: 'x-told' is a command, not a component; see: kdtool x-told --help\n",
    )


def test_help_and_list_import_no_plugin_and_nothing_heavy() -> None:
    code = (
        "import sys; from click.testing import CliRunner; from kdtool._cli import cli\n"
        "for args in (['--help'], ['plugins'], ['plugins', 'list', '--json']):\n"
        "    result = CliRunner().invoke(cli, args); assert result.exit_code == 0, result\n"
        "heavy = {'torch', 'transformers', 'numpy', 'psutil', 'pydantic', 'yaml', 'pluggy', 'rich'} & set(sys.modules)\n"
        "plugins = [m for m in sys.modules if m.startswith('kdtool_')]\n"
        "assert not heavy and not plugins, (heavy, plugins)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_unknown_command_is_suggested_and_exits_with_2(tmp_path: Path) -> None:
    done = _kdtool("chekc", path=tmp_path)
    assert done.returncode == 2
    assert "did you mean 'check'" in done.stderr


def test_registry_groups_cover_every_kind() -> None:
    assert set(GROUPS) == {*KINDS, "command"}
    assert isinstance(entries_by_name("loss"), dict)


LOCAL = """\
import kdtool
from kdtool import Field


class Focal(kdtool.TokenLoss):
    '''Looks at hard tokens.'''

    class Config(kdtool.Config):
        gamma: float = Field(2.0, ge=0)
        '''How strongly.'''

    config: Config

    def kdtool_token_loss(self, chunk): ...
"""


def test_local_file_mistakes_name_file_and_line(recipe: dict[str, Any], tmp_path: Path) -> None:
    for text, message in (
        (LOCAL.replace("class Focal", "class Fokal"), "has no 'Focal'; did you mean 'Fokal'"),
        ("import kdtool\nx = 1 / 0\n", "focal.py:2: ZeroDivisionError"),
        ("def broken(:\n", "focal.py:1: SyntaxError"),
        (LOCAL.replace("kdtool.TokenLoss", "object"), "does not extend kdtool.TokenLoss"),
    ):
        (tmp_path / "focal.py").write_text(text, encoding="utf-8")
        recipe["train"]["losses"]["focal"] = {"use": "./focal.py:Focal"}
        with pytest.raises(kdtool.RecipeError) as caught:
            kdtool.check(recipe)
        assert message in str(caught.value)
    (tmp_path / "focal.py").write_text(LOCAL, encoding="utf-8")
    recipe["train"]["losses"]["focal"] = {"use": "./focal.py:Focal", "gama": 1}
    with pytest.raises(kdtool.RecipeError, match="did you mean 'gamma'"):
        kdtool.check(recipe)


def test_schema_is_valid_and_catches_typos() -> None:
    from kdtool._assembly.json_schema import recipe_schema

    jsonschema = pytest.importorskip("jsonschema", reason="only where the test extra is installed")
    schema = recipe_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    good = {"name": "x", "corpus": {"use": "./a.py:B"}, "train": {"losses": {"own": {"use": "./a.py:L"}}, "steps": 3}}
    assert validator.is_valid(good)
    assert not validator.is_valid({**good, "seds": [1]})
    assert not validator.is_valid({**good, "train": {"losses": {}, "steps": 0}})


def test_the_base_class_of_every_kind_is_known_whatever_was_imported_before() -> None:
    """In a process of its own: elsewhere the classes that tests import would hide one that is missing."""
    program = "from kdtool._plugins.hook_specs import KINDS; print(*KINDS)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert [*done.stdout.split(), "command"] == list(GROUPS)


def test_command_that_is_not_installed_is_refused_with_its_package(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    absent = {"absent": distributions.Known("kdtool-absent-x", "")}
    monkeypatch.setattr(distributions, "known_components", lambda: {"command": absent})
    assert call(["absent"]) == 2
    assert f"get it with: {distributions.install_command('kdtool-absent-x')}" in capsys.readouterr().err
