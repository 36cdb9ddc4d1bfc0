"""The served teacher as evaluators see it: it answers by the server, and scores by the server's states."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import kdtool
from kdtool_torch import score_texts

__all__ = ["ServedModel", "ServedRuntime"]

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


class ServedRuntime(kdtool.Runtime):
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
        self._served = served
        self._answer = answer
        self._open_model = open_model
        self._window = window
        self._opened: kdtool.LanguageModel | None = None
        self.abilities = abilities | {"score"}
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

    def answer(self, requests: Iterable[kdtool.Request]) -> Iterator[kdtool.TextAnswer]:
        """Yield answers as they come. Raises as `kdtool_answer`."""
        return self._answer(requests)

    def score(self, texts: Sequence[str]) -> Iterator[kdtool.LogLikelihood]:
        """Yield each text's log-likelihood, in order, by the servers' states."""
        window = min(_LONGEST_WINDOW, self._window())
        tokenizer = self._served.tokenizer
        return score_texts(self._served, texts, window, lambda group: [tokenizer.encode(text) for text in group])

    def close(self) -> None:
        """Free the model's weights if they were opened."""
        self._opened = None
