"""JavaScript, run by Node.js."""

from __future__ import annotations

from kdtool_sandbox._language import Language, found
from kdtool_sandbox._task import Program, Step

__all__ = ["JavaScript"]

_ASSERT = "console.assert = (ok, ...text) => { if (!ok) throw new Error('Assertion failed: ' + text.join(' ')); };\n"
"""Node only prints what is wrong; tests that use it would pass by exit code."""


class JavaScript(Language):
    """JavaScript."""

    name = "javascript"
    suffixes = (".js", ".mjs", ".cjs")
    stops = ("\n}\n", "\nfunction ", "\n/*", "\n//", "\nconsole.log", "\nconst ", "\n```")
    programs = ("node",)

    def detect(self, path: str, text: str) -> bool:
        return super().detect(path, text) or (text.startswith("#!") and "node" in text.partition("\n")[0])

    def parse(self, source: str) -> Program:
        return Program({"program.js": source}, (Step((str(found("node")), "--check", "program.js"), "syntax"),))

    def run(self, source: str, tests: str, names: tuple[str, ...] = (), helpers: str = "") -> Program:
        command = (str(found("node")), "program.js")
        return Program({"program.js": f"{_ASSERT}{source}\n{tests}\n"}, (Step(command, "tests"),))
