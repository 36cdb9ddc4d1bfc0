"""Variants of the toy's components that several tests use: other vocabularies, terms, signals and on-policy settings."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import kdtool
from kdtool import LicenceTerms, SignalKind, SignalRequest

sys.path.insert(0, str(Path(__file__).parent))
import toy


def variant(name: str, **options: Any) -> dict[str, Any]:
    """Return the entry of one of these components."""
    return {"use": f"{__file__}:{name}", **options}


class Longer(toy.Bytes):
    vocabulary = 260
    fingerprint = "longer"


class Shorter(toy.Bytes):
    vocabulary = 250
    fingerprint = "shorter"


class Others(toy.Bytes):
    fingerprint = "others"

    def tokens(self) -> list[str]:
        return [*super().tokens()[::-1]]


class Started(toy.Bytes):
    @property
    def document_start(self) -> tuple[int, ...]:
        return (self.end_of_text,)


class Going(toy.Teacher):
    def kdtool_tokenizer(self, run: kdtool.RunInfo) -> kdtool.Tokenizer:
        return Longer()


class Ending(toy.Teacher):
    def kdtool_tokenizer(self, run: kdtool.RunInfo) -> kdtool.Tokenizer:
        return Shorter()


class Begun(toy.Teacher):
    def kdtool_tokenizer(self, run: kdtool.RunInfo) -> kdtool.Tokenizer:
        return Started()


class Unloaded(toy.Teacher):
    def kdtool_signal(self, batch: Any, want: SignalRequest) -> kdtool.Signal:
        raise AssertionError("weights would be loaded")


class Foreign(Unloaded):
    def kdtool_tokenizer(self, run: kdtool.RunInfo) -> kdtool.Tokenizer:
        return Others()


class Terse(toy.Teacher):
    offers = frozenset({"top-k"})


class Bound(Unloaded):
    offers = frozenset({"logits", "text"})
    licence_terms = LicenceTerms(
        "Own Kind Only", "https://example.org/own", ("only for its own kind",), ("signals", "text")
    )

    def kdtool_answer(self, requests: Iterable[kdtool.Request]) -> Iterator[kdtool.TextAnswer]:
        yield from ()


class Server(kdtool.Teacher):
    """A teacher whose model is elsewhere, so that it cannot be opened."""

    offers = frozenset({"text"})

    def kdtool_answer(self, requests: Iterable[kdtool.Request]) -> Iterator[kdtool.TextAnswer]:
        yield from ()


class Allowed(toy.Teacher):
    licence_terms = LicenceTerms("Named 3", "", ("name it so",), notices=("Built with Named",), name_prefix="Named")


class Misfit(toy.Teacher):
    licence_terms = "MIT"  # type: ignore[assignment]


class Broken(toy.Teacher):
    @property
    def licence_terms(self) -> LicenceTerms:  # type: ignore[override]
        raise KeyError("licence")


class Cut(toy.Student):
    derives_from: Mapping[str, Literal["weights"]] = {"teacher": "weights"}


class Answers(toy.Corpus):
    derives_from: Mapping[str, Literal["text"]] = {"teacher": "text"}


class Drawn(toy.Cache):
    """Keeps drawn tokens, and notes at which temperature it was asked for them."""

    offers = frozenset({"sampled", "hidden"})

    def records(self, want: SignalRequest, offers: frozenset[SignalKind]) -> SignalRequest:
        return SignalRequest(frozenset({"logits"}), (), want.temperature)

    def kdtool_record(self, run: kdtool.RunInfo, rows: Any, source: Any, folder: Path) -> int:
        Path("asked.json").write_text(json.dumps(source.want.temperature), encoding="utf-8")
        return super().kdtool_record(run, rows, source, folder)


class Likeliest(toy.Cache):
    """Keeps tokens that teachers name themselves, or makes them of logits."""

    offers = frozenset({"top-k"})

    def records(self, want: SignalRequest, offers: frozenset[SignalKind]) -> SignalRequest:
        return SignalRequest(want.kinds if want.kinds <= offers else frozenset({"logits"}))


class Likely(kdtool.TokenLoss):
    """Learns what is likely, from one of these signals."""

    needs: Any = ("logits", "sampled", "top-k")

    class Config(kdtool.Config):
        signals: tuple[str, ...] = ()
        at: float = 1.0
        power: Literal[0, 1, 2] = 0

    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.needs = config.signals or self.needs
        self.temperature = config.at
        self.temperature_power = config.power

    def kdtool_token_loss(self, chunk: Any) -> Any: ...


class Whole(kdtool.SequenceLoss):
    """Looks at whole sequences."""

    needs = Likely.needs

    def kdtool_sequence_loss(self, view: Any) -> Any: ...


class Inside(Whole):
    """Looks inside, at no tokens, where no temperature plays a part."""

    needs = "hidden"


class Twice(kdtool.TokenLoss):
    """Compares two passes."""

    divergence = True
    forward_passes = 2

    def kdtool_token_loss(self, chunk: Any) -> Any: ...


class Telling(toy.Imitate):
    """Tells what the student wrote from the rest."""

    on_policy = True


class Preferring(toy.Imitate):
    """Compares answers that rows mark."""

    columns = frozenset({"marked"})
    corpus_only = True


class Anything(toy.Imitate):
    """Works across vocabularies."""

    same_vocabulary = False

    def kdtool_layers(self, student: kdtool.ModelFacts, teacher: kdtool.ModelFacts) -> Any: ...


class Pairs(toy.Packer):
    """Would mark answers."""

    columns = frozenset({"marked"})


class Writing(toy.Trainer):
    """Would learn on what the student writes."""

    on_policy = "writes"

    class Config(toy.Trainer.Config):
        writes: int | None = None


class Sure(kdtool.Weighting):
    """Weighs by what the teacher is sure of."""

    needs = ("logits", "top-k")

    def kdtool_token_weight(self, chunk: Any) -> Any: ...


class Named(kdtool.Weighting):
    """Speaks of a loss."""

    class Config(kdtool.Config):
        loss: str = "count"

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.terms = frozenset({config.loss})

    def kdtool_balance(self, terms: Any, step: int, state: dict[str, Any]) -> None: ...


class Opened(kdtool.Evaluator):
    """Says 1 of what can be opened."""

    def kdtool_evaluate(self, run: kdtool.RunInfo, subjects: Sequence[kdtool.Subject]) -> Iterator[kdtool.Measurement]:
        for subject in subjects:
            opened = kdtool.open_subject(run, subject)
            if opened is not None:
                opened.value.close()
                yield kdtool.Measurement("opened", subject.name, "", 1.0, 1, True)
            else:
                run.say(f"opened: {subject.name} is left out")
                run.say("opened: somebody is left out")


class Opener(toy.Export):
    """Opens students, too."""

    def kdtool_open(self, run: kdtool.RunInfo, subject: kdtool.Subject) -> kdtool.Runtime | None:
        if subject.role != "artifact" or subject.path is None or not (subject.path / "counts.json").is_file():
            return super().kdtool_open(run, subject)
        return toy.Runtime(toy.Unigram(toy.read_counts(subject.path / "counts.json")))
