"""The suite of every component's registration: its class, its settings' schema, its README's recipes."""
# ruff: noqa: S101 - these are tests

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import jsonschema
from kdtool import Component
from kdtool._plugins.validation import mistakes

from kdtool_testing.offered import OfferedConformance
from kdtool_testing.readme_examples import uses

__all__ = ["RegistrationConformance"]


class RegistrationConformance(OfferedConformance):
    """A component is found under its name, can be registered, imports nothing heavy, and is shown by its README."""

    kind: ClassVar[str] = ""
    component: ClassVar[type[Component]]
    """The class under test."""
    settings: ClassVar[Mapping[str, Any]] = {}
    """A valid config, as a recipe would write it."""

    @classmethod
    def _unset(cls) -> str:
        """Return an instruction if the class under test or a setting that it requires is missing."""
        if not hasattr(cls, "component"):
            return f"write `component = …`, the {cls.kind} class under test"
        fields = cls.component.Config.model_fields.items()
        if missing := [name for name, field in fields if field.is_required() and name not in cls.settings]:
            given = ", ".join(f'"{name}": …' for name in missing)
            return f"give `settings`: {cls.component.__name__} requires {', '.join(missing)}; write `settings = {{{given}}}`"
        return ""

    def test_it_is_of_the_suite_s_kind(self) -> None:
        assert self.kind in {"", self.component.kind}, f"inherit the suite of the kind {self.component.kind}"

    def test_nothing_hinders_its_registration(self) -> None:
        assert list(mistakes(self.component, self._kind())) == []

    def test_its_readme_s_recipe_can_be_assembled(self, tmp_path: Path) -> None:
        blocks = re.findall(r"```ya?ml\n(.*?)```", self._readme(), re.DOTALL)
        assert blocks, "the README shows no recipe in a yaml block"
        found = {use for number, block in enumerate(blocks) for use in uses(block, tmp_path / str(number))}
        assert (self._kind(), self.entry_point) in found, f"no recipe of the README uses it; they use {sorted(found)}"

    def test_a_recipe_s_json_schema_takes_its_settings_and_refuses_others(self) -> None:
        schema = self.component.Config.model_json_schema()
        jsonschema.Draft202012Validator.check_schema(schema)
        validator = jsonschema.Draft202012Validator(schema)
        assert list(validator.iter_errors(dict(self.settings))) == []
        assert not validator.is_valid({**self.settings, "no_such_setting": 1})

    def _offer(self) -> Any:
        return self.component

    def _kind(self) -> str:
        return self.component.kind

    def _import_arguments(self) -> tuple[str, str, str | None]:
        return self.component.__module__, self.component.__qualname__, json.dumps(dict(self.settings))
