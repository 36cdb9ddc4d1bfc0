"""Opening of a model folder, or an adapter, without the values of weights, to see whether that ends: `vetting`'s process."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

from kdtool_transformers import vetting
from kdtool_transformers.limits import answer_questions
from kdtool_transformers.model import without_weights
from kdtool_transformers.opening import open_config, open_tokenizer
from kdtool_transformers.weights import add_adapter, build_without_values, read_shapes, weight_files


def _open_tokenizer(folder: Path, _: Path) -> None:
    open_tokenizer(folder, offline=True).encode(string.printable)


def _build(folder: Path, _: Path) -> None:
    config = open_config(folder, offline=True)  # builds the model, unless it is quantised
    if getattr(config, "quantization_config", None) is not None:
        build_without_values(MODEL_FOR_CAUSAL_LM_MAPPING[type(config)], config, read_shapes(*weight_files(folder)))


def _adapt(folder: Path, adapter: Path) -> None:
    add_adapter(without_weights(open_config(folder, offline=True)), adapter, None)


def _rehearse(folder: str, adapter: str) -> dict[str, Any]:
    vetting.opened.add(vetting.state_of(Path(folder)))
    for work in (_adapt,) if adapter else (_open_tokenizer, _build):
        try:
            work(Path(folder), Path(adapter))
        except BaseException as error:  # the process that asks meets others, panics in Rust too, and explains them
            if isinstance(error, MemoryError) or "allocate memory" in str(error):
                raise MemoryError from error
    return {}


if __name__ == "__main__":
    answer_questions(_rehearse)
