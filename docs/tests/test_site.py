"""The site builds without a warning, loads nothing from elsewhere, and its reference holds all that the code declares."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import click
import kdtool
import pytest
from kdtool._cli import cli
from kdtool._contract.kinds import KINDS
from kdtool._plugins.hook_specs import BASES
from kdtool._plugins.registry import load

DOCS = Path(__file__).resolve().parent.parent


def build(docs: Path, site: Path) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "sphinx",
        "-q",
        "-W",
        "--keep-going",
        "-d",
        str(site / "cache"),
        str(docs),
        str(site),
    ]
    return subprocess.run(command, capture_output=True, text=True, check=False, encoding="utf-8")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = build(DOCS, folder)
    assert done.returncode == 0, done.stderr
    return folder


class Loads(HTMLParser):
    """Gathers what a page loads by itself (not what it links to) and the names of its places."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.ids: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {key: value or "" for key, value in attrs}
        self.loads += [values[key] for key in ("src", "srcset", "data", "poster") if key in values]
        if tag == "link" and values.get("rel") not in {"next", "prev", "index", "search", "canonical"}:
            self.loads.append(values.get("href", ""))
        self.ids.add(values.get("id", ""))


def read(path: Path) -> Loads:
    parser = Loads()
    parser.feed(path.read_text(encoding="utf-8"))
    return parser


def test_pages_load_nothing_from_elsewhere(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 10
    elsewhere = re.compile(r"\s*(https?:)?//")
    for path in pages:
        assert [address for address in read(path).loads if elsewhere.match(address)] == [], path
    for path in site.rglob("*.css"):
        found = re.findall(r"url\(['\"]?([^'\")]+)|@import ['\"]([^'\"]+)", path.read_text(encoding="utf-8"))
        assert [address for pair in found for address in pair if elsewhere.match(address)] == [], path


def test_every_hook_is_documented(site: Path) -> None:
    ids = read(site / "reference" / "hooks.html").ids
    classes: list[type[kdtool.Component]] = list(BASES)
    declared = {f"kdtool.{cls.__name__}.{name}" for cls in classes for name in vars(cls) if name.startswith("kdtool_")}
    assert len(declared) > 35
    assert declared <= ids


def test_every_public_name_is_documented(site: Path) -> None:
    ids = {found for path in (site / "reference").glob("*.html") for found in read(path).ids}
    assert {f"kdtool.{name}" for name in dir(kdtool) if name != "Field"} <= ids


def words(text: str) -> str:
    return " ".join(re.sub("[`*]", "", text).split())


def test_every_setting_of_every_component_is_documented(site: Path) -> None:
    page = (site / "reference" / "settings.html").read_text(encoding="utf-8")
    shown = words(unescape(re.sub(r"<[^>]+>", "", page)))
    listed = json.loads((Path(kdtool.__file__).parent / "first_party.json").read_text(encoding="utf-8"))
    for kind, names in listed.items():
        for name in names if kind != "command" else ():
            for setting, field in load(kind, name, Path.cwd(), print).cls.Config.model_fields.items():
                assert f"{setting} " in shown, (name, setting)
                assert words(field.description or "no description") in shown, (name, setting)


def test_the_picture_of_a_run_names_every_kind_of_plugin() -> None:
    texts = re.findall(r"<text (?!class)[^>]*>([^<]+)<", (DOCS / "flow.svg").read_text(encoding="utf-8"))
    assert set(KINDS) <= {name for text in texts for name in re.split(r",\s*", text)}


def test_every_command_is_documented(site: Path) -> None:
    page = (site / "reference" / "command-line.html").read_text(encoding="utf-8")
    for name in cli.list_commands(click.Context(cli)):
        assert f"kdtool {name}" in page


def test_every_plugin_is_in_the_directory(site: Path) -> None:
    page = (site / "plugin-directory.html").read_text(encoding="utf-8")
    rows = re.findall(r"<tr.+?<span.*?>(.+?)</span>.+?<span.*?>(.+?)</span>.+?</td>\n<td><p>[^<]", page, re.DOTALL)
    listed = json.loads((Path(kdtool.__file__).parent / "first_party.json").read_text(encoding="utf-8"))
    assert {name for names in listed.values() for name in names.items()} == set(rows)


def test_plugins_of_others_are_in_the_directory(tmp_path: Path) -> None:
    for name in ("conf.py", "rendered.py", "plugin-directory.md", "_static"):
        copy = shutil.copytree if (DOCS / name).is_dir() else shutil.copy
        copy(DOCS / name, tmp_path / name)
    text = (tmp_path / "plugin-directory.md").read_text(encoding="utf-8")
    (tmp_path / "index.md").write_text(re.sub(r"\[(.+?)\]\(write.+?\)", r"\1", text), encoding="utf-8")
    (tmp_path / "plugin-directory.md").unlink()
    entry = {"kind": "loss", "name": "rare", "package": "kdtool-loss-rare", "url": "https://example.org/rare"}
    (tmp_path / "plugins.json").write_text(json.dumps([entry | {"sentence": "KL on rare tokens"}]), encoding="utf-8")
    assert build(tmp_path, tmp_path / "site").returncode == 0
    page = (tmp_path / "site" / "index.html").read_text(encoding="utf-8")
    assert 'href="https://example.org/rare"' in page
    assert "KL on rare tokens" in page


def test_paragraphs_for_readers_of_the_repository_are_left_out(site: Path) -> None:
    marked = [path for path in DOCS.rglob("*.md") if "<!-- not on the site -->" in path.read_text(encoding="utf-8")]
    assert len(marked) > 4
    for path in marked:
        page = (site / path.relative_to(DOCS)).with_suffix(".html").read_text(encoding="utf-8")
        assert "The site of this documentation" not in page


@pytest.mark.parametrize(
    "text", ["[a page](nowhere.md)", "[a place](recipe.md#nowhere)", "```{py:class} Own(a: Nope)\n```"]
)
def test_what_leads_nowhere_fails_the_build(text: str, tmp_path: Path) -> None:
    shutil.copytree(
        DOCS, tmp_path / "docs", ignore=shutil.ignore_patterns("tests", "reference", "science", "__pycache__")
    )
    (tmp_path / "docs" / "index.md").write_text(f"# Start\n\n{text}\n\n```{{toctree}}\nrecipe\n```\n", encoding="utf-8")
    for path in (tmp_path / "docs").glob("*.md"):
        if path.name not in {"index.md", "recipe.md"}:
            path.unlink()
    (tmp_path / "docs" / "recipe.md").write_text("# The recipe\n", encoding="utf-8")
    assert build(tmp_path / "docs", tmp_path / "site").returncode != 0
    (tmp_path / "docs" / "index.md").write_text("# Start\n\n```{toctree}\nrecipe\n```\n", encoding="utf-8")
    assert build(tmp_path / "docs", tmp_path / "site").returncode == 0
