"""A small teacher and recipe for tests that cross packages: everything is real, but tiny and without a network."""

from __future__ import annotations

import copy
import os
import shutil
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))  # for modules beside the tests, also in the processes that they start


@pytest.fixture(autouse=True)
def _other_work_unseen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the machine's load out of measurements of speed."""
    monkeypatch.setattr("kdtool_evaluator_efficiency._turns._busy_seconds", lambda: None)


@pytest.fixture(scope="session")
def teacher_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of 6 layers with random weights and a byte-level BPE tokenizer trained on a text that never changes."""
    return make_teacher(tmp_path_factory.mktemp("teacher"), seed=0)


@pytest.fixture(scope="session")
def other_teacher_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A second teacher: other weights, and a tokenizer of its own."""
    return make_teacher(tmp_path_factory.mktemp("other"), seed=1, vocabulary=600)


@pytest.fixture(scope="session")
def second_folder(teacher_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher with the tokenizer of `teacher_folder` and other weights."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = shutil.copytree(teacher_folder, tmp_path_factory.mktemp("second") / "model")
    torch.manual_seed(1)
    LlamaForCausalLM(LlamaConfig.from_pretrained(folder)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def marked_teacher_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A third one, whose tokenizer has FIM tokens and the chat template that is called ChatML."""
    marks = ("<fim_prefix>", "<fim_suffix>", "<fim_middle>", "<|im_start|>", "<|im_end|>")
    template = (
        "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    return make_teacher(tmp_path_factory.mktemp("marked"), seed=0, marks=marks, chat_template=template)


def make_teacher(
    folder: Path, seed: int, vocabulary: int = 512, marks: tuple[str, ...] = (), chat_template: str | None = None
) -> Path:
    """Write a tiny causal language model that `transformers` opens; its tokenizer may have marks and a chat template."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<|endoftext|>", *marks]
    trainer = trainers.BpeTrainer(vocab_size=vocabulary, special_tokens=special, initial_alphabet=alphabet)
    texts = [
        Path(module).read_text(encoding="utf-8") for module in (pytest.__file__, ROOT / "tests" / "tokenizer_text.txt")
    ]
    tokenizer.train_from_iterator(texts * 3, trainer)
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>", bos_token="<|endoftext|>")
    wrapped.chat_template = chat_template
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(wrapped), hidden_size=64, intermediate_size=128, num_hidden_layers=6, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=2048, tie_word_embeddings=True, eos_token_id=0, bos_token_id=0,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    wrapped.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def small_recipe(teacher_folder: Path) -> dict[str, Any]:
    """The quickstart's shape in seconds."""
    return {
        "name": "small",
        "corpus": {"use": "python-source", "train_files": 8, "validation_files": 2, "test_files": 3},
        "rows": {"use": "packed", "length": 64, "maximum_tokens": 2048},
        "teacher": {"use": "causal-lm", "model": str(teacher_folder), "dtype": "float32"},
        "signals": {"use": "states"},
        "student": {"use": "pruned", "layers": 3},
        "trainer": {"use": "standard", "batch": 2, "dtype": "float32", "log_every": 2, "learning_rate": 1e-2},
        "train": {
            "losses": {"forward-kl": {"weight": 0.5}, "ce": {"weight": 0.5}, "hidden": {"weight": 1.0}},
            "steps": 6,
        },
        "control": {"match": ["tokens", "time"]},
        "evaluators": {"perplexity": {"limit": 3, "characters": 400}, "agreement": {}, "efficiency": {}},
        "exporters": ["safetensors"],
        "trackers": ["console"],
        "reporter": "html",
    }


@pytest.fixture
def recipe(small_recipe: dict[str, Any]) -> dict[str, Any]:
    """A copy that a test may change."""
    return copy.deepcopy(small_recipe)


@pytest.fixture(autouse=True)
def _working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KDTOOL_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="session")
def _session_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.fixture
def shared_store(_working_folder: None, _session_store: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One store for all whole runs of tests that look at no store: text, rows, signals and students are made once."""
    monkeypatch.setenv("KDTOOL_STORE", str(_session_store))
    return _session_store


@pytest.fixture(autouse=True, scope="session")
def _library_searched_once() -> Iterator[None]:
    """Keep what `python-source` finds in the standard library: a search takes half a second, and every run makes two."""
    from kdtool_essentials import python_source

    library, find = Path(sysconfig.get_path("stdlib")), python_source.find_files
    found: dict[tuple[int, int, frozenset[str]], tuple[list[python_source.SourceFile], list[str]]] = {}

    def find_once(
        folder: Path, minimum: int, maximum: int, skipped: frozenset[str], unread: list[str]
    ) -> Iterator[python_source.SourceFile]:
        if folder != library:
            return find(folder, minimum, maximum, skipped, unread)
        wanted = (minimum, maximum, skipped)
        if wanted not in found:
            missed: list[str] = []
            found[wanted] = list(find(folder, *wanted, missed)), missed
        files, missed = found[wanted]
        unread.extend(missed)
        return iter(files)

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(python_source, "find_files", find_once)
        yield


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """Tiny models are fastest on one thread, and threads of several test processes would wait for each other."""
    import torch

    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
