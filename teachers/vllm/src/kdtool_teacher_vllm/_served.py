"""The served model on this machine: its final norm and head, and the teacher as evaluators see it.

Norm and head are two tensors or three of the model's files, not its layers. Evaluators get answers from the server, and
scores by the server's states.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import kdtool
import torch
from kdtool_measuring import AnsweringRuntime
from kdtool_torch import move, score_texts
from kdtool_transformers import Source, TransformersModel, causal_of
from safetensors import safe_open
from torch import Tensor, nn

_INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"


class Readout(nn.Module):
    """Projects states before the final norm onto logits.

    `norm` is the model's own module, and `head` its head, both in the dtype that the server computes in.
    """

    def __init__(self, norm: nn.Module, head: kdtool.Head) -> None:
        super().__init__()
        self.norm = norm
        self.head = head

    def forward(self, states: Tensor) -> Tensor:
        """Return final states [N, H] of states before the final norm."""
        with torch.no_grad():
            final: Tensor = self.norm(states)
        return final

    def copy_to(self, device: torch.device) -> Readout:
        """Return a copy on a device."""
        return Readout(deepcopy(self.norm).to(device), move(self.head, device))


def load_readout(outline: TransformersModel, source: Source, dtype: torch.dtype, *, offline: bool) -> Readout:
    """Read the final norm and the head of a model.

    Args:
        outline: the model without memory for its weights.
        source: its folder or Hub name; of the latter only the files with these tensors are fetched.
        dtype: the precision of both.
        offline: fetch nothing.

    Raises:
        UsageError: the class of the model keeps its final norm elsewhere, or a tensor is missing.
    """
    causal = causal_of(outline.model)
    norm, name = final_norm(causal)
    projection = causal.get_output_embeddings()
    modules = {id(module): path for path, module in causal.named_modules()}
    weights = [modules[id(projection)], modules[id(causal.get_input_embeddings())]]
    with _Tensors(source, offline=offline) as tensors:
        norm = norm.to_empty(device="cpu")
        norm.load_state_dict({key: tensors.read(f"{name}.{key}") for key in norm.state_dict()})
        tied = not tensors.has(f"{weights[0]}.weight")
        weight = tensors.read(f"{weights[tied]}.weight").to(dtype)
        bias = getattr(projection, "bias", None)
        bias = None if bias is None else tensors.read(f"{weights[0]}.bias").to(dtype)
    return Readout(norm.to(dtype).eval().requires_grad_(False), replace(outline.head, weight=weight, bias=bias))


def final_norm(causal: Any) -> tuple[nn.Module, str]:
    """Return the norm after the last layer, and its name.

    Raises:
        UsageError: none is found.
    """
    base = causal.base_model
    norms = [(name, child) for name, child in base.named_children() if "norm" in type(child).__name__.lower()]
    if not norms:
        raise kdtool.UsageError(
            f"model: {type(causal).__name__} does not keep its final norm next to its layers, so states cannot be projected "
            "here; use the teacher `openai`, which gets the likeliest tokens"
        )
    prefix = next(path for path, module in causal.named_modules() if module is base)
    name, norm = norms[-1]
    return norm, f"{prefix}.{name}" if prefix else name


class _Tensors(ExitStack):
    """Tensors of a model by their names, from the files that hold them."""

    def __init__(self, source: Source, *, offline: bool) -> None:
        super().__init__()
        self._source, self._offline = source, offline
        index = self._find(_INDEX)
        self._index: Mapping[str, str] = (
            dict.fromkeys(self._open(_SINGLE).keys(), _SINGLE)
            if index is None
            else json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        )

    def has(self, name: str) -> bool:
        """Return whether a tensor is stored."""
        return self._find_stored(name) is not None

    def read(self, name: str) -> Tensor:
        """Return a tensor. Raises UsageError if it is missing."""
        stored = self._find_stored(name)
        if stored is None:
            raise kdtool.UsageError(
                f"model: its files hold no tensor {name!r}; name the folder of the model that is served"
            )
        tensor: Tensor = self._open(self._index[stored]).get_tensor(stored)
        return tensor

    def _find_stored(self, name: str) -> str | None:
        """Return the name in the files, which may lack a prefix of the class, or have one more."""
        if name in self._index:
            return name
        alike = [key for key in self._index if key.endswith(f".{name}") or name.endswith(f".{key}")]
        return alike[0] if len(alike) == 1 else None

    def _find(self, file: str) -> Path | None:
        """Return a file of the model, fetched if necessary; None if it has none of that name."""
        from transformers.utils import cached_file

        cached = cached_file(
            str(self._source.place),
            file,
            revision=self._source.revision,
            local_files_only=self._offline,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
        return None if cached is None else Path(cached)

    def _open(self, file: str) -> Any:
        path = self._find(file)
        if path is None:
            raise kdtool.UsageError(
                f"model: {file} is missing; name the folder or the Hub name of the model that is served"
            )
        return self.enter_context(safe_open(path, "pt"))


_LONGEST_WINDOW = 2048


class ServedModel(kdtool.LanguageModel):
    """A model whose backbone runs on a server. Its module holds only the final norm and the head."""

    def __init__(
        self,
        readout: Any,
        tokenizer: kdtool.Tokenizer,
        facts: kdtool.ModelFacts,
        states: Callable[[kdtool.Batch, kdtool.SignalRequest], kdtool.ModelOutputs],
    ) -> None:
        self.model = readout
        self.tokenizer = tokenizer
        self._facts = facts
        self._states = states

    @property
    def facts(self) -> kdtool.ModelFacts:
        """The shapes of the model that is served."""
        return self._facts

    @property
    def head(self) -> kdtool.Head:
        """The head, on the CPU."""
        head: kdtool.Head = self.model.head
        return head

    def backbone(self, batch: kdtool.Batch, want: kdtool.SignalRequest) -> kdtool.ModelOutputs:
        """Ask the servers; see `kdtool.LanguageModel.backbone`. No gradient flows."""
        return self._states(batch, want)

    def save(self, folder: Path) -> None:
        """Refuse: the layers are elsewhere."""
        raise kdtool.UsageError(f"a served model cannot be saved to {folder}: its layers are on the server's machine")


class ServedRuntime(AnsweringRuntime):
    """Scores and answers through servers.

    Args:
        served: the model whose states come from servers.
        answer: answers requests by a server.
        abilities: what the server can be asked, besides to score.
        open_model: opens the model's own weights on this machine, for those who need its layers, such as the student
            `pruned`; they are freed when the runtime is closed.
        window: returns the greatest number of tokens that the servers read at once.
    """

    def __init__(
        self,
        served: ServedModel,
        answer: Callable[[Iterable[kdtool.Request]], Iterator[kdtool.TextAnswer]],
        abilities: frozenset[kdtool.Ability],
        open_model: Callable[[], kdtool.LanguageModel],
        window: Callable[[], int],
    ) -> None:
        super().__init__(answer, abilities | {"score"})
        self._served = served
        self._open_model = open_model
        self._window = window
        self._opened: kdtool.LanguageModel | None = None
        self.context = served.facts.context

    @property
    def model(self) -> kdtool.LanguageModel:  # type: ignore[override] # opened when it is first asked for
        """The model itself, from its weights on this machine."""
        if self._opened is None:
            self._opened = self._open_model()
        return self._opened

    @property
    def tokenizer(self) -> kdtool.Tokenizer:
        """The tokenizer of the model."""
        return self._served.tokenizer

    def count(self, text: str) -> int:
        """Return how many tokens a text is."""
        return len(self._served.tokenizer.encode(text))

    def score(self, texts: Sequence[str]) -> Iterator[kdtool.LogLikelihood]:
        """Yield each text's log-likelihood, in order, by the servers' states."""
        window = min(_LONGEST_WINDOW, self._window())
        tokenizer = self._served.tokenizer
        return score_texts(self._served, texts, window, lambda group: [tokenizer.encode(text) for text in group])

    def close(self) -> None:
        """Free the model's weights if they were opened."""
        self._opened = None
