"""Registration, hooks and registries: an author's mistakes are named, and nothing is imported before it is used."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.metadata import Distribution
from pathlib import Path
from typing import Any

import kdtool
import pytest
from kdtool._cli import call
from kdtool._plugins import distributions
from kdtool._plugins.distributions import install_command, refusal
from kdtool._plugins.hook_specs import BASES, SPECS, mistakes
from kdtool._plugins.hooks import ComponentHooks, owner_of
from kdtool._plugins.registry import GROUPS, load
from plugin_site import install


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
        (_loss(kdtool_token_loss=staticmethod(lambda chunk: chunk)), "staticmethod"),
        (_loss(kdtool_token_loss=_coroutine), "async def"),
        (_loss(kdtool_examples=lambda self, run: iter(())), "a hook of kdtool.Corpus"),
        (_loss(), "has no kdtool_token_loss"),
        (_loss(token_loss=lambda self, chunk: chunk), "did you mean 'kdtool_token_loss' by 'token_loss'?"),
        (_loss(kdtool_token_loss=lambda chunk: chunk), "has kdtool_token_loss without self"),
        (_loss(__eq__=lambda self, other: True), "equality"),
        (_loss(Config=dict), "does not extend kdtool.Config"),
        (_loss(Config=type("Config", (kdtool.Config,), {"__annotations__": {"weight": int}})), "'weight'"),
        (kdtool.Teacher, "is a teacher, not a loss"),
        (object, "does not extend kdtool.TokenLoss or kdtool.SequenceLoss"),
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


LOSS = "import kdtool\nclass X(kdtool.TokenLoss):\n    'A loss.'\n    def kdtool_token_loss(self, chunk): ...\n"
NOT_IMPORTED = "raise SystemExit('imported')"


@pytest.fixture
def add(site: Path) -> Callable[..., None]:
    """Installs a distribution that registers a component (`name = module:X`) or a command."""

    def install_one(entry: str, module: str = LOSS, group: str = "losses", by: str = "", requires: str = "") -> None:
        file = entry.partition("= ")[2].partition(":")[0]
        name = by or entry.partition(" ")[0]
        metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\nSummary: about {name}\n"
        metadata += f"Requires-Dist: {requires}\n" if requires else ""
        files = {f"{file}.py": module, f"{name.replace('-', '_')}-1.0.dist-info/RECORD": f"{file}.py,,\n"}
        install(site, name, f"[{group if '.' in group else f'kdtool.{group}'}]\n{entry}\n", files, metadata)

    return install_one


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Calls a command, which ends with the code, and returns what it prints."""

    def run(code: int, *arguments: str) -> str:
        capsys.readouterr()
        assert call([*arguments]) == code
        return "".join(capsys.readouterr())

    return run


def test_broken_twice_offered_and_unknown_plugins_are_explained_and_others_still_work(
    add: Callable[..., None], said: Callable[..., str], site: Path
) -> None:
    code = f"import sys; sys.path.insert(0, {str(site)!r}); from kdtool._cli import main; main()"
    command = [sys.executable, "-c", code, "plugins", "check"]  # which imports every plugin
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
    add("x-good = x_good:X")
    add("x-broken = x_broken:X", "import tree_nope", requires="tree-nope>=0.2")
    add("x-none = x_none:X", LOSS.replace("_loss(", "_los("))
    add("x-command = x_command:X", "1 / 0", "commands")
    add("x-language = x_language:X", "import os; os._exit(0)", "kdtool_programs.languages")
    checked = subprocess.run(command, capture_output=True, text=True, check=False, encoding="utf-8")
    assert checked.returncode == 1
    found = checked.stdout.splitlines()
    assert [line.split("'")[1] for line in found[:-1]] == ["x-broken", "x-none", "x-command", "x-language"]
    expected = "pip install 'tree-nope>=0.2'|did you mean 'kdtool_token_loss'|ZeroDivisionError|ends the process|4 of "
    for line, words in zip(found, expected.split("|"), strict=True):
        assert words in line
    add("x-twice = x_one:X", by="x-one")
    add("x-twice = x_two:X", by="x-two")
    listed = said(0, "plugins", "list")
    assert "about x-broken" in listed
    assert "offered twice" in listed
    assert said(0, "plugins", "show", "x-good")
    broken = said(1, "plugins", "show", "x-broken")
    assert "x-broken 1.0" in broken
    assert "Traceback" not in broken
    both = "write `use: x_one:X` (x-one) or `use: x_two:X` (x-two) in the recipe, or uninstall one of them"
    assert f"x-one 1.0 and x-two 1.0 both register loss 'x-twice'; {both}" in said(1, "plugins", "show", "x-twice")
    assert "did you mean 'x-good'" in said(2, "plugins", "show", "x-god")


