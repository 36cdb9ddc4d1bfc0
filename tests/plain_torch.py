"""A teacher and a student that know nothing of transformers: a table of letters, and a neural n-gram on plain torch.

`test_documented_plugins` runs them with the repository's plugins, which must not presume transformers. Read it as an example
of a `kdtool.LanguageModel` of one's own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import kdtool
from kdtool import Field
from kdtool_testing import ByteTokenizer

SIZE, WIDTH = ByteTokenizer.vocabulary, 32


class Letters(kdtool.Teacher):
    """Knows which bytes are frequent in Python, and nothing else."""

    offers = frozenset({"logits"})

    def kdtool_tokenizer(self, run: kdtool.RunInfo) -> kdtool.Tokenizer:
        return ByteTokenizer()

    def kdtool_signal(self, batch: kdtool.Batch, want: kdtool.SignalRequest) -> kdtool.Signal:
        import torch

        logits = torch.zeros(SIZE)
        logits[list(b" etarnsoilfd_")] = 3.0
        labelled = int((batch.labels != -100).sum())
        return kdtool.Signal.of_logits("letters", logits.expand(labelled, SIZE))


class Window(kdtool.Student):
    """Predicts from the last few tokens, each by an embedding of its own (Bengio et al. 2003)."""

    class Config(kdtool.Config):
        """The context."""

        tokens: int = Field(4, ge=1, le=64)
        """Tokens of the context."""

    config: Config

    def kdtool_tokenizer(self, run: kdtool.RunInfo) -> kdtool.Tokenizer:
        return ByteTokenizer()

    def kdtool_describe(self, run: kdtool.RunInfo) -> kdtool.ModelFacts:
        return WindowModel(self.config.tokens).facts

    def kdtool_build_student(self, run: kdtool.RunInfo) -> kdtool.LanguageModel:
        import torch

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(run.seed)
            return WindowModel(self.config.tokens)

    def kdtool_open(self, run: kdtool.RunInfo, subject: kdtool.Subject) -> kdtool.Runtime | None:
        from safetensors.torch import load_model

        if subject.role not in ("student", "control") or subject.path is None:
            return None
        model = WindowModel(self.config.tokens)
        load_model(model.model, subject.path / "model.safetensors")
        return WindowRuntime(model)


class WindowModel(kdtool.LanguageModel):
    """The model behind the student."""

    def __init__(self, tokens: int) -> None:
        from torch import nn

        seen = nn.ModuleList(nn.Embedding(SIZE, WIDTH) for _ in range(tokens))
        self.model = nn.ModuleDict({"seen": seen, "inner": nn.Linear(WIDTH, WIDTH), "head": nn.Linear(WIDTH, SIZE)})
        self.tokenizer = ByteTokenizer()

    @property
    def facts(self) -> kdtool.ModelFacts:
        """Shapes, counted from the model."""
        sizes = [(weight.numel(), weight.requires_grad) for weight in self.model.parameters()]
        count, learning = sum(size for size, _ in sizes), sum(size for size, learns in sizes if learns)
        shapes = (1, WIDTH, 1, 1, WIDTH, SIZE, 0)
        return kdtool.ModelFacts(count, learning, *shapes, "float32", False, ByteTokenizer.fingerprint)

    @property
    def head(self) -> kdtool.Head:
        """The head, with its bias."""
        return kdtool.Head(self.model["head"].weight, SIZE, self.model["head"].bias)

    def backbone(self, batch: kdtool.Batch, want: kdtool.SignalRequest) -> kdtool.ModelOutputs:
        """Return final states at labelled positions; a token of another document is not seen."""
        import torch

        total: Any = 0
        for back, embedding in enumerate(self.model["seen"]):
            inside = (batch.positions >= back).unsqueeze(-1)
            total = total + embedding(batch.input_ids.roll(back, 1)) * inside
        states = total + torch.tanh(self.model["inner"](total))
        return kdtool.ModelOutputs(states[batch.labels != -100])

    def save(self, folder: Path) -> None:
        """Write the weights."""
        from safetensors.torch import save_model

        folder.mkdir(parents=True, exist_ok=True)
        save_model(self.model, str(folder / "model.safetensors"))


class WindowRuntime(kdtool.Runtime):
    """The opened student: it scores, and answers nothing."""

    def __init__(self, model: WindowModel) -> None:
        self.model: WindowModel = model

    def score(self, texts: Sequence[str]) -> Iterator[kdtool.LogLikelihood]:
        """Yield the log-likelihood of each text."""
        import torch
        import torch.nn.functional as F

        for text in texts:
            ids = torch.tensor([[*self.model.tokenizer.scoring_context, *self.model.tokenizer.encode(text)]])
            before, after = ids[:, :-1], ids[:, 1:]
            positions = torch.arange(before.shape[1])[None]
            batch = kdtool.Batch(before, positions, after, torch.zeros_like(before, dtype=torch.int32), ("",))
            with torch.no_grad():
                head = self.model.head
                logits = F.linear(self.model.backbone(batch, kdtool.SignalRequest()).last, head.weight, head.bias)
                nats = F.cross_entropy(logits, after[0], reduction="sum")
            yield kdtool.LogLikelihood(-float(nats), after.shape[1], len(text.encode("utf-8")))

    def answer(self, requests: Iterable[kdtool.Request]) -> Iterator[kdtool.TextAnswer]:
        """Refuse."""
        raise kdtool.UsageError("this student only scores texts")
