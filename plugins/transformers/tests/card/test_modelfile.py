"""Modelfiles of Ollama: how a gap is asked, as the GGUF file says."""

from __future__ import annotations

from pathlib import Path

import gguf
import kdtool
from kdtool_testing import make_results
from kdtool_transformers.card import CardFile, modelfile

TOKENS = ["a", "<|end|>", "<fim_prefix>", "<fim_suffix>", "<fim_middle>"]
GAP = '''\
TEMPLATE """{{ if .Suffix }}<fim_prefix>{{ .Prompt }}<fim_suffix>{{ .Suffix }}<fim_middle>{{ else }}{{ .Prompt }}{{ end }}"""
PARAMETER stop "<|end|>"
PARAMETER stop "<fim_prefix>"
PARAMETER stop "<fim_suffix>"
PARAMETER stop "<fim_middle>"
'''


def _written(folder: Path, *, fim: bool = True, template: str = "", kind: str = "gpt2") -> str:
    path = folder / "small.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model(kind)
    writer.add_token_list(TOKENS)
    writer.add_eos_token_id(1)
    if fim:
        for number, part in enumerate(("pre", "suf", "mid"), 2):
            writer.add_uint32(f"tokenizer.ggml.fim_{part}_token_id", number)
    if template:
        writer.add_chat_template(template)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    artifact = kdtool.Artifact(path, "gguf", path.stat().st_size)
    return modelfile(make_results(folder), CardFile(artifact, path.name))


def test_a_model_with_fim_tokens_is_asked_for_the_text_in_a_gap(tmp_path: Path) -> None:
    first = "FROM ./small.gguf\nPARAMETER num_ctx 2048\nPARAMETER temperature 0\n"
    assert _written(tmp_path) == first + GAP
    assert _written(tmp_path, fim=False) == first


def test_a_chat_template_of_the_file_stays(tmp_path: Path) -> None:
    assert "TEMPLATE" not in _written(tmp_path, template="{{ messages }}")


def test_tokens_of_sentencepiece_are_not_spelled(tmp_path: Path) -> None:
    assert "TEMPLATE" not in _written(tmp_path, kind="llama")
