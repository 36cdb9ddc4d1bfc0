"""Licences of published models: known by their cards, files and publishers, with what they ask."""

from __future__ import annotations

import struct
from pathlib import Path

import kdtool
import pytest
from kdtool_transformers.card import card_name, known_terms, licence_of, terms_of

_CARD = "---\nlicense: {}\n---\n"


@pytest.mark.parametrize(
    ("name", "licence"),
    [
        ("codellama/CodeLlama-7b-hf", "Llama 2 Community License"),
        ("meta-llama/CodeLlama-7b-hf", "Llama 2 Community License"),
        ("meta-llama/Llama-3.2-1B", "Llama 3.2 Community License"),
        ("meta-llama/Llama-3.1-8B-Instruct", "Llama 3.1 Community License"),
        ("meta-llama/Meta-Llama-3-8B", "Meta Llama 3 Community License"),
        ("bigcode/starcoder2-3b", "BigCode OpenRAIL-M v1"),
        ("HuggingFaceTB/SmolLM2-135M-Instruct", "Apache-2.0"),
        ("somebody/else", "as named on its model card"),
    ],
)
def test_publishers_licence_is_known_before_anything_is_fetched(name: str, licence: str) -> None:
    terms = terms_of(name)
    assert terms is not None
    assert terms.licence == licence
    assert terms.url


@pytest.mark.parametrize(
    ("file", "content", "licence"),
    [
        ("README.md", _CARD.format("llama3.2"), "Llama 3.2 Community License"),
        ("README.md", _CARD.format("apache-2.0"), "Apache-2.0"),
        ("README.md", _CARD.format("own-1.0"), "own-1.0"),
        ("README.md", _CARD.format("other"), "other"),
        (
            "LICENSE",
            "LLAMA 3.2 COMMUNITY LICENSE AGREEMENT\n\nLlama 3.2 Version Release Date",
            "Llama 3.2 Community License",
        ),
        ("LICENSE.txt", "LLAMA 2 COMMUNITY LICENSE AGREEMENT\t\n", "Llama 2 Community License"),
        ("LICENSE", "                  Apache License\n            Version 2.0, January 2004", "Apache-2.0"),
        ("LICENSE.md", "MIT License\n\nCopyright (c) 2026", "MIT"),
        ("LICENSE", "BigCode Open RAIL-M v1 License Agreement\n\nSection I: Preamble", "BigCode OpenRAIL-M v1"),
        ("LICENSE", "Everything is allowed.", None),
    ],
)
def test_model_folder_names_its_licence(file: str, content: str, licence: str | None, tmp_path: Path) -> None:
    (tmp_path / file).write_text(content, encoding="utf-8")
    terms = terms_of(str(tmp_path))
    assert (terms and terms.licence) == licence


def test_card_that_says_other_is_followed_by_the_licence_file(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(_CARD.format("other"), encoding="utf-8")
    (tmp_path / "LICENSE").write_text("LLAMA 2 COMMUNITY LICENSE AGREEMENT", encoding="utf-8")
    assert licence_of(str(tmp_path)) == "llama2"


def test_what_the_licences_ask() -> None:
    llama2, llama3, llama32 = (known_terms(name) for name in ("llama2", "llama3", "llama3.2"))
    assert set(llama2.forbids) == set(llama3.forbids) == {"signals", "text"}
    assert "excluding Llama 2 or derivative works thereof" in llama2.restrictions[0]
    assert "improve any other large language model" in llama2.restrictions[0]
    assert llama32.forbids == ()
    assert (llama2.name_prefix, llama3.name_prefix, llama32.name_prefix) == ("", "Llama 3", "Llama")
    assert llama32.notices[0] == "Built with Llama"
    rail = known_terms("bigcode-openrail-m")
    assert rail.forbids == ()
    assert "distilled" in rail.restrictions[0]
    assert any("malware" in restriction for restriction in rail.restrictions)
    assert known_terms("mit") == kdtool.LicenceTerms("MIT")
    assert known_terms("x <img>\n# `y`").licence == "x ?img??? ?y?"
    for name in ("llama2", "llama3.2", "bigcode-openrail-m", "apache-2.0", "mit"):
        assert card_name([known_terms(name).licence]) == name
        assert known_terms(known_terms(name).licence) == known_terms(name)
    assert card_name(["Own terms"]) == card_name([]) == card_name(["MIT", "Apache-2.0"]) == "other"


def test_model_under_several_licences_is_under_all_that_they_ask() -> None:
    both = known_terms("Llama 2 Community License AND Llama 3.2 Community License")
    assert both.name_prefix == "Llama"
    assert set(both.forbids) == {"signals", "text"}
    assert set(both.notices) == {*known_terms("llama2").notices, *known_terms("llama3.2").notices}


BOMB = "".join(f"x{n}: &a{n} [{', '.join([f'*a{n - 1}' if n else 'mit'] * 9)}]\n" for n in range(12))


@pytest.mark.parametrize(
    "metadata",
    [
        "license: [mit",
        "license:\n- mit\n- apache-2.0",
        f"{BOMB}license_expression: *a11",
        "license: " + "[" * 5000,
        "\xff",
    ],
)
def test_a_card_without_a_readable_licence_names_none(metadata: str, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(f"---\n{metadata}\n---\n", encoding="latin-1")
    assert licence_of(str(tmp_path)) is None


def test_a_gguf_file_names_its_licence_in_its_header(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    key = struct.pack("<Q", 15) + b"general.license" + struct.pack("<I", 8)
    for value, licence in (
        (struct.pack("<Q", 3) + b"mit" + bytes(9), "mit"),
        (struct.pack("<Q", 2**63) + b"mit", "mit"),
        (struct.pack("<Q", 0), None),
        (b"\x01", None),
    ):
        file.write_bytes(b"GGUF" + bytes(20) + key + value)
        assert licence_of(str(file)) == licence
    file.write_bytes(b"GGUF")
    assert licence_of(str(file)) is None
    assert terms_of(str(tmp_path / "absent.gguf")) is None
