"""Python: the one language whose verdict cannot be forged, because tests and program run in two processes."""

from __future__ import annotations

from kdtool_programs._language import Language
from kdtool_programs._task import Module

__all__ = ["Python"]


class Python(Language):
    """Python, of the interpreter that runs kdtool."""

    name = "python"
    suffixes = (".py", ".pyi")
    stops = ("\nclass", "\ndef", "\n#", "\n@", "\nprint", "\nif", "\n```")

    def parse(self, source: str) -> Module:
        """Parse within the tests' process; no line of the source is executed."""
        return Module("", f"import ast\nast.parse({source!r})\n")

    def run(self, source: str, tests: str, names: tuple[str, ...] = (), helpers: str = "") -> Module:
        return Module(source, tests, names, helpers)
