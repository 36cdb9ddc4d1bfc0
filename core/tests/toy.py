"""A whole pipeline without torch: a byte-unigram language model that learns by counting."""

from __future__ import annotations

import itertools
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import kdtool
from kdtool import Example, Field, Row, RunInfo, SignalRequest, Subject


class Corpus(kdtool.Corpus):
    """Sentences that count."""

    class Config(kdtool.Config):
        documents: int = Field(12, ge=1)
        letter: str = "d"

    config: Config

    def kdtool_examples(self, run: RunInfo) -> Iterator[Example]:
        for number in range(self.config.documents):
            split: kdtool.Split = "test" if number % 3 == 0 else "train"
            yield Example(
                f"{self.config.letter}{number}",
                kdtool.Text(f"document {number} has {number} words " * 5),
                split,
                licence="MIT",
            )


class Lines(kdtool.Corpus):
    """A file's lines, which may be none; every third one is for tests."""

    class Config(kdtool.Config):
        file: Path

    config: Config

    def kdtool_identity(self, run: RunInfo) -> Mapping[str, str]:
        return {"lines": self.config.file.read_text(encoding="utf-8")}

    def kdtool_examples(self, run: RunInfo) -> Iterator[Example]:
        for number, line in enumerate(self.config.file.read_text(encoding="utf-8").splitlines()):
            yield Example(f"line {number}", kdtool.Text(line), "train" if number % 3 else "test")


class Bytes(kdtool.Tokenizer):
    """A tokenizer of single bytes."""

    vocabulary = 257
    end_of_text = 256
    fingerprint = "bytes"

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def pieces(self, ids: Sequence[int]) -> list[bytes]:
        return [bytes([i]) if i < 256 else b"" for i in ids]

    def save(self, folder: Path) -> None:
        (folder / "tokenizer.json").write_text("bytes", encoding="utf-8")


class Sayings(Corpus):
    """The same sentences, as the teacher would have them."""

    derives_from: Mapping[str, Literal["text"]] = {"teacher": "text"}

    def kdtool_examples(self, run: RunInfo) -> Iterator[Example]:
        for example in super().kdtool_examples(run):
            (answer,) = run.component("teacher", kdtool.Teacher).kdtool_answer(
                [kdtool.Request(example.id, example.id, 1)]
            )
            yield replace(example, body=kdtool.Text(answer.text))


class OwnWords(kdtool.Corpus):
    """Counts of the untrained student, in documents without end; the folder of the rows notes the student."""

    def kdtool_examples(self, run: RunInfo) -> Iterator[Example]:
        assert run.untrained is not None
        (run.folder / "sampled.json").write_bytes((run.untrained / "counts.json").read_bytes())
        for number, example in enumerate(itertools.cycle(run.texts.examples("train"))):
            assert isinstance(example.body, kdtool.Text)
            yield replace(example, id=f"own {number}", body=kdtool.Text(f"{example.body.text[:8]}"))


class Packer(kdtool.Packer):
    """One row a document, cut to a length."""

    class Config(kdtool.Config):
        length: int = Field(16, ge=2)

    config: Config
    columns = frozenset({"twice"})
    carries_annotations = True

    def kdtool_rows(self, run: RunInfo, examples: Iterable[Example], tokenizer: kdtool.Tokenizer) -> Iterator[Row]:
        for example in examples:
            assert isinstance(example.body, kdtool.Text)
            ids = tokenizer.encode(example.body.text)[: self.config.length]
            columns = {name: values[: len(ids)] for name, values in example.annotations.items()}
            columns["twice"] = [2 * index for index in ids]
            yield Row(example.id, ids, [True] * len(ids), [0] * len(ids), columns)


def read_counts(file: Path) -> dict[str, float]:
    return dict(json.loads(file.read_text(encoding="utf-8")))


class Unigram(kdtool.LanguageModel):
    """Counts of bytes."""

    def __init__(self, counts: Mapping[str, float]) -> None:
        self.model: dict[str, float] = dict(counts)
        self.tokenizer = Bytes()

    @property
    def facts(self) -> kdtool.ModelFacts:
        return kdtool.ModelFacts(257, 257, 1, 1, 1, 1, 1, 257, 16, "float64", False, "bytes")

    @property
    def head(self) -> kdtool.Head:
        raise NotImplementedError

    def backbone(self, batch: kdtool.Batch, want: SignalRequest) -> kdtool.ModelOutputs:
        raise NotImplementedError

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "counts.json").write_text(json.dumps(self.model), encoding="utf-8")

    def nats(self, text: str) -> float:
        total = sum(self.model.values()) + 257
        return -sum(math.log((self.model.get(str(byte), 0.0) + 1) / total) for byte in text.encode())


