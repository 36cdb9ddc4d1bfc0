"""A loss across vocabularies in whole runs: the teacher reads the same texts in its own tokens, byte by byte beside ours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import kdtool
import pytest
from kdtool._run.stages.row_files import StoredRows
from kdtool_testing.tiny_models import save_code_llama_tokenizer, tiny_config

pytestmark = pytest.mark.slow

LOSS = Path(__file__).with_name("meeting_loss.py")


@pytest.fixture(scope="session")
def pieces_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama with random weights and a tokenizer in the manner of sentencepiece."""
    import torch
    from transformers import LlamaForCausalLM

    folder = tmp_path_factory.mktemp("pieces")
    torch.manual_seed(1)
    LlamaForCausalLM(tiny_config(layers=2, vocabulary=600)).save_pretrained(folder)
    save_code_llama_tokenizer(folder, 600, 100_000, infilling=False)
    return folder


@pytest.fixture
def across(recipe: dict[str, Any], pieces_folder: Path, tmp_path: Path) -> dict[str, Any]:
    """A byte-level student beside a teacher with pieces, on texts with characters of one to four bytes."""
    texts = [f"def größe_{i}(n):\n    return '漢字 👩‍👧' * {i}  # {'é' * i}\n" for i in range(1, 24)]
    lines = [json.dumps({"text": text, "id": f"t{i}"}) for i, text in enumerate(texts)]
    (tmp_path / "texts.jsonl").write_text("\n".join(lines), encoding="utf-8")
    kept = {key: recipe[key] for key in ("name", "teacher", "signals", "trainer")}
    kept["teacher"] = {**kept["teacher"], "model": str(pieces_folder)}
    return {
        **kept,
        "corpus": {"use": "jsonl", "files": [str(tmp_path / "texts.jsonl")]},
        "rows": {"use": "packed", "length": 40},
        "student": {"use": "pretrained", "model": recipe["teacher"]["model"]},
        "train": {"losses": {"meeting": {"use": f"{LOSS}:Meeting", "weight": 0.5}, "ce": {"weight": 0.5}}, "steps": 4},
    }


def _met() -> set[tuple[str, int]]:
    import sys

    (module,) = [m for n, m in sys.modules.items() if n.startswith("_kdtool_local_") and str(m.__file__) == str(LOSS)]
    found = set(module.Meeting.met)
    module.Meeting.met.clear()
    return found


def test_states_are_compared_where_both_have_read_the_same_bytes(across: dict[str, Any]) -> None:
    results = kdtool.run(across)
    (note,) = [note for note in results.notes if note.startswith("vocabularies")]
    assert "the first ids with different tokens" in note
    names = [stage.name for stage in results.stages]
    assert names.index("rows") < names.index("rows/teacher")
    own, theirs = (
        StoredRows(next(s.path for s in results.stages if s.name == name), "") for name in ("rows", "rows/teacher")
    )
    assert [own[i].key for i in range(len(own))] == [theirs[i].key for i in range(len(theirs))]
    met = _met()
    assert len({key for key, _ in met}) > 3
    assert any(start > 20 for _, start in met)
    history = results.arms[0].histories["train"]
    assert history[-1].terms["meeting"].value < history[0].terms["meeting"].value


def test_cache_and_teacher_beside_the_student_teach_the_same(across: dict[str, Any]) -> None:
    from safetensors.torch import load_file

    found = []
    for signals in ({"use": "states"}, False):
        results = kdtool.run({**across, "signals": signals, "name": "cached" if signals else "beside"})
        found.append(load_file(results.arms[0].path / "model.safetensors"))
    for name, tensor in found[0].items():
        assert tensor.allclose(found[1][name], atol=1e-5), name


def test_other_losses_beside_it_are_still_refused(across: dict[str, Any]) -> None:
    across["train"]["losses"]["forward-kl"] = {}
    with pytest.raises(kdtool.RecipeError, match="forward-kl: compares token by token, but the student has 512 tokens"):
        kdtool.check(across)
    del across["train"]["losses"]["forward-kl"]
    assert kdtool.check(across)["vocabularies"]["teacher"]["relation"] == "different"


def test_same_vocabulary_needs_no_other_rows(across: dict[str, Any], recipe: dict[str, Any]) -> None:
    stages = kdtool.plan({**across, "teacher": recipe["teacher"]})
    assert "rows/teacher" not in {stage.name for stage in stages}
    assert "rows/teacher" in {stage.name for stage in kdtool.plan(across)}