@pytest.mark.parametrize(
    "group", ["kdtool.losses", "kdtool.commands", "kdtool.stores", "kdtool.teachers", "kdtool_programs.languages"]
)
def test_a_name_that_two_packages_register_is_refused_in_every_group(group: str, add: Callable[..., None]) -> None:
    for by in ("x-one", "x-two"):
        add(f"x-twice = {by.replace('-', '_')}:X", NOT_IMPORTED, group, by)
    add("x-once = x_once:X\n\x1b[31mred = x_once:X", "X = 3", group)
    remedy = "uninstall one of them: `pip uninstall x-one` or `pip uninstall x-two`"
    with pytest.raises(kdtool.PluginError, match=f"(, or |; ){re.escape(remedy)}") as caught:
        kdtool.load_plugin(group, "x-twice")
    assert ("`use: " in str(caught.value)) == (group in {"kdtool.losses", "kdtool.teachers"})
    with pytest.raises(kdtool.UsageError, match="is called 'x-none'"):
        kdtool.load_plugin(group, "x-none")
    assert kdtool.load_plugin(group, "x-once") == 3
    assert {"x-once", "x-twice", r"\x1b[31mred"} <= set(kdtool.list_plugins(group))


@pytest.mark.parametrize(
    ("body", "message"), [("os._exit(0)", "tried to end the process"), ("1 / 0", "failed: ZeroDivisionError")]
)
def test_a_function_that_finds_models_is_named_if_it_fails(
    body: str, message: str, add: Callable[..., None], said: Callable[..., str]
) -> None:
    add("a-models = a_models:find", f"import os\ndef find(name, offline): {body}", "kdtool.models")
    assert f"error: model 'a-models' (a_models:find of a-models) {message}" in said(
        1, "eval", "owner/x", "--with", "nats"
    )


@pytest.mark.parametrize("group", ["kdtool.losses", "kdtool.commands", "kdtool.x-{}"])
def test_many_entry_points_take_no_longer_each(group: str, site: Path, said: Callable[..., str]) -> None:
    lines = [f"[{group.format(number)}]\nx-{number} = x:X\n" for number in range(20_000)]
    install(site, "x-many", "".join(lines), {})
    begun = time.perf_counter()
    assert said(0, "--help") + said(0, "plugins", "x-19999") + said(2, "plugins", "show", "other")
    assert time.perf_counter() - begun < 30, "several minutes if it is quadratic"


def test_list_is_searched_and_one_kind_holds_no_other(add: Callable[..., None], said: Callable[..., str]) -> None:
    add("x-good = x_good:X", NOT_IMPORTED)
    add("x-told = x_told:x", NOT_IMPORTED, "commands")
    add("run = x_run:x", NOT_IMPORTED, "commands", by="x-run")
    for arguments in (["--kind", "loss"], ["list", "--kind", "loss"]):
        heading, *lines = said(0, "plugins", *arguments).splitlines()
        assert heading == f"loss ({len(lines)})"
        assert "  x-good" in {line[:8] for line in lines}
    for word in ("X-GOO", "ABOUT x-g"):
        assert said(0, "plugins", word) == "loss (1)\n  x-good  about x-good\n"
    assert "No plugins with 'gnu'" in said(0, "plugins", "gnu")
    assert "not used, kdtool has a command" in said(0, "plugins", "--kind", "command")
    assert "'losses' is not one of 'corpus', " in said(2, "plugins", "list", "--kind", "losses")
    other = said(2, "plugins", "show", "x-good", "--kind", "corpus")
    assert other == "error: 'x-good' is of the kind loss, not corpus\n"
    command = said(2, "plugins", "show", "x-told")
    assert command == "error: 'x-told' is a command, not a component; see: kdtool x-told --help\n"