class Runtime(kdtool.Runtime):
    """Scores texts."""

    def __init__(self, model: Unigram) -> None:
        self.model = model

    def answer(self, requests: Iterable[kdtool.Request]) -> Iterator[kdtool.TextAnswer]:
        raise NotImplementedError

    def score(self, texts: Sequence[str]) -> Iterator[kdtool.LogLikelihood]:
        assert isinstance(self.model, Unigram)
        for text in texts:
            yield kdtool.LogLikelihood(-self.model.nats(text), len(text.encode()), len(text.encode()))


class Student(kdtool.Student):
    """An empty unigram model."""

    uses_seed = False

    def kdtool_tokenizer(self, run: RunInfo) -> kdtool.Tokenizer:
        return Bytes()

    def kdtool_describe(self, run: RunInfo) -> kdtool.ModelFacts:
        return Unigram({}).facts

    def kdtool_build_student(self, run: RunInfo) -> kdtool.LanguageModel:
        return Unigram({})

    def kdtool_open(self, run: RunInfo, subject: Subject) -> kdtool.Runtime | None:
        if subject.path is None or subject.role == "artifact":
            return None
        return Runtime(Unigram(read_counts(subject.path / "counts.json")))


@dataclass(frozen=True, eq=False)
class Alphabet(kdtool.Signal):
    """A signal without tensors: what each byte counts."""

    counts: Mapping[str, float] = field(default_factory=dict)


_ALPHABET = {str(byte): 1.0 for byte in b"abcdefghijklmnopqrstuvwxyz "}


class Teacher(kdtool.Teacher):
    """A teacher that knows the alphabet."""

    offers = frozenset({"logits"})
    licence_terms = kdtool.LicenceTerms("Apache-2.0", "https://example.org")
    _counts: Mapping[str, float] = _ALPHABET

    def kdtool_tokenizer(self, run: RunInfo) -> kdtool.Tokenizer:
        return Bytes()

    def kdtool_describe(self, run: RunInfo) -> kdtool.ModelFacts:
        return Unigram({}).facts

    def kdtool_signal(self, batch: Any, want: SignalRequest) -> kdtool.Signal:
        return Alphabet("alphabet", counts=self._counts)

    def kdtool_open(self, run: RunInfo, subject: Subject) -> kdtool.Runtime | None:
        return Runtime(Unigram(self._counts)) if subject.role == "teacher" else None


class Scholar(Teacher):
    """A teacher that can learn: what it counts is what it says."""

    offers = frozenset({"logits", "text"})

    def kdtool_answer(self, requests: Iterable[kdtool.Request]) -> Iterator[kdtool.TextAnswer]:
        for request in requests:
            yield kdtool.TextAnswer(request.id, f"{request.prompt} {sum(self._counts.values())} " * 5, "stop", 1, 1)

    def kdtool_trainable(self, run: RunInfo) -> kdtool.Runtime:
        return Runtime(Unigram(self._counts))

    def kdtool_load_weights(self, run: RunInfo, folder: Path | None) -> None:
        self._counts = _ALPHABET if folder is None else read_counts(folder / "counts.json")


class Former(Teacher):
    """The student before a phase: what that one counted is what it says."""

    class Config(kdtool.Config):
        before: str = ""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.initial_student = config.before
        self._folder: Path | None = None

    def kdtool_load_weights(self, run: RunInfo, folder: Path | None) -> None:
        self._folder = folder

    def kdtool_signal(self, batch: Any, want: SignalRequest) -> kdtool.Signal:
        assert self._folder is not None, "asked without a student"
        return Alphabet("former", counts=read_counts(self._folder / "counts.json"))

    def kdtool_open(self, run: RunInfo, subject: Subject) -> kdtool.Runtime | None:
        return None


class Cache(kdtool.Cache):
    """Keeps the teacher's alphabet."""

    offers = frozenset({"logits"})

    def records(self, want: SignalRequest, offers: Any) -> SignalRequest:
        return want

    def kdtool_record(self, run: RunInfo, rows: Any, source: Any, folder: Path) -> int:
        assert source.want.kinds == {"logits"}
        (folder / "signal.json").write_text(json.dumps(source.signal(None).counts), encoding="utf-8")
        return len(rows)

    def kdtool_recall(self, batch: Any, want: SignalRequest, folder: Path) -> kdtool.Signal:
        return Alphabet("alphabet", counts=read_counts(folder / "signal.json"))


class Count(kdtool.TokenLoss):
    """Learn from the text itself."""

    def kdtool_token_loss(self, chunk: Any) -> Any:
        return chunk


