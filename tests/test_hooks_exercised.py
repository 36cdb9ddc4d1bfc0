"""Every hook that kdtool declares is called in a run: one with a component of every kind, recorded as it happens."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kdtool
import pytest
from kdtool._plugins.hook_specs import KINDS, SPECS
from kdtool._plugins.hooks import ComponentHooks

OWN = '''
from concurrent.futures import Future
from pathlib import Path

import kdtool
from kdtool_export.safetensors import Safetensors


class Looked(Safetensors):
    """Looks at the student beforehand."""

    def kdtool_check(self, run, when):
        assert when == "start" or (run.untrained / "config.json").is_file()


class Short(kdtool.Filter):
    """Keeps what is short."""

    def kdtool_account(self, run):
        assert (run.folder / "train.jsonl").is_file()
        return {"rejected": {"long": 1}}

    def kdtool_filter(self, run, examples):
        return ["long" if len(example.body.text) > 20_000 else None for example in examples]


class Even(kdtool.Weighting):
    """Weighs everything alike."""

    columns = frozenset({"nothing"})

    def kdtool_annotate(self, example):
        return {"nothing": bytes(len(example.body.text))}

    def kdtool_token_weight(self, chunk):
        return chunk.labels.new_ones(chunk.labels.shape).float()

    def kdtool_balance(self, terms, step, state):
        return dict.fromkeys(terms, 1.0)


class Once(kdtool.Tracker):
    """Stops the run at its first checkpoint, as Ctrl-C would."""

    synchronous = True

    def kdtool_checkpoint(self, run, path, step):
        if not Path("stopped").exists():
            Path("stopped").touch()
            raise KeyboardInterrupt


class Here(kdtool.Executor):
    """Makes each stage at once, in this process."""

    def kdtool_submit(self, run, task):
        made = Future()
        made.set_result(task.make())
        return made


class Noted(kdtool.Transform):
    """Changes nothing."""

    def kdtool_check(self, run, when):
        return []

    def kdtool_transform(self, student, run):
        run.say("about to train")
        yield
        run.say("trained")


class Asked(kdtool.Evaluator):
    """Asks the teacher itself for a text."""

    measures_jointly = True

    def kdtool_problems(self, run):
        return [kdtool.Example("add", kdtool.Completion("# add one", "x += 1"))]

    def kdtool_evaluate(self, run, subjects):
        assert [*run.hook.kdtool_problems(run)] == ["evaluators.asked"]
        answers = run.component("teacher", kdtool.Teacher).kdtool_answer([kdtool.Request("1", "def f(", max_tokens=2)])
        for answer in answers:
            yield kdtool.Measurement("tokens", "teacher", "tokens", answer.tokens_out, 1, higher_is_better=True)
'''

DECLARED = sorted(SPECS)


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The hooks that are called from now on, also those that a trainer binds once for its loop."""
    names: set[str] = set()
    caller, bound = ComponentHooks._caller, ComponentHooks.bound

    def recorded(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def recording(*args: Any, **kwargs: Any) -> Any:
            names.add(name)
            return function(*args, **kwargs)

        return recording

    def bind(self: ComponentHooks, hook: str) -> dict[str, Callable[..., Any]]:
        return {component: recorded(hook, function) for component, function in bound(self, hook).items()}

    def recording_caller(self: ComponentHooks, name: str, hook: str) -> Callable[..., Any]:
        found = caller(self, name, hook)
        return recorded(hook, found) if name in self.implementing(hook) else found

    monkeypatch.setattr(ComponentHooks, "bound", bind)
    monkeypatch.setattr(ComponentHooks, "_caller", recording_caller)
    return names


def test_a_run_with_every_kind_of_component_calls_every_hook(recipe: dict[str, Any], called: set[str]) -> None:
    Path("own.py").write_text(OWN, encoding="utf-8")
    recipe["filters"] = {"short": {"use": "./own.py:Short"}}
    recipe["train"]["weightings"] = {"even": {"use": "./own.py:Even"}}
    recipe["train"]["transforms"] = {"noted": {"use": "./own.py:Noted"}}
    recipe["train"] = {"adapt": {"trains": "teacher", "losses": {"ce": {}}, "steps": 2}, "distil": recipe["train"]}
    recipe["trainer"] |= {"checkpoint_every": 2, "compile": "off"}
    recipe["optimizer"] = "adamw"
    recipe["evaluators"] = {"asked": {"use": "./own.py:Asked"}, "perplexity": {"documents": 2, "characters": 200}}
    recipe["control"] = False
    recipe["exporters"] = {"looked": {"use": "./own.py:Looked"}}
    recipe["trackers"] = {"console": {}, "once": {"use": "./own.py:Once"}}
    kdtool.check(recipe)
    with pytest.raises(KeyboardInterrupt):
        kdtool.run(recipe)
    kdtool.run(recipe)
    results = kdtool.run({**recipe, "seeds": [1], "executor": {"use": "./own.py:Here"}})
    assert results.data["accounts"] == {"filters.short": {"rejected": {"long": 1}}}
    assert {component.kind for component in results.components} == set(KINDS), "a kind is missing from the run"
    assert sorted(called) == sorted(DECLARED)


@pytest.mark.parametrize("name", DECLARED)
def test_a_hook_says_when_it_is_called_and_since_when_it_is_there(name: str) -> None:
    text = " ".join((SPECS[name].declared.__doc__ or "").split())
    assert re.search(r"Since \d+\.\d+\.$", text), "its docstring ends with the version that brought it"
    assert len(text.split(". ")[0]) > 10
