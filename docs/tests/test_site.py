"""The site builds without a warning, loads nothing from elsewhere, and its reference holds all that the code declares."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tomllib
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import click
import kdtool
import pytest
from kdtool._cli import cli
from kdtool._plugins.distributions import known_components
from kdtool._plugins.hook_specs import BASES, KINDS
from kdtool._plugins.registry import load
from playwright.sync_api import sync_playwright

DOCS = Path(__file__).resolve().parent.parent
ROOT = DOCS.parent


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


def test_no_page_is_wider_than_a_phone(site: Path) -> None:
    """Wide tables scroll by themselves."""
    with sync_playwright() as playwright:
        path = shutil.which("chromium") or pytest.skip("Chromium is not installed: apt-get install chromium")
        with playwright.chromium.launch(executable_path=path, args=["--no-sandbox"]) as browser:
            tab = browser.new_page(viewport={"width": 400, "height": 800})
            wide = []
            for page in sorted(site.rglob("*.html")):
                tab.goto(page.as_uri())
                wide += [page] if tab.evaluate("document.documentElement.scrollWidth") > 400 else []
    assert wide == []


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


def shown(page: Path) -> str:
    """Return the text of a built page."""
    return words(unescape(re.sub(r"<[^>]+>", "", page.read_text(encoding="utf-8"))))


def test_every_setting_of_every_component_is_documented_once(site: Path) -> None:
    index = shown(site / "reference" / "settings.html")
    for kind, names in known_components().items():
        for name, component in names.items() if kind != "command" else ():
            page = shown(site / "packages" / f"{component.package}.html")
            for setting, field in load(kind, name, Path.cwd(), print).cls.Config.model_fields.items():
                assert f"{setting} " in index, (name, setting)
                assert f"{setting} " in page, (name, setting)
                assert words(field.description or "no description") in page, (name, setting)


@pytest.mark.parametrize("readme", sorted(ROOT.glob("*/*/README.md")), ids=lambda path: path.parent.name)
def test_readmes_leave_settings_to_their_page(readme: Path) -> None:
    assert not re.search(
        r"^\| setting( of `\w+`)? \|( of \|)? default \|", readme.read_text(encoding="utf-8"), re.MULTILINE
    )


def test_every_package_has_a_page_that_the_search_finds(site: Path) -> None:
    names = [
        tomllib.loads(path.read_text(encoding="utf-8"))["project"]["name"] for path in ROOT.glob("*/*/pyproject.toml")
    ]
    assert len(names) > 40
    found = re.search(r'docnames":(\[.*?\])', (site / "searchindex.js").read_text(encoding="utf-8"))
    assert found
    assert {f"packages/{name}" for name in names} <= {*json.loads(found[1])}


def test_the_picture_of_a_run_names_every_kind_of_plugin() -> None:
    texts = re.findall(r"<text (?!class)[^>]*>([^<]+)<", (DOCS / "flow.svg").read_text(encoding="utf-8"))
    assert set(KINDS) <= {name for text in texts for name in re.split(r",\s*", text)}


def test_every_command_is_documented(site: Path) -> None:
    page = (site / "reference" / "command-line.html").read_text(encoding="utf-8")
    for name in cli.list_commands(click.Context(cli)):
        assert f"kdtool {name}" in page


def test_every_plugin_is_in_the_directory(site: Path) -> None:
    page = (site / "plugin-directory.html").read_text(encoding="utf-8")
    rows = re.findall(r'<tr.+?class="pre">(.+?)<.+?class="pre">(.+?)<.+?</td>\n<td><p>[^<]', page, re.DOTALL)
    listed = {(name, one.requirement) for names in known_components().values() for name, one in names.items()}
    assert listed <= set(rows)


def test_plugins_of_others_are_in_the_directory(tmp_path: Path) -> None:
    for name in ("conf.py", "rendered.py", "package_pages.py", "plugin-directory.md", "_static"):
        copy = shutil.copytree if (DOCS / name).is_dir() else shutil.copy
        copy(DOCS / name, tmp_path / name)
    text = (tmp_path / "plugin-directory.md").read_text(encoding="utf-8")
    (tmp_path / "index.md").write_text(re.sub(r"\[(.+?)\]\((?:write|publish).+?\)", r"\1", text), encoding="utf-8")
    (tmp_path / "plugin-directory.md").unlink()
    entry = {"kind": "loss", "name": "rare", "package": "kdtool-loss-rare", "url": "https://example.org/rare"}
    (tmp_path / "plugins.json").write_text(json.dumps([entry | {"sentence": "KL on rare tokens"}]), encoding="utf-8")
    assert build(tmp_path, tmp_path / "site").returncode == 0
    page = (tmp_path / "site" / "index.html").read_text(encoding="utf-8")
    assert 'href="https://example.org/rare"' in page
    assert "KL on rare tokens" in page
