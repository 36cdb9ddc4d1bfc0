"""Cards: complete, in the Hub's form, true to the results, without anything to edit; and Modelfiles of Ollama."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import gguf
import kdtool
import pytest
from huggingface_hub import ModelCard, ModelCardData
from huggingface_hub.repocard_data import model_index_to_eval_results
from kdtool_testing import make_results
from kdtool_transformers.card import CardFile, build_card, complete_card, modelfile
from yaml import safe_load

OWN = """\
---
license: other
license_expression: A AND B
library_name: transformers
pipeline_tag: text-generation
tags: [code, distillation, kdtool]
---
# small

A student of 10 parameters.
Weights in bfloat16.

## Licences and terms of its sources
- `teacher`: A

## Use
```python
## not a heading
```
"""


def _artifact(folder: Path, **changes: Any) -> kdtool.Artifact:
    return replace(
        kdtool.Artifact(folder / "exports", "safetensors", 1_234_567, how_to_use="import x", card=OWN), **changes
    )


def _complete(folder: Path, change: Callable[[kdtool.Results], kdtool.Results] = lambda one: one, **own: Any) -> str:
    artifact = _artifact(folder, **own)
    artifact.path.mkdir(exist_ok=True)
    return complete_card(change(make_results(folder)), artifact)


def _adding(*measurements: kdtool.Measurement) -> Callable[[kdtool.Results], kdtool.Results]:
    return lambda results: replace(results, measurements=(*results.measurements, *measurements))


def _data(card: str) -> ModelCardData:
    data = ModelCard(card).data
    assert isinstance(data, ModelCardData)
    return data


def _section(card: str, heading: str) -> str:
    return card.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


def test_the_front_matter_is_read_by_the_hub_s_own_library(tmp_path: Path) -> None:
    data = _data(_complete(tmp_path))
    assert (data.library_name, data.language) == ("transformers", "code")
    assert {"code", "safetensors"} <= {*(data.tags or ())}
    found = {one.metric_type: one for one in data.eval_results or ()}
    assert found["perplexity"].metric_value == pytest.approx(5 + len("safetensors-seed0") / 7)
    assert (found["perplexity"].metric_args or {})["low"] < found["perplexity"].metric_value
    assert not any(name in found for name in ("decode-speed", "memorised"))


def test_every_part_that_readers_ask_for_is_there(tmp_path: Path) -> None:
    card = _complete(tmp_path)
    headings = re.findall(r"^## (.+)$", card, re.MULTILINE)
    assert headings == [
        "Intended use", "Limits and bias", "Training", "Data", "Measurements", "Files", "Use",
        "Licences and terms of its sources", "Citation",
    ]  # fmt: skip
    assert card.count("# small\n") == 1
    assert "Weights in bfloat16." in card
    assert not re.search(r"TODO|FIXME|More Information|None|XXX|\{\}", card)


def test_a_benchmark_has_its_data_set_interval_and_percent_of_the_teacher(tmp_path: Path) -> None:
    score = kdtool.Measurement("humaneval.pass@1", "safetensors-seed0", "fraction", 0.5, 164, True, 0.4, 0.6)
    share = kdtool.Comparison(
        "humaneval.pass@1", "student", "teacher", 0.5, 0.6, -0.1, -0.2, 0.0, False, "worse", 1, 164, (0.83, 0.7, 0.95)
    )

    def change(results: kdtool.Results) -> kdtool.Results:
        return replace(_adding(score)(results), comparisons=(share,))

    card = _complete(tmp_path, change)
    (row,) = [line for line in card.splitlines() if line.startswith("| humaneval.pass@1")]
    assert {"0.5 (0.4 to 0.6)", "83.0 % (70.0 % to 95.0 %)"} <= {part.strip() for part in row.split("|")}
    index = safe_load(card.split("---\n")[1])["model-index"]
    _, found = model_index_to_eval_results(index)
    own = next(one for one in found if one.metric_type == "pass@1")
    assert own.dataset_type == "openai/openai_humaneval"


def test_what_was_not_measured_is_named_as_such(tmp_path: Path) -> None:
    limits = _section(_complete(tmp_path), "Limits and bias")
    for words in ("repetition of training text was not measured", "with benchmarks was not measured"):
        assert words in limits
    found = [
        kdtool.Measurement("memorised", "student-seed0", "fraction", 0.01, 9, False),
        kdtool.Measurement("contamination.humaneval", "student-seed0", "fraction", 0.02, 164, False),
    ]
    card = _complete(tmp_path, _adding(*found))
    assert "not measured" not in _section(card, "Limits and bias").replace("They were not measured", "")
    risk = _section(card, "Measurements").partition("### Memorisation and contamination")[2]
    assert "| memorised, fraction, lower is better |" in risk
    assert "| contamination.humaneval, fraction" in risk


def test_a_run_without_measurements_has_a_card(tmp_path: Path) -> None:
    card = _complete(tmp_path, lambda results: replace(results, measurements=(), comparisons=(), values=()))
    assert _section(card, "Measurements").strip() == "Not measured."
    assert "model-index" not in card


def test_a_model_that_was_not_measured_itself_has_no_column(tmp_path: Path) -> None:
    def change(results: kdtool.Results) -> kdtool.Results:
        others = tuple(one for one in results.measurements if one.subject != "safetensors-seed0")
        return replace(results, measurements=others)

    section = _section(_complete(tmp_path, change), "Measurements")
    assert "The files themselves were not measured" in section
    assert "this model" not in section


def test_sizes_and_speeds_stand_for_each_file(tmp_path: Path) -> None:
    results = make_results(tmp_path)
    folder = _artifact(tmp_path)
    file = _artifact(tmp_path, path=tmp_path / "a-q4_k_m.gguf", format="gguf", quantisation="q4_k_m")
    section = _section(build_card(results, [CardFile(folder, "."), CardFile(file, "a-q4_k_m.gguf")]), "Files")
    assert "| this folder | safetensors | – | 1.23 MB | 42 |" in section
    assert "| `a-q4_k_m.gguf` | gguf | q4_k_m | 1.23 MB | – |" in section


def test_any_text_stays_where_it_belongs(tmp_path: Path) -> None:
    results = make_results(tmp_path, lambda text: f"{text} | a\n# b ```` c")
    named = {"languages": {"py\n## Injected <script>": 1}, "rejected": {"length": {"\n## Injected": 1}}}
    card = _complete(tmp_path, lambda _: replace(results, data={**results.data, **named}))
    assert not re.search(r"^## Injected|<script", card, re.MULTILINE)
    section = _section(card, "Measurements")
    table = [line for line in section.splitlines() if line.startswith("| ")]
    assert len({line.replace("\\|", "").count("|") for line in table}) == 1
    fenced = section.split("```json\n")[1].split("\n```\n")[0]
    assert json.loads(fenced)["perplexity"]["split"] == "test"


def test_keys_and_folders_of_the_machine_are_not_shown(tmp_path: Path) -> None:
    private = {"teacher": {"model": "/home/me/models/teacher", "note": "hf_" + "a" * 30, "drive": "C:\\me\\model"}}

    def change(results: kdtool.Results) -> kdtool.Results:
        one = replace(results.components[0], config=private["teacher"])
        return replace(results, recipe={**results.recipe, **private}, components=(one,))

    card = _complete(tmp_path, change)
    assert not [text for text in ("/home/me", "hf_aaa", "C:\\me", str(tmp_path)) if text in card]
    assert "model: teacher" in card


def test_base_models_and_data_sets_are_those_of_the_hub(tmp_path: Path) -> None:
    """Without a model that weights were taken from, the base model is the teacher."""
    teacher = replace(make_results(tmp_path).components[0], config={"model": "bigcode/starcoder2-3b"})
    student = kdtool.ComponentRecord("student", "student", "pretrained", "", "", {"model": "Qwen/Qwen3-0.6B"})
    corpora = [
        kdtool.ComponentRecord(f"corpora.{name}", "corpus", "hub", "", "", {"dataset": dataset})
        for name, dataset in (("a", "owner/code"), ("b", ""))
    ]
    taken = kdtool.Licensed("student", kdtool.LicenceTerms("Apache-2.0"), ("weights",))
    components = (teacher, student, *corpora)
    for licences, base in (((), "bigcode/starcoder2-3b"), ((taken,), "Qwen/Qwen3-0.6B")):
        card = _complete(tmp_path, partial(replace, components=components, licences=licences))
        assert (_data(card).base_model, _data(card).datasets) == (base, ["owner/code"])
        assert "[bigcode/starcoder2-3b](https://huggingface.co/bigcode/starcoder2-3b)" in _section(card, "Citation")


def test_licences_of_several_components_link_to_the_file_beside_the_card(tmp_path: Path) -> None:
    files = [CardFile(_artifact(tmp_path), ".")]
    card = build_card(make_results(tmp_path), files, repository="a/b", licence_file="LICENSE.md")
    assert _data(card).license_link == "LICENSE.md"
    assert "license_link" not in build_card(make_results(tmp_path), files)


def test_a_gguf_file_has_lines_for_llama_cpp_and_ollama(tmp_path: Path) -> None:
    path = tmp_path / "small-q8_0.gguf"
    artifact = _artifact(tmp_path, path=path, format="gguf", how_to_use=f"llama-server -m {path}\n")
    results = make_results(tmp_path)
    card = complete_card(results, artifact)
    assert "llama-server -m small-q8_0.gguf\n" in card
    assert "ollama create small-q8_0 -f Modelfile" in card
    lines = modelfile(results, CardFile(artifact, path.name))
    assert lines.startswith("FROM ./small-q8_0.gguf\nPARAMETER num_ctx 2048\n")
    assert lines in card


def test_the_model_before_training_is_a_column_before_the_teacher(tmp_path: Path) -> None:
    def change(results: kdtool.Results) -> kdtool.Results:
        base = kdtool.Subject("base", "base")
        one = kdtool.Measurement("perplexity", "base", "per token", 33.5, 64, False)
        return replace(_adding(one)(results), subjects=(*results.subjects, base))

    head = next(line for line in _complete(tmp_path, change).splitlines() if line.startswith("| measurement "))
    assert head.index(" base ") < head.index(" teacher ")


TOKENS = ["a", "<|end|>", "<fim_prefix>", "<fim_suffix>", "<fim_middle>"]
GAP = '''\
TEMPLATE """{{ if .Suffix }}<fim_prefix>{{ .Prompt }}<fim_suffix>{{ .Suffix }}<fim_middle>{{ else }}{{ .Prompt }}{{ end }}"""
PARAMETER stop "<|end|>"
PARAMETER stop "<fim_prefix>"
PARAMETER stop "<fim_suffix>"
PARAMETER stop "<fim_middle>"
'''


def _written(folder: Path, *, fim: bool = True, template: str = "", kind: str = "gpt2", token: str = TOKENS[2]) -> str:
    path = folder / "small.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model(kind)
    writer.add_token_list([*TOKENS[:2], token, *TOKENS[3:]])
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


INJECTION = '"""\nADAPTER ./key\n"""'


@pytest.mark.parametrize(
    "changes", [{"template": "{{ messages }}"}, {"kind": "llama"}, {"token": INJECTION}, {"token": "{{ .System }}"}]
)
def test_a_chat_template_and_tokens_that_cannot_be_spelled_are_not_replaced(
    changes: dict[str, str], tmp_path: Path
) -> None:
    assert not re.search("TEMPLATE|ADAPTER", _written(tmp_path, **changes))  # type: ignore[arg-type]
