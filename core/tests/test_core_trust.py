"""A recipe alone sends keys to a service's own address only, and no text to other machines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import kdtool
import pytest
from kdtool._assembly.assemble import assemble
from kdtool._assembly.trust import origin_of
from kdtool._recipe.parser import load_recipe

ASKS = '''
from typing import Literal

import kdtool


class Access(kdtool.Config):
    key_variable: kdtool.KeyVariable = "EXAMPLE_API_KEY"


class Asks(kdtool.Corpus):
    """Text of a service."""

    class Config(kdtool.Config):
        url: kdtool.ServiceUrl = "https://api.example.org"
        more: tuple[kdtool.ServiceUrl, ...] = ()
        named: dict[str, kdtool.ServiceUrl] = {}
        cluster: Literal["auto", "local"] | kdtool.ServiceUrl = "auto"
        access: Access | None = None

    def __init__(self, config):
        self.config = config

    def kdtool_examples(self, run):
        yield kdtool.Example("1", kdtool.Text("text"), "train")
'''
KEY = {"access": {"key_variable": "EXAMPLE_API_KEY"}}


@pytest.fixture
def written(recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("KDTOOL_TRUST_URL", raising=False)
    (tmp_path / "asks.py").write_text(ASKS, encoding="utf-8")
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps({**recipe, "corpus": {"use": "./asks.py:Asks"}}), encoding="utf-8")
    return path


def mistakes(path: Path, corpus: dict[str, Any], **settings: Any) -> list[str]:
    """Return the problems of a recipe that extends the one at `path`, with these settings of its corpus."""
    top = path.with_name("top.yaml")
    top.write_text(json.dumps({"extends": path.name, "corpus": corpus}), encoding="utf-8")
    try:
        assemble(load_recipe(top, settings)).__exit__()
    except kdtool.RecipeError as error:
        return [f"{problem.key}: {problem.message}; {problem.remedy}" for problem in error.problems]
    return []


@pytest.mark.parametrize(
    "corpus",
    [
        KEY,
        {**KEY, "url": "https://API.example.org:443/v2/"},
        {"url": "http://127.0.0.1:8000/v1"},
        {"url": "http://localhost:8000"},
        {"url": "http://[::1]:8000"},
        {**KEY, "cluster": "local"},
        {"cluster": "127.0.0.1:6379"},
    ],
)
def test_the_own_address_and_servers_here_without_a_key_need_no_trust(written: Path, corpus: dict[str, Any]) -> None:
    assert mistakes(written, corpus) == []


@pytest.mark.parametrize(
    ("corpus", "origin"),
    [
        ({**KEY, "url": "http://127.0.0.1:8799"}, "http://127.0.0.1:8799"),
        ({**KEY, "url": "https://evil.example"}, "https://evil.example"),
        ({**KEY, "url": "https://api.example.org:444"}, "https://api.example.org:444"),
        ({**KEY, "url": "http://api.example.org"}, "http://api.example.org"),
        ({"url": "http://192.168.0.9:8000"}, "http://192.168.0.9:8000"),
        ({**KEY, "url": "https://api.example.org\\@evil.example"}, "this address"),
        ({**KEY, "url": "https://api.example.org:x"}, "this address"),
    ],
)
def test_other_addresses_need_the_command_line_or_the_environment(
    written: Path, monkeypatch: pytest.MonkeyPatch, corpus: dict[str, Any], origin: str
) -> None:
    (found,) = [problem for problem in mistakes(written, corpus) if problem.startswith("corpus.url")]
    assert f"a recipe may not send {'a key' if 'access' in corpus else 'text'} to {origin};" in found
    assert "--set corpus.url=URL" in found
    assert mistakes(written, corpus, **{"corpus.url": corpus["url"]}) == []
    assert mistakes(written, corpus, **{"corpus.access.key_variable": "OTHER_API_KEY"})
    monkeypatch.setenv("KDTOOL_TRUST_URL", f"https://first.example, {origin}/v1")
    assert bool(mistakes(written, corpus)) == (origin == "this address")


def test_each_address_of_a_list_needs_trust(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = {"more": ["http://127.0.0.1:8000", "http://192.168.0.9:8000"]}
    (found,) = mistakes(written, corpus)
    assert found.startswith("corpus.more")
    assert "http://192.168.0.9:8000;" in found
    assert mistakes(written, corpus, **{"corpus.more": corpus["more"]}) == []
    monkeypatch.setenv("KDTOOL_TRUST_URL", "http://192.168.0.9:8000")
    assert mistakes(written, corpus) == []


@pytest.mark.parametrize(
    ("corpus", "listed"),
    [
        ({"cluster": "192.168.0.9:6379"}, "192.168.0.9:6379"),
        ({**KEY, "cluster": "127.0.0.1:6379"}, "tcp://127.0.0.1:6379"),
        ({"cluster": "ray://evil.example:10001"}, "ray://evil.example:10001/x"),
        ({"named": {"one": "ftp://evil.example:21"}}, "ftp://evil.example:21"),
        ({"access": {"key_variable": "OTHER_API_KEY"}}, "https://api.example.org=OTHER_API_KEY"),
        (
            {"access": {"key_variable": "OTHER_API_KEY"}, "url": "https://other.example"},
            "https://other.example https://other.example=OTHER_API_KEY",
        ),
    ],
)
def test_clusters_collections_and_other_keys_need_trust(
    written: Path, monkeypatch: pytest.MonkeyPatch, corpus: dict[str, Any], listed: str
) -> None:
    assert mistakes(written, corpus)
    assert mistakes(written, {}, **{f"corpus.{name}": value for name, value in corpus.items()}) == []
    monkeypatch.setenv("KDTOOL_TRUST_URL", "https://elsewhere.example,https://elsewhere.example=OTHER_API_KEY")
    assert mistakes(written, corpus)
    monkeypatch.setenv("KDTOOL_TRUST_URL", listed)
    assert mistakes(written, corpus) == []


@pytest.mark.parametrize("name", ["AWS_SECRET_ACCESS_KEY", "_API_KEY", "EXAMPLE_API_KEY_ID", "EXAMPLE_API_KEY\n", ""])
def test_only_variables_of_api_keys_are_read(written: Path, name: str) -> None:
    (found,) = mistakes(written, {"access": {"key_variable": name}})
    assert "_API_KEY" in found


def test_all_mistakes_of_a_recipe_are_reported_at_once(written: Path) -> None:
    found = mistakes(written, {**KEY, "url": "https://evil.example"}, **{"rows.no_such_setting": 1})
    assert sorted(problem.partition(":")[0] for problem in found) == ["corpus.url", "rows.no_such_setting"]


def test_a_finished_run_is_a_file_too() -> None:
    """A run's folder may come from others: its addresses are not those of the command line."""
    from kdtool._evaluate import opening_recipe

    recipe = opening_recipe("run", {"teachers": {"one": {"use": "x", "url": "http://127.0.0.1:1"}}})
    assert not recipe.places["teachers", "one", "url"].from_settings


def test_origins_are_what_clients_read() -> None:
    same = ("https://a.b", "https://A.B:443/c?d#e", " https://a.b")
    assert [origin_of(text) for text in same] == ["https://a.b", "https://a.b", ""]
    assert [origin_of(text) for text in ("https://u@a.b", "https:a.b", "file:///x", "https://a.b\t", "")] == [""] * 5
