"""Reference pages rendered from the code: hooks, records, the Python interface, indexes of settings and plugins, commands.

A Sphinx extension: the line `<!-- rendered: NAME -->` of a page is replaced by what `PARTS[NAME]` returns, which is MyST
Markdown. Docstrings are Markdown and are shown as they are; names of kdtool in them become links. A paragraph after the
line `<!-- not on the site -->` is for readers of the repository, and is left out.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, fields, is_dataclass
from importlib import import_module
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import kdtool
from kdtool._assembly.json_schema import settings_in
from kdtool._plugins.distributions import known_components
from kdtool._plugins.registry import GROUPS, load
from package_pages import FOLDER, components_by_package, link_to_page, link_to_settings, packages
from sphinx.application import Sphinx
from sphinx.pycode import ModuleAnalyzer

HOME_OF = {
    name.asname: str(line.module)
    for interface in ("_plugin_interface", "_engine_interface")
    for line in ast.parse((files("kdtool") / f"{interface}.py").read_text(encoding="utf-8")).body
    if isinstance(line, ast.ImportFrom)
    for name in line.names
    if name.asname and not name.asname.startswith("_")
}
"""The module of each public name."""
NEEDED = "Every component of this kind needs it."
FIRST = "A call of all components returns the first answer, in the recipe's order."
TOLERANT = "A component that raises is disabled for the rest of the run."


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the extension."""
    app.connect("source-read", _fill)
    return {"parallel_read_safe": True}


def hooks() -> str:
    """Render every hook by kind, and the attributes that a kind's components may set."""
    from kdtool._plugins.hook_specs import FORMS, KINDS

    blocks = [_module(), "## Every component", *_class(kdtool.Component)]
    for kind, cls in KINDS.items():
        blocks += [f"## {kind.capitalize()}", f"Entry-point group `{GROUPS[kind]}`.", *_class(cls)]
        blocks += [block for form in FORMS[kind] if form is not cls for block in _class(form)]
    return "\n\n".join(blocks)


def records() -> str:
    """Render the records that hooks take and return, by the module that explains them."""
    from kdtool._plugins.hook_specs import BASES

    headings = {
        "data": "Text, rows and batches",
        "signals": "Signals",
        "loss": "Views that losses receive",
        "language_model": "Tokenizers and models",
        "training": "Training",
        "evaluation": "Subjects, measurements and comparisons",
        "run_info": "The run, its phases, and estimates",
        "licences": "Licences",
        "reporting": "Results",
    }
    blocks = [_module()]
    for module, heading in headings.items():
        home = f"kdtool._contract.{module}"
        blocks += [f"## {heading}", _text(import_module(home).__doc__)]
        for name in [name for name, found in HOME_OF.items() if found == home]:
            blocks += [] if getattr(kdtool, name) in BASES else _named(name)
    return "\n\n".join(blocks)


def interface() -> str:
    """Render what a program calls: run, check, report and their like, the base of settings, and the errors."""
    shown = {
        name for page in (hooks(), records()) for name in re.findall(r"\{py:(?:class|data|function)\} (\w+)", page)
    }
    rest = [name for name in HOME_OF if name not in shown and name != "Field"]
    errors = [name for name in rest if _is_error(name)]
    homes = ("kdtool._api", "kdtool._estimate.check", "kdtool._results", "kdtool._evaluate", "kdtool._run")
    running = [name for name in rest if HOME_OF[name].startswith(homes)]
    running.sort(key=lambda name: inspect.isclass(getattr(kdtool, name)))
    blocks = [_module(), "## Running", *(block for name in running for block in _named(name)), "## For plugins"]
    for name in rest:
        blocks += _named(name) if name not in {*running, *errors} else []
    blocks += ["## Errors", "Causes and remedies are on the page [Errors](../errors.md)."]
    for name in errors:
        blocks.append(_directive("exception", name, f"{_text(getattr(kdtool, name).__doc__)} {_exit_code(name)}"))
    return "\n\n".join(blocks)


def settings() -> str:
    """Render an index of all settings of the project's components, each with the components that have it."""
    owners: dict[str, list[str]] = {}
    for package, components in sorted(components_by_package().items()):
        for kind, name in components:
            for setting in settings_in(load(kind, name, Path.cwd(), print).cls.Config.model_json_schema()):
                owners.setdefault(setting.key, []).append(link_to_settings(package, kind, name, ".."))
    rows = [f"| `{key}` | {', '.join(links)} |" for key, links in sorted(owners.items())]
    return "\n".join(["| setting | of |", "|---|---|", *rows])


