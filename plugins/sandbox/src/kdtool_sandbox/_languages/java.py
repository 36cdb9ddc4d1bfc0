"""Java, by the JDK's compiler."""

from __future__ import annotations

import re
from pathlib import Path

from kdtool_sandbox._language import Language, locate
from kdtool_sandbox._task import ENDING, Program, Step

__all__ = ["Java"]

_COMPILING = 30.0
_FRUGAL = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto", "-Xss64m")
_OUTER = re.compile(r"^(?:(?:public|final|abstract)\s+)*class\s+(\w+)", re.MULTILINE)
"""A class that is in no other one, by its indentation."""
_PARSER = """\
import com.sun.source.util.JavacTask;
import javax.tools.*;

public class Parse {
    public static void main(String[] names) throws Exception {
        var compiler = ToolProvider.getSystemJavaCompiler();
        var found = new DiagnosticCollector<JavaFileObject>();
        var files = compiler.getStandardFileManager(found, null, null);
        var task = (JavacTask) compiler.getTask(null, files, found, null, null, files.getJavaFileObjects(names));
        task.parse();
        for (var one : found.getDiagnostics()) {
            System.err.println(one);
            if (one.getKind() == Diagnostic.Kind.ERROR) System.exit(1);
        }
    }
}
"""
_END = """\
import java.io.*;

class TestsWithEnd {
    public static void main(String[] arguments) throws Throwable {
        %s.main(arguments);
        System.out.flush();
        new FileOutputStream(FileDescriptor.err).write("%s".getBytes());
    }
}
"""


class Java(Language):
    """Java. Assertions are on; the class that has `main` is run."""

    name = "java"
    suffixes = (".java",)
    stops = ("\n    }\n}", "\n    public ", "\n    private ", "\nclass ", "\nimport ", "\n```")
    programs = ("java", "javac")
    trial = "class Main { public static void main(String[] a) {} }"

    def folders(self) -> tuple[Path, ...]:
        """Return the JDK, and its settings where a distribution keeps them elsewhere."""
        home = locate("java").parent.parent
        settings = (home / "conf" / "security" / "java.security", home / "lib" / "security" / "default.policy")
        linked = [path.resolve() for path in settings if path.exists()]
        return (home, *{Path(*path.parts[:3]) for path in linked if path.is_relative_to("/etc")})

    def parse(self, source: str) -> Program:
        command = (str(locate("java")), *_FRUGAL, "Parse.java", "Source.java")
        return Program({"Parse.java": _PARSER, "Source.java": source}, (Step(command, "syntax", _COMPILING),))

    def run(self, source: str, tests: str, names: tuple[str, ...] = (), helpers: str = "") -> Program:
        text = f"{source}\n{tests}\n"
        before, main, _ = text.rpartition("static void main")
        classes = _OUTER.findall(before if main else text)
        name = classes[-1] if classes else "Main"
        flags = tuple(f"-J{flag}" for flag in _FRUGAL)
        build = (str(locate("javac")), *flags, "-proc:none", "-nowarn", "-d", ".", f"{name}.java", "TestsWithEnd.java")
        command = (str(locate("java")), *_FRUGAL, "-ea", "-cp", ".", "TestsWithEnd")
        files = {f"{name}.java": text, "TestsWithEnd.java": _END % (name, ENDING)}
        return Program(files, (Step(build, "compiler", _COMPILING), Step(command, "tests", ending=ENDING)))
