"""Perplexity of kdtool beside that of lm-evaluation-harness (`loglikelihood_rolling`), on small Llamas with random weights.

    pip install lm_eval
    python benchmarks/harness_perplexity.py

One model's tokenizer puts `<s>` before a text, the other's puts nothing. Texts fit into the context: longer ones are cut
into other windows there. None begins with a space: in front of one, transformers 5 leaves out the space that sentencepiece
puts before a text, which kdtool keeps. Ends with 1 where a perplexity, or a text's log-likelihood, differs by more than a
thousandth. Needs kdtool-transformers, and nothing from a network.

`add_bos_token=False` has the harness predict the text alone from its prefix token. Without it, 0.4.13 puts `<s>` behind that
prefix once more, and counts it as a token of the text: that number is shown besides.
"""

from __future__ import annotations

import sys
import tempfile
from importlib.metadata import version
from math import exp
from pathlib import Path
from typing import Any

import torch
import transformers
from kdtool_testing.tiny_models import save_code_llama_tokenizer, save_starcoder2_tokenizer, tiny_config
from kdtool_transformers import TransformersModel, TransformersRuntime, open_model, open_tokenizer
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

VOCABULARY, TOLERANCE = 616, 1e-3
TEXTS = [
    "def add(a, b):\n    return a + b\n",
    "x",
    "for number in range(10):\n\tprint(number)  # größer 漢字\n",
    "class Empty:\n    pass\n\n\n" * 12,
]


def main() -> int:
    """Compare; return 1 where a perplexity differs."""
    transformers.utils.logging.disable_progress_bar()
    print(f"lm-evaluation-harness {version('lm_eval')}, transformers {transformers.__version__}")
    worst = 0.0
    for name, start in (("Llama that begins texts with <s>", True), ("Llama that begins texts with nothing", False)):
        with tempfile.TemporaryDirectory() as folder:
            model = saved(Path(folder), start=start)
            own = [score.log_likelihood for score in TransformersRuntime(model).score(TEXTS)]
            theirs, doubled = (harness(folder, add) for add in (False, None))
            tokens = sum(len(model.tokenizer.encode(text)) for text in TEXTS)
        mine, other, default = (exp(-sum(each) / tokens) for each in (own, theirs, doubled))
        worst = max(worst, abs(mine / other - 1), *(abs(a - b) / abs(b) for a, b in zip(own, theirs, strict=True)))
        print(f"{name}: kdtool {mine:.6f}, harness {other:.6f}; with its own default {default:.6f}; {tokens} tokens")
    print(f"greatest relative difference, of a perplexity or of a text's log-likelihood: {worst:.1e}")
    return int(worst > TOLERANCE)


def saved(folder: Path, *, start: bool) -> TransformersModel:
    """Write a small Llama with a tokenizer as Code Llama's or as StarCoder2's, and open it."""
    if start:
        save_code_llama_tokenizer(folder, VOCABULARY, 100_000, infilling=True)
    else:
        save_starcoder2_tokenizer(folder, VOCABULARY, 100_000)
    torch.manual_seed(0)
    settings: dict[str, Any] = {"bos_token_id": 1, "eos_token_id": 2} if start else {}
    model = transformers.AutoModelForCausalLM.from_config(tiny_config(vocabulary=VOCABULARY, **settings))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.25)
    TransformersModel(model.eval(), open_tokenizer_of(folder, model)).save(folder)
    return open_model(folder, dtype=torch.float32, offline=True)


def open_tokenizer_of(folder: Path, model: Any) -> Any:
    """Open the tokenizer beside a model's configuration, by which its class is known."""
    model.config.save_pretrained(folder)
    return open_tokenizer(folder)


def harness(folder: str, add_bos_token: bool | None) -> list[float]:
    """Return the harness's log-likelihoods of the texts."""
    model = HFLM(pretrained=folder, device="cpu", dtype="float32", batch_size=1, add_bos_token=add_bos_token)
    requests = [Instance("loglikelihood_rolling", {}, (text,), number) for number, text in enumerate(TEXTS)]
    return list(model.loglikelihood_rolling(requests, disable_tqdm=True))


if __name__ == "__main__":
    sys.exit(main())
