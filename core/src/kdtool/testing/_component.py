"""Suites that every component passes: how it is registered, imported, configured and described."""
# ruff: noqa: S101 - these are tests

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import metadata
from math import inf, nextafter
from pathlib import Path
from typing import Any, ClassVar

import pydantic
import pytest

from kdtool._contract.component import Component
from kdtool._contract.training import RunInfo
from kdtool.testing._guard import Suite
from kdtool.testing._surroundings import Listener, make_run

__all__ = ["ComponentConformance", "RegistrationConformance"]

HEAVY = (
    "torch", "transformers", "tokenizers", "numpy", "pandas", "pyarrow", "datasets", "accelerate", "peft", "bitsandbytes",
    "safetensors", "gguf", "onnx", "onnxruntime", "scipy", "sklearn", "matplotlib", "wandb", "tensorboard", "mlflow",
    "anthropic", "openai", "httpx", "requests", "aiohttp", "huggingface_hub", "trl", "vllm", "llama_cpp", "jinja2", "rich",
    "tree_sitter", "fastapi", "starlette", "uvicorn",
)  # fmt: skip
"""What the module that an entry point names must not import before a hook is called."""

_LIGHT = """
import importlib, json, sys, traceback
heavy, module, name, settings = json.loads(sys.stdin.read())
class Refuse:
    def find_spec(self, found, path=None, target=None):
        if found.partition(".")[0] in heavy:
            raise ImportError(f"{found} is imported when the component is merely imported or built")
sys.meta_path.insert(0, Refuse())
component = getattr(importlib.import_module(module), name)
component(component.Config.model_validate_json(settings, strict=True))
"""


class RegistrationConformance(Suite):
    """A component is found under its name, can be registered, and imports nothing heavy."""

    component: ClassVar[type[Component]]
    """The class under test."""
    entry_point: ClassVar[str]
    """The name it is registered under."""
    settings: ClassVar[Mapping[str, Any]] = {}
    """A valid config, as a recipe would write it."""

    def test_its_name_is_registered_and_leads_to_it(self) -> None:
        from kdtool._registry import find

        assert find(self.component.kind, self.entry_point).point.load() is self.component

    def test_nothing_hinders_its_registration(self) -> None:
        from kdtool._registration import mistakes

        assert list(mistakes(self.component, self.component.kind)) == []

    def test_importing_and_building_it_is_light(self) -> None:
        task = [HEAVY, self.component.__module__, self.component.__qualname__, json.dumps(dict(self.settings))]
        process = subprocess.run(  # noqa: S603
            [sys.executable, "-c", _LIGHT], input=json.dumps(task), capture_output=True, text=True, check=False
        )
        assert process.returncode == 0, process.stderr

    def test_its_readme_names_it_and_its_settings(self) -> None:
        text = self._readme()
        for word in (self.entry_point, *self.component.Config.model_fields):
            assert word in text, f"the README does not mention {word!r}"

    def _readme(self) -> str:
        beside = Path(inspect.getfile(type(self))).resolve().parents[1] / "README.md"
        if beside.is_file():
            return beside.read_text(encoding="utf-8")
        from kdtool._registry import find

        return str(metadata(find(self.component.kind, self.entry_point).distribution).json["description"])


class ComponentConformance(RegistrationConformance):
    """A component's settings are described, bounded and strict; it can be closed at any time."""

    @pytest.fixture
    def run(self, tmp_path: Path) -> RunInfo:
        """A run in a folder of its own; `run.hook` reaches a `Listener`."""
        return make_run(tmp_path, {"listener": Listener()})

    def build(self, **settings: Any) -> Any:
        """Build the component from `settings`, with further ones laid over them, validated as a recipe's are."""
        return self.component(self._validated({**self.settings, **settings}))

    def _validated(self, settings: Mapping[str, Any]) -> Any:
        return self.component.Config.model_validate_json(json.dumps(dict(settings)), strict=True)

    def test_its_class_and_every_setting_are_described(self) -> None:
        assert inspect.getdoc(self.component) not in {None, inspect.getdoc(self.component.__mro__[1])}
        schema = self.component.Config.model_json_schema()
        for model in (schema, *schema.get("$defs", {}).values()):
            for name, field in model.get("properties", {}).items():
                assert field.get("description"), f"setting {name!r} has no description below it"

    def test_its_numbers_have_bounds(self) -> None:
        for name, field in _properties(self.component):
            for form in _forms(field):
                if form.get("type") in {"integer", "number"} and "const" not in form and "enum" not in form:
                    assert _outside(form), f"setting {name!r} takes any number: give it bounds"

    def test_values_just_outside_bounds_are_refused(self) -> None:
        for name, field in _properties(self.component):
            for form in _forms(field):
                for value in _outside(form):
                    if any(_fits(value, other) for other in _forms(field)):
                        continue
                    with pytest.raises(pydantic.ValidationError) as caught:
                        self._validated({**self.settings, name: value})
                    assert any(error["loc"][:1] == (name,) for error in caught.value.errors()), (name, value)

    def test_unknown_settings_are_refused(self) -> None:
        with pytest.raises(pydantic.ValidationError) as caught:
            self._validated({**self.settings, "no_such_setting": 1})
        assert [error["type"] for error in caught.value.errors()] == ["extra_forbidden"]

    def test_its_settings_survive_a_round_trip(self) -> None:
        config = self._validated(self.settings)
        assert self.component.Config.model_validate_json(config.model_dump_json(), strict=True) == config

    def test_it_can_be_closed_unused(self) -> None:
        self.build().kdtool_close()


def _properties(component: type[Component]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    yield from component.Config.model_json_schema().get("properties", {}).items()


def _forms(field: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the alternatives of a field: several for `int | None`, one for most."""
    alternatives: list[Mapping[str, Any]] = field.get("anyOf", [field])
    return alternatives


def _outside(form: Mapping[str, Any]) -> list[Any]:
    """Return the values nearest to the bounds that are not allowed."""
    if form.get("type") == "array":
        return [[value] for value in _outside(form.get("items", {}))]
    whole = form.get("type") == "integer"
    values: list[Any] = []
    if "minimum" in form:
        values.append(form["minimum"] - 1 if whole else nextafter(form["minimum"], -inf))
    if "maximum" in form:
        values.append(form["maximum"] + 1 if whole else nextafter(form["maximum"], inf))
    return values + [form[key] for key in ("exclusiveMinimum", "exclusiveMaximum") if key in form]


def _fits(value: Any, form: Mapping[str, Any]) -> bool:
    """Say whether a number lies within another alternative's bounds."""
    if not isinstance(value, int | float) or form.get("type") not in {"integer", "number"}:
        return False
    return (
        form.get("minimum", -inf) <= value <= form.get("maximum", inf)
        and form.get("exclusiveMinimum", -inf) < value < form.get("exclusiveMaximum", inf)
        and (form["type"] == "number" or float(value).is_integer())
    )
