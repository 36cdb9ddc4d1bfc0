"""A page for each package of the repository: its README, and the settings of its components, rendered from `Config`.

A Sphinx extension: the pages are written to `docs/packages`, which is not committed, before a build reads its sources.
"""

from __future__ import annotations

import inspect
import re
import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from kdtool._assembly.json_schema import Setting, settings_in
from kdtool._plugins.distributions import find_known, known_components
from kdtool._plugins.registry import load
from sphinx.application import Sphinx

FOLDER = "packages"
DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent


class Package(NamedTuple):
    """A package of the repository."""

    folder: Path
    description: str


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the extension."""
    app.connect("builder-inited", write_pages)
    app.connect("source-read", _link_to_pages)
    app.connect("html-page-context", _edit_readme)
    return {"parallel_read_safe": True}


def write_pages(app: Sphinx) -> None:
    """Write the page of each package, unless it is there already, and delete those of packages that are gone."""
    folder = Path(app.srcdir) / FOLDER
    folder.mkdir(exist_ok=True)
    texts = {folder / f"{name}.md": page_of(name) for name in packages()}
    for path in {*folder.glob("*.md")} - texts.keys():
        path.unlink()
    for path, text in texts.items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8", newline="\n")


@cache
def packages() -> Mapping[str, Package]:
    """Return the repository's packages by name; none if the pages are built elsewhere."""
    found = {}
    for path in sorted([*ROOT.glob("*/pyproject.toml"), *ROOT.glob("*/*/pyproject.toml")]):
        project = tomllib.loads(path.read_text(encoding="utf-8")).get("project", {})
        if (ROOT / "VERSION").exists() and project.get("name", "kdtool") != "kdtool":
            found[project["name"]] = Package(path.parent, project["description"])
    return found


def components_by_package() -> Mapping[str, list[tuple[str, str]]]:
    """Return kind and name of each package's components that have settings in recipes."""
    found: dict[str, list[tuple[str, str]]] = {}
    for kind, names in known_components().items():
        for name, component in names.items() if kind != "command" else ():
            found.setdefault(component.package, []).append((kind, name))
    return found


def link_to_page(requirement: str, to_root: str) -> str:
    """Return a link to a package's page, or its name alone if it has none; `to_root` leads to the folder of all pages."""
    package = requirement.partition("[")[0]
    return f"[`{requirement}`]({to_root}/{FOLDER}/{package}.md)" if package in packages() else f"`{requirement}`"


def link_to_settings(package: str, kind: str, name: str, to_root: str) -> str:
    """Return a link to a component's settings, or its name alone if its package has no page."""
    page = f"{to_root}/{FOLDER}/{package}.md#settings-of-the-{kind}-{name}"
    return f"[`{name}`]({page})" if package in packages() else f"`{name}`"


def page_of(package: str) -> str:
    """Return a package's README with the settings of its components."""
    folder = packages()[package].folder
    text = (folder / "README.md").read_text(encoding="utf-8")
    blocks = [re.sub(r"\]\((?!https?:|#)([^)#]+)", lambda link: f"]({_page(link[1], folder, '..')}", text).strip()]
    for kind, name in components_by_package().get(package, ()):
        cls, component = load(kind, name, Path.cwd(), print).cls, find_known(kind, name)
        blocks += [f"## Settings of the {kind} `{name}`", f"{inspect.getdoc(cls)}"]
        blocks += [f"Needs `{component.requirement}`."] if component and "[" in component.requirement else []
        blocks.append(_table(cls.Config.model_json_schema()))
    return "\n\n".join(blocks) + "\n"


def _page(link: str, folder: Path, to_root: str) -> str:
    """Return the page on the site behind a link, in a file in `folder`, to a page or to a README of the repository."""
    path = (folder / link).resolve()
    if path.is_relative_to(DOCS):
        return f"{to_root}/{path.relative_to(DOCS).as_posix()}"
    names = {package.folder / "README.md": name for name, package in packages().items()}
    if path not in names:
        raise ValueError(
            f"a file in {folder} links to {link!r}, which is not on the site; link to a page or to a README"
        )
    return f"{to_root}/{FOLDER}/{names[path]}.md"


def _link_to_pages(_: Sphinx, page: str, source: list[str]) -> None:
    """Have links of a page to READMEs of packages lead to their pages."""
    folder, to_root = (DOCS / page).parent, "/".join([".", *[".."] * page.count("/")])
    readme = re.compile(r"\]\((\.\./[\w./-]+/README\.md)")
    source[0] = readme.sub(lambda link: f"]({_page(link[1], folder, to_root)}", source[0])


def _table(schema: Mapping[str, Any]) -> str:
    rows = [_row(setting) for setting in settings_in(schema)]
    return "\n".join(["| setting | type | default | |", "|---|---|---|---|", *rows]) if rows else "No settings."


def _row(setting: Setting) -> str:
    default = f"`{setting.default}`" if setting.default else "required"
    cells = [f"`{setting.key}`", setting.type, default, " ".join(setting.about.split())]
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _edit_readme(_: Sphinx, page: str, __: str, context: dict[str, Any], ___: object) -> None:
    """Have the page of a package link to its README for editing."""
    folder, name = page.rpartition("/")[::2]
    if folder == FOLDER and name in packages() and (repository := context.get("theme_source_repository")):
        readme = packages()[name].folder.relative_to(ROOT) / "README.md"
        context["theme_source_edit_link"] = f"{repository.rstrip('/')}/edit/main/{readme.as_posix()}"
        context["theme_source_view_link"] = f"{repository.rstrip('/')}/blob/main/{readme.as_posix()}"
