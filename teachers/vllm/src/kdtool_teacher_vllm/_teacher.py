"""The teacher `vllm`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import kdtool
from kdtool_transformers import LocatedWeights

from kdtool_teacher_vllm._config import DISK, VLLMConfig

if TYPE_CHECKING:
    import torch
    from kdtool_teacher_openai import OpenAI
    from kdtool_transformers import TransformersModel

    from kdtool_teacher_vllm._gate import Reference
    from kdtool_teacher_vllm._pool import Pool
    from kdtool_teacher_vllm._served import Readout
    from kdtool_teacher_vllm._station import Station


class VLLM(LocatedWeights, kdtool.Teacher):
    """A model on one or more `vllm serve`: all of its logits, by its hidden states, and its text.

    This process holds the final norm and the head, never the layers. Each server is compared with the model before its first
    row.
    """

    class Config(VLLMConfig):
        """Settings of the teacher `vllm`."""

    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.converses = config.api == "chat"
        hidden: frozenset[kdtool.SignalKind] = frozenset({"hidden"}) if config.layers else frozenset()
        self._scores = config.chosen == "server"
        self.offers: frozenset[kdtool.SignalKind] = frozenset({"chosen", "text"})
        if not self._scores:
            self.offers |= hidden | {"logits"}
        self._say: Callable[[str], None] = print
        self._outline: TransformersModel | None = None
        self._fingerprint = ""
        self._readouts: dict[torch.device, Readout] = {}
        self._pool: Pool | None = None
        self._text: OpenAI | None = None

    def hub_source(self) -> tuple[str, str | None]:
        return self.config.model, self.config.revision

    @property
    def licence_terms(self) -> kdtool.LicenceTerms | None:
        from kdtool_transformers.card import known_terms, terms_of

        return terms_of(self.config.model) if self.config.licence is None else known_terms(self.config.licence)

    def kdtool_tokenizer(self, run: kdtool.RunInfo) -> kdtool.Tokenizer:
        self._remember(run)
        return self.open_tokenizer(run)

    def kdtool_identity(self, run: kdtool.RunInfo) -> Mapping[str, str]:
        self._remember(run)
        config = self.config
        return {
            "weights": self._identity(run),
            "dtype": config.dtype,
            "quantisation": config.quantisation or "none",
            "adapter": config.lora or "none",
            "tokenizer": self.open_tokenizer(run).identity,
        }

    def kdtool_describe(self, run: kdtool.RunInfo) -> kdtool.ModelFacts:
        self._remember(run)
        return replace(self._shapes(run).facts, dtype=self.config.dtype)

    def kdtool_estimate(self, run: kdtool.RunInfo, ahead: kdtool.RunForecast) -> Iterator[kdtool.Estimate]:
        if self._scores:
            return
        facts = self._shapes(run).facts
        size = facts.vocabulary * facts.hidden * self._dtype().itemsize
        yield kdtool.Estimate("teacher", host_bytes=size, note="its head; the layers are on the server's machine")

    def kdtool_signal(self, batch: kdtool.Batch, want: kdtool.SignalRequest) -> kdtool.Signal:
        from kdtool_torch import chosen_tokens

        if self._scores:
            return kdtool.Signal(fingerprint=self._identity(None), chosen=self._ask_for_scores(batch, want))
        outputs = self._states(batch, want)
        lazy = kdtool.LazyLogits(outputs.last, self._readout(batch.labels.device).head)
        return kdtool.Signal(
            fingerprint=self._identity(None),
            lazy=lazy if "logits" in want.kinds else None,
            chosen=chosen_tokens(lazy, want) if "chosen" in want.kinds else None,
            hidden=outputs.hidden,
        )

    def read_facts(self) -> kdtool.ModelFacts:
        """Return the shapes of the model, by its configuration."""
        return self._shapes(None).facts

    def kdtool_answer(self, requests: Iterable[kdtool.Request]) -> Iterator[kdtool.TextAnswer]:
        return self._open_text().kdtool_answer(requests)

    def _open_text(self) -> OpenAI:
        if self._text is None:
            from kdtool_teacher_openai import OpenAI

            pool, config = self._open_pool(), self.config
            settings = OpenAI.Config(
                url=config.urls[0],
                model=pool.stations[0].name(),
                api=config.api,
                licence=config.licence,
                key_variable=config.key_variable,
                concurrency=config.concurrency,
                timeout=config.timeout,
            )
            self._text = OpenAI(settings)
        return self._text

    def kdtool_open(self, run: kdtool.RunInfo, subject: kdtool.Subject) -> kdtool.Runtime | None:
        """Give the servers to evaluators, and the weights on this machine to those who need the layers."""
        from kdtool_measuring import AnsweringRuntime

        from kdtool_teacher_vllm._served import ServedModel, ServedRuntime

        self._remember(run)
        if subject.role != "teacher":
            return None
        able: frozenset[kdtool.Ability] = frozenset({"converse" if self.converses else "continue"})
        if self._scores:
            return AnsweringRuntime(self.kdtool_answer, able)
        served = ServedModel(self._readout(), self.open_tokenizer(run), self.kdtool_describe(run), self._states)
        return ServedRuntime(served, self.kdtool_answer, able, self._open_model, self._longest)

    def kdtool_close(self) -> None:
        if self._text is not None:
            self._text.kdtool_close()
        if self._pool is not None:
            self._say(f"teacher: {self._pool.summary()}")
            self._pool.close()
        self._pool = self._text = self._tokenizer = None
        self._readouts.clear()

    def _remember(self, run: kdtool.RunInfo) -> None:
        self._offline, self._say = run.offline, run.say

    def _dtype(self) -> torch.dtype:
        import torch

        dtype: torch.dtype = getattr(torch, self.config.dtype)
        return dtype

    def _identity(self, run: kdtool.RunInfo | None) -> str:
        from kdtool_transformers import source_identity

        source = self.find_weights(run)
        if not self._fingerprint:
            self._fingerprint = source_identity(source, offline=self._offline)
        return self._fingerprint

    def _shapes(self, run: kdtool.RunInfo | None) -> TransformersModel:
        if self._outline is None:
            from kdtool_transformers import open_config, outline_of

            if run is not None and self.absent() is not None:
                return self.outline(run)
            location, revision = self.find_weights(run)
            config = open_config(location, revision=revision, offline=self._offline)
            self._outline = outline_of(config, self.open_tokenizer(run))
        return self._outline

    def _readout(self, device: torch.device | None = None) -> Readout:
        """Return the final norm and the head on a device, copied there once. None: in main memory."""
        import torch

        from kdtool_teacher_vllm._served import load_readout

        device = torch.device("cpu") if device is None else device
        if device not in self._readouts:
            if device.type == "cpu":
                shapes, source = self._shapes(None), self.find_weights()
                self._readouts[device] = load_readout(shapes, source, self._dtype(), offline=self._offline)
            else:
                self._readouts[device] = self._readout().copy_to(device)
        return self._readouts[device]

    def _states(self, batch: kdtool.Batch, want: kdtool.SignalRequest) -> kdtool.ModelOutputs:
        """Return final states, and the outputs of the layers that are wanted, at the labelled positions of a batch.

        Raises:
            UsageError: a layer is not among those that the server returns.
        """
        import torch
        from kdtool_teacher_openai.client import documents_of

        layers = want.layers if "hidden" in want.kinds else ()
        if missing := sorted({*layers} - {*self.config.layers}):
            raise kdtool.UsageError(
                f"layers: losses need the outputs of the teacher's layers {missing}, too; set layers: "
                f"{sorted({*layers, *self.config.layers})}, and start the server by `kdtool teacher serve` again"
            )
        ids = self.config.layer_ids(self.read_facts().layers)
        columns = [len(ids) - 1, *(ids.index(layer + 1) for layer in layers)]
        pieces = list(documents_of(batch))
        prompts = [piece.tokens[: piece.places[-1] + 1] for piece in pieces]
        whole = self._open_pool().ask(prompts, lambda station, prompt: station.ask(prompt))
        kept = [states[piece.places][:, columns] for piece, states in zip(pieces, whole, strict=True)]
        width = self.read_facts().hidden
        empty = torch.zeros(0, len(columns), width, dtype=self._dtype())
        states = torch.cat([empty, *kept]).to(batch.labels.device)  # documents come in the order of the labels
        hidden = {layer: states[:, column].contiguous() for column, layer in enumerate(layers, 1)}
        return kdtool.ModelOutputs(self._readout(states.device)(states[:, 0].contiguous()), hidden)

    def _ask_for_scores(self, batch: kdtool.Batch, want: kdtool.SignalRequest) -> kdtool.ChosenTokens:
        """Return the servers' own log-probabilities of chosen tokens.

        Raises:
            PluginError: the request names no tokens.
            UsageError: a loss asks for another temperature than 1.
        """
        from kdtool_teacher_vllm._station import join_scores, questions

        if want.chosen is None:
            raise kdtool.PluginError('the signal "chosen" needs the ids of tokens; pass SignalRequest(chosen=ids)')
        if want.temperature != 1:
            raise kdtool.UsageError(
                f"chosen: server returns log-probabilities at temperature 1, but a loss asks for {want.temperature:g}; set "
                "the loss's temperature to 1, or `chosen: states`"
            )
        asked = questions(batch, want.chosen)
        answers = self._open_pool().ask(asked, lambda station, question: station.score(question))
        return kdtool.ChosenTokens(want.chosen, join_scores(asked, answers, want.chosen), want.temperature)

    def _open_pool(self) -> Pool:
        if self._pool is None:
            from kdtool_teacher_openai import OpenAI

            from kdtool_teacher_vllm._pool import Pool
            from kdtool_teacher_vllm._station import Companion, Folder, Source, Station

            config = self.config
            key = os.environ.get(config.key_variable, "") if config.key_variable else ""
            stations = []
            for url, companion in zip(config.urls, config.companions, strict=True):
                settings = OpenAI.Config(
                    url=url,
                    model=config.lora or config.model,
                    key_variable=config.key_variable,
                    timeout=config.timeout,
                    retries=0,
                )
                source: Source | None = None
                if config.folder is not None:
                    source = Folder(config.folder, config.timeout)
                elif not self._scores:
                    source = Companion(companion, key, config.timeout, offline=self._offline)
                stations.append(Station(settings, source, config.lora, offline=self._offline))
            self._pool = Pool(stations, self._checks(), self._slots(), config.patience, self._say)
        return self._pool

    def _checks(self) -> Callable[[Station], None]:
        """Return the comparison of a server with the model."""
        from kdtool_teacher_openai.client import compare_tokenizers

        from kdtool_teacher_vllm._gate import Gate, gate_rows, log_probabilities, require_scores

        facts, tokenizer = self.read_facts(), self.open_tokenizer()
        rows = gate_rows(tokenizer, facts.context - 2 if facts.context else 128)
        reference = self._reference(rows)
        compare: Callable[[Station], None]
        if self._scores:
            expected = None if reference is None else log_probabilities(self._readout(), reference.final, rows)
            self._readouts.clear()
            compare = partial(require_scores, self.config, rows, expected, self._say)
        else:
            compare = Gate(self.config, self._readout(), facts.layers, rows, reference, self._say).require_model

        def check(station: Station) -> None:
            settings = station.settings.model_copy(update={"model": station.name()})
            compare_tokenizers(
                station.server, settings, tokenizer, self.config.model, "serve the model that the recipe names"
            )
            compare(station)

        return check

    def _reference(self, rows: Sequence[Sequence[int]]) -> Reference | None:
        """Return the model's own states of rows; None if they are not compared with.

        Raises:
            UsageError: the settings require them, and the weights cannot be opened.
        """
        import psutil

        from kdtool_teacher_vllm._reference import reference_states

        wanted, config, facts = self.config.reference, self.config, self.read_facts()
        changed = config.quantisation is not None or config.lora is not None
        if wanted == "server" or (wanted == "auto" and changed):
            return None
        if wanted == "auto" and 1.5 * facts.parameters * self._dtype().itemsize > psutil.virtual_memory().available:
            self._say(
                "teacher: its weights do not fit into memory here, so states are compared with the server's own figures"
            )
            return None
        try:
            return reference_states(self.find_weights(), self._identity(None), config.dtype, rows, config.layers)
        except kdtool.UsageError as error:
            if wanted == "weights":
                raise
            self._say(f"teacher: states are compared with the server's own figures only: {error}")
            return None

    def _slots(self) -> int:
        """Return how many requests may be under way at a server, so that their states fit on its disk."""
        if self._scores:
            return self.config.concurrency
        facts = self.read_facts()
        longest = min(facts.context or 8192, 8192)
        size = longest * facts.hidden * self._dtype().itemsize * (1 + len(self.config.layers))
        return max(1, min(self.config.concurrency, DISK // size))

    def _longest(self) -> int:
        """Return the greatest number of tokens that each server reads."""
        sources = [station.source for station in self._open_pool().stations if station.source is not None]
        lengths = [int(source.describe()["max_model_len"]) - 1 for source in sources]
        return min(lengths)

    def _open_model(self) -> Any:
        """Open the whole model from its weights on this machine, for those who need its layers."""
        from kdtool_transformers import open_model

        location, revision = self.find_weights()
        return open_model(location, dtype=self._dtype(), revision=revision, offline=self._offline)