class Imitate(kdtool.SequenceLoss):
    """Learn the teacher's alphabet."""

    needs = "logits"
    temperature_power = 2
    temperature = 2.0

    def kdtool_sequence_loss(self, view: Any) -> Any:
        raise NotImplementedError

    def kdtool_layers(self, student: kdtool.ModelFacts, teacher: kdtool.ModelFacts) -> list[tuple[int, int]]:
        return [(0, 0)]


class Trainer(kdtool.Trainer):
    """Counts one row a step; writes a checkpoint a step; dies where told to."""

    class Config(kdtool.Config):
        factor: float = Field(1.0, gt=0)

    config: Config

    def kdtool_train(self, run: RunInfo, phase: kdtool.Phase, student: Any) -> kdtool.Trained:
        state_file = phase.checkpoints / "state.json"
        state: dict[str, Any] = json.loads(state_file.read_text()) if state_file.exists() else {"step": 0, "counts": {}}
        student.model.update(state["counts"])
        history = phase.checkpoints / "history.jsonl"
        for step in range(state["step"], phase.steps):
            row = phase.rows[(step + run.seed) % len(phase.rows)]
            for byte in row.input_ids:
                student.model[str(byte)] = student.model.get(str(byte), 0.0) + self.config.factor
            sources: Iterable[Any] = phase.signals.values()  # of signals without tensors
            for source in sources:
                for byte_text, weight in source.signal(None).counts.items():
                    student.model[byte_text] = student.model.get(byte_text, 0.0) + weight
            terms = {term.label: kdtool.TermReport(1.0, term.weight_at(0.0)) for term in phase.terms}
            report = kdtool.StepReport(step + 1, phase.steps, 16, 0.01, 1.0, 0.1, 1.0, terms)
            with history.open("a") as file:
                file.write(json.dumps({**vars(report), "terms": {k: vars(v) for k, v in terms.items()}}) + "\n")
            state_file.write_text(json.dumps({"step": step + 1, "counts": student.model}))
            kdtool.commit(phase.checkpoints, state_file, history)
            run.hook.kdtool_step_end(run, report)
            if os.environ.get("TOY_DIE_AT") == f"{run.arm}:{step + 1}":
                os._exit(9)
        return kdtool.Trained(phase.steps, 16 * phase.steps, 0.01 * phase.steps, history, "float64")


class Nats(kdtool.Evaluator):
    """Nats a byte on the test split."""

    def kdtool_evaluate(self, run: RunInfo, subjects: Sequence[Subject]) -> Iterator[kdtool.Measurement]:
        (subject,) = subjects
        opened = kdtool.open_subject(run, subject)
        assert opened is not None
        items = run.folder / "items.jsonl"
        total = weight = 0.0
        with opened.value as runtime, items.open("w") as file:
            for example in run.texts.examples("test"):
                assert isinstance(example.body, kdtool.Text)
                (score,) = runtime.score([example.body.text])
                total, weight = total - score.log_likelihood, weight + score.bytes
                file.write(json.dumps({"item": example.id, "sum": -score.log_likelihood, "weight": score.bytes}) + "\n")
        yield kdtool.Measurement("nats", subject.name, "nats/byte", total / weight, 4, False, items=items)


class Export(kdtool.Exporter):
    """Copies the counts."""

    def kdtool_export(self, run: RunInfo, trained: Path) -> kdtool.Artifact:
        target = run.folder / "export.json"
        target.write_bytes((trained / "counts.json").read_bytes())
        return kdtool.Artifact(target, "json", target.stat().st_size, how_to_use="open {path}", card="# Counts\n")

    def kdtool_card(self, run: RunInfo, artifact: kdtool.Artifact, results: kdtool.Results) -> str | None:
        lines = [f"{one.name} of {one.subject}: {one.value}" for one in results.measurements]
        return "\n".join([artifact.card, *lines, results.verdict]) if lines else None

    def kdtool_open(self, run: RunInfo, subject: Subject) -> kdtool.Runtime | None:
        if subject.role != "artifact" or subject.path is None:
            return None
        return Runtime(Unigram(read_counts(subject.path)))


class Events(kdtool.Tracker):
    """Gathers what it hears."""

    shows_messages = True
    heard: list[str] = []  # noqa: RUF012  # read by tests

    def kdtool_stage_end(self, run: RunInfo, seconds: float, reused: bool) -> None:
        Events.heard.append(f"{run.stage} {run.arm} {run.seed} {'reused' if reused else 'made'}")

    def kdtool_message(self, run: RunInfo, text: str) -> None:
        Events.heard.append(f"said {text}")


class Report(kdtool.Reporter):
    """Writes the verdict."""

    def kdtool_report(self, run: RunInfo, results: kdtool.Results) -> Path:
        path = run.folder / "report.txt"
        path.write_text(results.verdict, encoding="utf-8")
        return path