def plugins() -> str:
    """Render a table of plugins for each kind, those of `plugins.json` included, and one of libraries."""
    project = known_components()
    others: dict[str, list[str]] = {kind: [] for kind in GROUPS}
    for plugin in json.loads((Path(__file__).parent / "plugins.json").read_text(encoding="utf-8")):
        row = f"| `{plugin['name']}` | [`{plugin['package']}`]({plugin['url']}) | {plugin['sentence']} |"
        others[plugin["kind"]].append(row)
    blocks = []
    for kind in GROUPS:
        rows = [
            f"| {link_to_settings(known.package, kind, name, '.') if kind != 'command' else f'`{name}`'} "
            f"| {link_to_page(known.requirement, '.')} | {known.about} |"
            for name, known in project.get(kind, {}).items()
        ]
        head = [f"## {kind.capitalize()}\n", "| name | package | |", "|---|---|---|"]
        blocks.append("\n".join([*head, *rows, *others[kind]]))
    with_components = {known.package for names in project.values() for known in names.values()}
    rest = [
        f"| {link_to_page(name, '.')} | {package.description} |"
        for name, package in packages().items()
        if name not in with_components
    ]
    head = ["## Libraries\n", "| package | |", "|---|---|"]
    pages = f":::{{toctree}}\n:hidden:\n:glob:\n\n{FOLDER}/*\n:::"
    return "\n\n".join([*blocks, "\n".join([*head, *rest]), pages] if rest else blocks)


def commands() -> str:
    """Render the help of every command."""
    import click
    from kdtool._cli import cli

    def helps(command: click.Command, path: str, depth: int) -> Iterator[str]:
        context = click.Context(command, info_name=path, max_content_width=100, terminal_width=100)
        yield f"{'#' * depth} `{path}`"
        yield f"```text\n{command.get_help(context)}\n```"
        if isinstance(command, click.Group):
            for name in command.list_commands(context):
                found = command.get_command(context, name)
                if found is not None:
                    yield from helps(found, f"{path} {name}", min(depth + 1, 3))

    return "\n\n".join(helps(cli, "kdtool", 2))


PARTS: Mapping[str, Callable[[], str]] = {
    "hooks": hooks,
    "records": records,
    "interface": interface,
    "settings": settings,
    "plugins": plugins,
    "commands": commands,
}


def _fill(_: Sphinx, __: str, source: list[str]) -> None:
    source[0] = re.sub(r"^<!-- not on the site -->\n(.+\n)+", "", source[0], flags=re.MULTILINE)
    source[0] = re.sub(r"^<!-- rendered: (\w+) -->$", lambda found: PARTS[found[1]](), source[0], flags=re.MULTILINE)


def _module() -> str:
    return ":::{py:currentmodule} kdtool\n:::"


def _is_error(name: str) -> bool:
    value = getattr(kdtool, name)
    return inspect.isclass(value) and issubclass(value, kdtool.KdtoolError)


def _exit_code(name: str) -> str:
    return f"Exit code {getattr(kdtool, name).exit_code}."


def _directive(kind: str, signature: str, body: str, *members: str, **options: str) -> str:
    fence = "::::" if members else ":::"
    head = [f"{fence}{{py:{kind}}} {signature}", *(f":{key}: {json.dumps(value)}" for key, value in options.items())]
    if kind in {"attribute", "property"}:
        head.append(":no-contents-entry:")
    return "\n\n".join(["\n".join(head), body, *members, fence])


def _named(name: str) -> list[str]:
    """Render a public name: a class with its members, a function, or a type alias."""
    value = getattr(kdtool, name)
    if inspect.isclass(value):
        return _class(value)
    if inspect.isroutine(value):
        return [_directive("function", f"{name}{_signature(value)}", _text(value.__doc__))]
    body = _attribute_docs(HOME_OF[name]).get(("", name), "")
    if " at 0x" not in str(value):
        body += f"\n\n`{value}`"
    return [_directive("data", name, _text(body.replace("typing.", "")))]


def _class(cls: type) -> list[str]:
    return [_directive("class", cls.__name__, _text(cls.__doc__), *_attributes(cls), *_methods(cls))]


def _attributes(cls: type) -> Iterator[str]:
    documented = {**_attribute_docs(cls.__module__), **_section_docs(cls)}
    declared = inspect.get_annotations(cls)
    defaults = {field.name: field for field in fields(cls)} if is_dataclass(cls) else {}
    for name, kind in declared.items():
        text = documented.get((cls.__name__, name), "")
        if name.startswith("_") or not (text or is_dataclass(cls)) or name == "kind":
            continue
        default = defaults[name].default if name in defaults else vars(cls).get(name, MISSING)
        value = {} if default is MISSING or name == "config" else {"value": _value(default)}
        yield _directive("attribute", name, _text(text), type=_without_aliases(str(kind), cls.__module__), **value)


