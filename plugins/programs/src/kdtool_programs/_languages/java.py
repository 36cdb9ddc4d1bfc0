"""Java, by the JDK's compiler."""

from __future__ import annotations

import re
from pathlib import Path

from kdtool_programs._language import Language, locate
from kdtool_programs._task import ENDING, Program, Step

__all__ = ["Java"]

_COMPILING = 30.0
_FRUGAL = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto", "-Xss64m")
_LOADER = "-Djava.system.class.loader=TestsWithEnd"
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
public class TestsWithEnd extends java.lang.ClassLoader {
    public TestsWithEnd(java.lang.ClassLoader parent) {
        super(parent);
        super.setDefaultAssertionStatus(true);
    }

    public static void main(java.lang.String[] arguments) throws java.lang.Throwable {
        %s.main(arguments);
        java.lang.System.out.flush();
        new java.io.FileOutputStream(java.io.FileDescriptor.err).write("%s".getBytes());
    }

    protected java.lang.Class<?> loadClass(java.lang.String name, boolean resolve)
            throws java.lang.ClassNotFoundException {
        synchronized (getClassLoadingLock(name)) {
            java.io.File file = new java.io.File(name + ".class");
            if (findLoadedClass(name) != null || !file.exists()) return super.loadClass(name, resolve);
            try {
                byte[] code = java.nio.file.Files.readAllBytes(file.toPath());
                return defineClass(name, code, 0, code.length);
            } catch (java.io.IOException error) {
                throw new java.lang.ClassNotFoundException(name, error);
            }
        }
    }

    public void clearAssertionStatus() {}
    public void setClassAssertionStatus(java.lang.String name, boolean enabled) {}
    public void setDefaultAssertionStatus(boolean enabled) {}
    public void setPackageAssertionStatus(java.lang.String name, boolean enabled) {}
}
"""
"""Runs the tests, and is the class loader of all classes here: one that always has assertions on."""
_PACKAGES = {
    "lang": ("Boolean", "Byte", "Character", "Double", "Float", "Integer", "Long", "Math", "Short", "String", "System"),
    "util": ("Arrays", "Collections", "Objects"),
}
_QUALIFIED = {name: f"java.{package}.{name}" for package, names in _PACKAGES.items() for name in names}
_LITERAL = r"""\"{3}[\s\S]*?\"{3}|"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*'|//.*|/\*[\s\S]*?\*/"""
_USE = re.compile(rf"{_LITERAL}|(?<![\w.])(?:{'|'.join(_QUALIFIED)})(?=\s*(?:\.|::))")


class Java(Language):
    """Java. Assertions are on; the class that has `main` is run.

    Tests find classes such as `Objects` in Java's own packages, regardless of the classes that a program declares.
    """

    name = "java"
    suffixes = (".java",)
    stops = ("\n    }\n}", "\n    public ", "\n    private ", "\nclass ", "\nimport ", "\n```")
    programs = ("java", "javac")
    trial = "class Main { public static void main(String[] a) {} }"

    def folders(self) -> tuple[Path, ...]:
        """Return the JDK, and its settings if a distribution keeps them elsewhere."""
        home = locate("java").parent.parent
        settings = (home / "conf" / "security" / "java.security", home / "lib" / "security" / "default.policy")
        linked = [path.resolve() for path in settings if path.exists()]
        return (home, *{Path(*path.parts[:3]) for path in linked if path.is_relative_to("/etc")})

    def parse(self, source: str) -> Program:
        command = (str(locate("java")), *_FRUGAL, "Parse.java", "Source.java")
        return Program({"Parse.java": _PARSER, "Source.java": source}, (Step(command, "syntax", _COMPILING),))

    def run(self, source: str, tests: str, names: tuple[str, ...] = (), helpers: str = "") -> Program:
        text = f"{source}\n{_qualify(tests)}\n"
        before, main, _ = text.rpartition("static void main")
        classes = _OUTER.findall(before if main else text)
        name = classes[-1] if classes else "Main"
        flags = tuple(f"-J{flag}" for flag in _FRUGAL)
        build = (str(locate("javac")), *flags, "-proc:none", "-nowarn", "-d", ".", f"{name}.java", "TestsWithEnd.java")
        command = (str(locate("java")), *_FRUGAL, _LOADER, "-cp", ".", "TestsWithEnd")
        files = {f"{name}.java": text, "TestsWithEnd.java": _END % (name, ENDING)}
        return Program(files, (Step(build, "compiler", _COMPILING), Step(command, "tests", ending=ENDING)))


def _qualify(tests: str) -> str:
    """Return the tests with calls such as `Objects.equals` written `java.util.Objects.equals`."""
    return _USE.sub(lambda match: _QUALIFIED.get(match[0], match[0]), tests)
