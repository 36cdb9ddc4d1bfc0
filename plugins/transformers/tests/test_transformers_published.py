"""Facts about published models that are known before anything is fetched."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

import huggingface_hub
import pytest
from kdtool_testing.tiny_models import save_tiny
from kdtool_transformers import absent_config, outline_of
from kdtool_transformers.sources import published_bytes, published_config

LISTED = list(json.loads(files("kdtool_transformers").joinpath("published.json").read_text(encoding="utf-8"))["models"])
COUNTS = {
    "ibm-granite/granite-4.0-350m-base": 352_379_904,
    "ibm-granite/granite-4.0-1b-base": 1_631_750_144,
    "meta-llama/Llama-3.2-1B": 1_235_814_400,
    "mistralai/Mistral-7B-v0.1": 7_241_732_096,
}


@pytest.fixture(autouse=True)
def _nothing_cached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: None)


@pytest.mark.parametrize("name", COUNTS)
def test_shapes_are_those_of_the_class_of_transformers(name: str) -> None:
    config = absent_config(name)
    assert config is not None
    facts = outline_of(config).facts
    assert (facts.parameters, facts.vocabulary) == (COUNTS[name], config["vocab_size"])
    assert facts.tokenizer_fingerprint == "", "the tokenizer is not here"


@pytest.mark.parametrize("name", LISTED)
def test_every_one_that_is_listed_can_be_read(name: str) -> None:
    known, size = published_config(name), published_bytes(name)
    assert size is not None
    assert known["hidden_size"] % known["num_attention_heads"] == 0
    assert 2 * known["vocab_size"] * known["hidden_size"] < size


def test_nothing_is_said_of_what_is_here_or_not_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_tiny(tmp_path / "model")
    name = "bigcode/starcoder2-3b"
    for source, revision in (
        (str(tmp_path / "model"), None),
        ("somebody/model", None),
        (name, "main"),
        ("m.gguf", None),
    ):
        assert absent_config(source, revision) is None, source
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: "held")
    assert absent_config(name) is None
