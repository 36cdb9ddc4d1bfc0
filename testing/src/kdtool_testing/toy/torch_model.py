"""A small language model on plain torch, for the suites of trainers, transforms and evaluators. Imports torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import torch
from kdtool import Batch, Head, LanguageModel, ModelFacts, ModelOutputs, SignalRequest
from torch import Tensor, nn

from kdtool_testing.toy import ByteTokenizer, write_safetensors
from kdtool_testing.toy.sampling import generate_plainly

VOCABULARY, PADDED, WIDTH, LAYERS, CONTEXT = ByteTokenizer.vocabulary, 264, 16, 2, 256


class Blocks(nn.Module):
    """Two blocks that average over what a position may see; the head is tied to the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(PADDED, WIDTH)
        self.layers = nn.ModuleList(nn.Linear(2 * WIDTH, WIDTH) for _ in range(LAYERS))
        self.dropout = nn.Dropout(0.1)
        self.head = nn.Linear(WIDTH, PADDED, bias=False)
        self.head.weight = self.embedding.weight

    def get_input_embeddings(self) -> nn.Module:
        """Return the embedding, as models of transformers do."""
        return self.embedding

    def get_output_embeddings(self) -> nn.Module:
        """Return the head, as models of transformers do."""
        return self.head

    def forward(self, input_ids: Tensor, **_: object) -> SimpleNamespace:
        """Return the logits [B, L, V] of rows of one document each, padding of the vocabulary included."""
        document = torch.zeros_like(input_ids, dtype=torch.int32)
        positions = torch.arange(input_ids.shape[1], device=input_ids.device).expand_as(input_ids)
        batch = Batch(input_ids, positions, input_ids, document, ("",) * len(input_ids))
        return SimpleNamespace(logits=self.head(self.states(batch)[-1]))

    def states(self, batch: Batch) -> list[Tensor]:
        """Return the embedding's and each block's output, [B, L, H] each; documents do not see each other."""
        length = batch.input_ids.shape[1]
        same = batch.document[:, :, None] == batch.document[:, None, :]
        seen = (same & torch.ones(length, length, dtype=torch.bool, device=same.device).tril()).float()
        seen = seen / seen.sum(-1, keepdim=True)
        states = [self.embedding(batch.input_ids)]
        for layer in self.layers:
            before = states[-1]
            mixed = torch.cat([before, seen.to(before.dtype) @ before], -1)
            states.append(before + self.dropout(torch.tanh(layer(mixed))))
        return states


class ToyModel(LanguageModel):
    """`Blocks` as the engine sees a model. `save` refuses a model whose parameters are not the ones it began with."""

    model: Blocks

    def __init__(self, seed: int = 0) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.model = Blocks()
        self.tokenizer = ByteTokenizer()

    @property
    def facts(self) -> ModelFacts:
        """Shapes, counted from the model."""
        sizes = [(parameter.numel(), parameter.requires_grad) for parameter in self.model.parameters()]
        return ModelFacts(
            parameters=sum(size for size, _ in sizes),
            trainable=sum(size for size, learns in sizes if learns),
            layers=LAYERS,
            hidden=WIDTH,
            heads=1,
            kv_heads=1,
            feed_forward=WIDTH,
            vocabulary=VOCABULARY,
            context=CONTEXT,
            dtype="float32",
            tied=True,
            tokenizer_fingerprint=ByteTokenizer.fingerprint,
        )

    @property
    def head(self) -> Head:
        """The head; its last rows are padding."""
        return Head(self.model.head.weight, VOCABULARY)

    def backbone(self, batch: Batch, want: SignalRequest) -> ModelOutputs:
        """Return the last block's output at labelled positions, and the wanted blocks'."""
        states = self.model.states(batch)
        labelled = batch.labels != -100
        return ModelOutputs(states[-1][labelled], {layer: states[layer + 1][labelled] for layer in want.layers})

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        limits: Sequence[int],
        temperature: float,
        seeds: Sequence[int],
        top_p: float = 1.0,
    ) -> list[list[int]]:
        """Continue prompts; see `kdtool.LanguageModel.generate`."""
        return generate_plainly(self, prompts, limits, temperature, seeds, top_p)

    def save(self, folder: Path) -> None:
        """Write the weights as safetensors.

        Raises:
            ValueError: parameters are missing, or there are others.
        """
        weights = self.model.state_dict()
        shapes = {name: tuple(weight.shape) for name, weight in Blocks().state_dict().items()}
        given = {name: tuple(weight.shape) for name, weight in weights.items()}
        if given != shapes:
            raise ValueError(f"the model has parameters {given}, but only {shapes} can be saved")
        folder.mkdir(parents=True, exist_ok=True)
        numbers = {name: weight.detach().float().flatten().tolist() for name, weight in weights.items()}
        write_safetensors(folder / "model.safetensors", shapes, numbers)