def test_shells_complete_commands() -> None:
    words = {"COMP_WORDS": "kdtool plug", "COMP_CWORD": "1", "_KDTOOL_COMPLETE": "bash_complete"}
    command = [sys.executable, "-m", "kdtool"]
    found = subprocess.run(command, env={**os.environ, **words}, capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout, found.stderr) == (0, "plain,plugins\n", "")


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


LOCAL = """\
import kdtool


class Focal(kdtool.TokenLoss):
    '''Looks at hard tokens.'''

    class Config(kdtool.Config):
        gamma: float = 2.0

    def kdtool_token_loss(self, chunk): ...
"""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (LOCAL.replace("class Focal", "class Fokal"), "has no 'Focal'; did you mean 'Fokal'"),
        ("import kdtool\nx = 1 / 0\n", "focal.py:2: ZeroDivisionError"),
        (LOCAL, "did you mean 'gamma'"),
    ],
)
def test_local_file_mistakes_name_file_and_line(recipe: dict[str, Any], text: str, message: str) -> None:
    Path("focal.py").write_text(text, encoding="utf-8")
    recipe["train"]["losses"]["focal"] = {"use": "./focal.py:Focal", "gama": 1}
    with pytest.raises(kdtool.RecipeError) as caught:
        kdtool.check(recipe)
    assert message in str(caught.value)


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
    monkeypatch: pytest.MonkeyPatch, said: Callable[..., str]
) -> None:
    absent = {"absent": distributions.Known("kdtool-absent-x", "")}
    monkeypatch.setattr(distributions, "known_components", lambda: {"command": absent})
    assert f"get it with: {distributions.install_command('kdtool-absent-x')}" in said(2, "absent")


class Stated(Distribution):
    """A distribution that requires what a test says."""

    def __init__(self, *requirements: str) -> None:
        lines = "".join(f"Requires-Dist: {requirement}\n" for requirement in requirements)
        self.text = f"Metadata-Version: 2.1\nName: kdtool-loss-x\nVersion: 1.5\n{lines}\n"

    def read_text(self, filename: str) -> str | None:
        return self.text if filename == "METADATA" else None

    def locate_file(self, path: object) -> Path:
        raise NotImplementedError


@pytest.mark.parametrize(
    ("requirements", "excluding"),
    [
        ((f"kdtool=={kdtool.__version__}",), ""),
        (("torch", "KDTool <0.0.1 ; python_version > '3'"), "KDTool <0.0.1 ; python_version > '3'"),
        (("kdtool>=99 ; extra == 'other'", "kdtool-rows>=99", "kdtoolkit>=99", "kdtool ~~ 1"), ""),
    ],
)
def test_a_version_that_a_requirement_excludes_is_refused(requirements: tuple[str, ...], excluding: str) -> None:
    assert refusal(Stated(*requirements)) == (
        f"kdtool-loss-x 1.5 requires {excluding}, but this is kdtool {kdtool.__version__}; "
        f"install versions that fit each other: {install_command('kdtool-loss-x', '--upgrade')}"
        if excluding
        else ""
    )


def test_a_later_pre_release_of_the_same_minor_version_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    for running, accepted in (("0.1.1.dev3", True), ("0.1.9", True), ("0.2.0.dev1", False), ("0.2.0", False)):
        monkeypatch.setattr("kdtool._plugins.distributions.version", lambda _, running=running: running)
        assert (refusal(Stated("kdtool>=0.1,<0.2")) == "") == accepted


def test_an_unsupported_plugin_is_refused_before_it_is_imported(
    add: Callable[..., None], said: Callable[..., str]
) -> None:
    add("x-future = x_future:X", NOT_IMPORTED, requires="kdtool>=7")
    for use in ("x-future", "x_future:X"):
        expected = f"loss '{use}' cannot be used: x-future 1.0 requires kdtool>=7, but this is kdtool"
        with pytest.raises(kdtool.PluginError, match=expected):
            load("loss", use, Path(), print)
    (line,) = [line for line in said(0, "plugins", "list").splitlines() if "x-future" in line]
    assert "requires kdtool>=7" in line