def _without_aliases(annotation: str, module: str) -> str:
    """Replace a module's own aliases of types by the types behind them."""
    names = vars(import_module(module))

    def behind(found: re.Match[str]) -> str:
        value = names.get(found[0])
        if found[0] in HOME_OF or get_origin(value) not in {Annotated, Literal}:
            return found[0]
        return str(get_args(value)[0].__name__ if get_origin(value) is Annotated else value).replace("typing.", "")

    return re.sub(r"\b[A-Z_]\w+", behind, annotation)


def _methods(cls: type) -> Iterator[str]:
    for name, found in vars(cls).items():
        member = found.__func__ if isinstance(found, classmethod) else found
        if (name.startswith("_") and name != "__init__") or name == "config":
            continue
        if isinstance(member, property):
            kind = inspect.get_annotations(member.fget)["return"] if member.fget else ""
            yield _directive("property", name, _text(member.__doc__), type=str(kind))
        elif inspect.isfunction(member) and member.__doc__:
            style = _style(name, cls)
            text = f"{_text(member.__doc__)}\n\n{style}" if style else _text(member.__doc__)
            yield _directive("method", f"{name}{_signature(member)}", text)


def _style(name: str, cls: type) -> str:
    from kdtool._contract.component import calling_of

    calling = calling_of(vars(cls)[name])
    said = {NEEDED: calling.needed, FIRST: calling.first, TOLERANT: calling.tolerant}
    return " ".join(f"*{text}*" for text, holds in said.items() if holds)


def _value(default: Any) -> str:
    return "…" if callable(default) else repr(default)


def _signature(function: Callable[..., Any]) -> str:
    signature = inspect.signature(function)
    parameters = [
        parameter.replace(annotation=_Bare(parameter.annotation))
        for parameter in signature.parameters.values()
        if parameter.name not in {"self", "cls"}
    ]
    return str(signature.replace(parameters=parameters, return_annotation=_Bare(signature.return_annotation)))


class _Bare(str):
    """An annotation that is text already: shown without quotes."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def _attribute_docs(module: str) -> dict[tuple[str, str], str]:
    analyzer = ModuleAnalyzer.for_module(module)
    return {key: " ".join(lines).strip() for key, lines in analyzer.find_attr_docs().items()}


def _section_docs(cls: type) -> dict[tuple[str, str], str]:
    """Return what the section "Attributes" of a class's docstring says of each."""
    sections = _SECTIONS.split(inspect.cleandoc(cls.__doc__ or ""))
    body = sections[sections.index("Attributes") + 1] if "Attributes" in sections else ""
    found = re.findall(r"^(\w+): (.+(?:\n .+)*)", inspect.cleandoc(body), flags=re.MULTILINE)
    return {(cls.__name__, name): " ".join(text.split()) for name, text in found}


_SECTIONS = re.compile(r"^(Args|Attributes|Returns|Raises|Example):\n", flags=re.MULTILINE)


def _text(docstring: str | None) -> str:
    """Return a docstring as MyST: sections become field lists, examples code, names of kdtool links."""
    plain, *sections = _SECTIONS.split(inspect.cleandoc(docstring or ""))
    blocks = [re.sub(r"(?<!`)`(\w+)`(?!`)", _link, plain.strip())]
    for name, body in zip(sections[::2], sections[1::2], strict=True):
        lines = inspect.cleandoc(body).splitlines()
        if name == "Example":
            blocks.append("\n".join(["```python", *lines, "```"]))
        elif name != "Attributes":  # these stand with the attributes
            blocks.append("\n".join(_field(name, line) for line in lines))
    return "\n\n".join(blocks)


def _field(section: str, line: str) -> str:
    """Return a line of a section as an entry of a field list; lines that go on stay as they are."""
    if section == "Returns":
        return f":returns: {line}"
    name, colon, text = line.partition(": ")
    return f":{_FIELDS[section]} {name}: {text}" if colon and not line.startswith(" ") else line


_FIELDS = {"Args": "param", "Raises": "raises"}


def _link(found: re.Match[str]) -> str:
    name = found[1]
    if name.startswith("kdtool_"):
        from kdtool._plugins.hook_specs import BASES

        owners = [cls for cls in BASES if name in vars(cls)]
        return f"{{py:meth}}`~kdtool.{owners[0].__name__}.{name}`" if owners else found[0]
    return f"{{py:obj}}`~kdtool.{name}`" if name in HOME_OF and name != "Field" else found[0]
