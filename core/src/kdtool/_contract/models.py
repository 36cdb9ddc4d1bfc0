"""Language models and tokenizers as the engine sees them, and subjects: what is measured."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from kdtool._errors import UsageError

if TYPE_CHECKING:
    import kdtool


Role = Literal["teacher", "student", "control", "artifact"]
Ability = Literal["continue", "converse", "prefill", "score"]


class Tokenizer(Protocol):
    """Text to token ids and back."""

    @property
    def vocabulary(self) -> int:
        """The true vocabulary size V: ids are below it."""

    @property
    def end_of_text(self) -> int:
        """The id that ends a document."""

    @property
    def document_start(self) -> tuple[int, ...]:
        """The ids that begin every document: those that the tokenizer itself puts before a text, such as Llama's `<s>`.

        () where it puts none. They stand for no bytes of text. Since 0.1.
        """
        return ()

    @property
    def scoring_context(self) -> tuple[int, ...]:
        """The ids behind which the first token of a text is scored: `document_start`, else the end-of-text token.

        Models without a start token are pre-trained on documents that follow each other, so that an end of text stands
        before most of them. Since 0.1.
        """
        return self.document_start or (self.end_of_text,)

    @property
    def fingerprint(self) -> str:
        """Names the map from text to ids: equal fingerprints mean equal tokenizers."""

    chat_fingerprint: str
    """Names the template by which `encode_chat` writes conversations; "" where the tokenizer has none. Since 0.1."""

    def encode(self, text: str) -> list[int]:
        """Return the ids of `text`, without special tokens added."""

    def missing_start(self, ids: Sequence[int]) -> tuple[int, ...]:
        """Return what must be put before a document: `document_start`, or () where `ids` already begin with it.

        Chat templates may write it themselves. Since 0.1.
        """
        start = self.document_start
        return () if tuple(ids[: len(start)]) == start else start

    def encode_behind(self, before: str, text: str) -> list[int]:
        """Return the ids of `text` where it stands behind `before`, so that ids of both, in this order, decode to both.

        A tokenizer that puts a space before every text, in the manner of sentencepiece, puts none there. No token belongs to
        both. The last part of what stands before is enough; "" where nothing does. Since 0.1.
        """
        return self.encode(text)

    def encode_chat(self, turns: Sequence[tuple[str, str]]) -> tuple[list[int], list[bool]] | None:
        """Return the ids of a conversation as the tokenizer's own template writes it, and whether each is learned.

        Learned are the assistant's answers, each with the token that ends it. None where there is no template; a
        `UsageError` says why a template cannot be split so, or why it refuses the conversation. Since 0.1.
        """

    def encode_infilling(self, before: str, middle: str, after: str, suffix_first: bool) -> list[int] | None:
        """Return the ids of a text whose middle comes last, between the marks that the tokenizer has for it, and its end.

        `before` comes first, or with `suffix_first` what is behind the middle. None where there are no marks. Since 0.1.
        """

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of `ids`, special tokens left out."""

    def tokens(self) -> Sequence[str]:
        """Return every id's token as the tokenizer names it, in order of ids, "" for an id without one: `vocabulary` names.

        Where two tokenizers begin with the same names, these ids mean the same to models of both. Since 0.1.
        """

    def pieces(self, ids: Sequence[int]) -> Sequence[bytes]:
        """Return the bytes that each of `ids` adds to their text, none for special tokens: together the UTF-8 of `decode`.

        A character may be divided among tokens; ids may begin and end within one. Since 0.1.
        """

    def save(self, folder: Path) -> None:
        """Write the files from which `transformers.AutoTokenizer` opens it."""


@dataclass(frozen=True)
class ModelFacts:
    """Shapes of a model. `copied_layers[i]` is the teacher's layer that layer i began as; () if it began otherwise.

    `head_size` is the width of an attention head; 0 stands for hidden / heads.
    """

    parameters: int
    trainable: int
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    feed_forward: int
    vocabulary: int
    context: int
    dtype: str
    tied: bool
    tokenizer_fingerprint: str
    copied_layers: tuple[int, ...] = ()
    head_size: int = 0


class LanguageModel(ABC):
    """A causal language model with its tokenizer, split into backbone and head.

    The engine never asks for all logits: it takes final states from `backbone` and projects chunks of them by `head`.
    """

    model: Any
    """The `torch.nn.Module` that holds every weight, head included."""
    tokenizer: Tokenizer

    @property
    @abstractmethod
    def facts(self) -> ModelFacts:
        """Shapes, counted from the model itself."""

    @property
    @abstractmethod
    def head(self) -> kdtool.Head:
        """The head, on the model's own parameters (tied to the embedding where the model ties them)."""

    @abstractmethod
    def backbone(self, batch: kdtool.Batch, want: kdtool.Want) -> kdtool.ModelOutputs:
        """Run everything but the head on a batch.

        Documents of a row do not see each other. Gradients flow unless the caller switched them off. Nothing is kept
        between calls.
        """

    def continued(
        self, prompts: Sequence[Sequence[int]], limits: Sequence[int], temperature: float, seeds: Sequence[int]
    ) -> list[list[int]]:
        """Continue prompts of at least one token, each by at most its limit (from 1) of tokens; return what is new.

        Tokens are drawn from softmax(logits / temperature), the likeliest ones at temperature 0. A continuation ends with
        the first token that ends a text (or an answer, where the tokenizer knows such), which belongs to it, else at its
        limit or where the context is full. It follows from its prompt and its seed (0 to 2⁶³ − 1), whatever is continued
        beside it, up to rounding. Nothing is dropped out and no gradient kept; parameters, training mode and generators are
        afterwards as before. Trainers that learn on text of the student's own ask for it, under autocast as they train.
        Since 0.1.

        Raises:
            UsageError: a prompt fills the context; or the model offers no such thing, as all do that say nothing of it.
        """
        raise UsageError(f"{type(self).__name__} cannot continue text, so nothing can be learned on text of its own")

    def opened(self) -> Runtime:
        """Return the model as it is now, opened for measurement; closing that leaves the model alone.

        Afterwards parameters, training mode and generators are as before. Since 0.1.

        Raises:
            UsageError: the model offers no such thing, as all do that say nothing of it.
        """
        raise UsageError(f"{type(self).__name__} cannot be measured while it is in memory")

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write weights (safetensors), configuration and tokenizer so that `AutoModelForCausalLM` opens the folder."""


@dataclass(frozen=True)
class Subject:
    """Something to be measured. `path` is a folder or file; None where only the teacher itself can open it.

    `seed` is the training seed it came from, None for what has none (a teacher). `arm` is what all its seeds are called,
    such as "student"; "" where that is the name. Since 0.1.
    """

    name: str
    role: Role
    path: Path | None = None
    seed: int | None = None
    arm: str = field(default="", kw_only=True)


@dataclass(frozen=True)
class LiveSubject(Subject):
    """A subject that is in memory, such as a student while it learns. `kdtool.open_subject` asks no component for it."""

    model: LanguageModel | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Artifact:
    """A file or folder that an exporter wrote. `bytes` counts all its files; `quantisation` is "" if there is none.

    `how_to_use` are lines to copy, with `{path}` where the artefact's final place goes. `card` is a model card in Markdown:
    the engine adds what was measured and writes it as README.md into the artefact's folder, or beside its file.
    """

    path: Path
    format: str
    bytes: int
    quantisation: str = ""
    how_to_use: str = ""
    card: str = ""


@dataclass(frozen=True)
class Request:
    """A prompt to be answered. `temperature` 0 is greedy; `seed` fixes sampling where the runtime can.

    `turns` are a conversation that comes before, as (role, content) pairs: the answer is then the assistant's next turn, and
    `prompt` is how that begins, which servers refuse.
    """

    id: str
    prompt: str
    max_tokens: int
    stop: tuple[str, ...] = ()
    temperature: float = 0.0
    seed: int = 0
    turns: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class TextAnswer:
    """An answer to the request of the same id. `finish` says why it ended: "stop", "length" or "refused".

    Refused, without text, is also a request whose prompt leaves no room in the context. `reason` is what a service says why
    it refused, or why its answer cannot be read; "" where the model itself declined. Since 0.1.
    """

    id: str
    text: str
    finish: Literal["stop", "length", "refused"]
    tokens_in: int
    tokens_out: int
    picodollars: int = 0
    reason: str = ""


@dataclass(frozen=True)
class Score:
    """A text's log-likelihood in nats, summed over `tokens` predicted tokens, which stand for `bytes` of UTF-8."""

    log_likelihood: float
    tokens: int
    bytes: int


class Runtime(AbstractContextManager["Runtime"], ABC):
    """An opened subject. Close it after use; it is a context manager."""

    model: LanguageModel | None = None
    """The model behind it, where its states can be had; None for servers and foreign formats."""
    abilities: frozenset[Ability] = frozenset({"continue", "converse", "prefill", "score"})
    """What may be asked of it: to `continue` a prompt, to answer `Request.turns` (`converse`), also where the prompt begins
    the answer (`prefill`), to `score` texts. Since 0.1."""

    @abstractmethod
    def answer(self, requests: Iterable[Request]) -> Iterator[TextAnswer]:
        """Answer requests, in any order; results carry the request's id. One that is too long is refused: others go on."""

    def score(self, texts: Sequence[str]) -> Iterator[Score]:
        """Score whole texts, in order. The first token is predicted from the tokenizer's `scoring_context`.

        Raises:
            UsageError: that is none of its `abilities`, as of all that say nothing of how they score.
        """
        raise UsageError(f"{type(self).__name__} answers, and does not tell how likely a text is")

    def close(self) -> None:
        """Free memory, processes and files. Safe to call twice."""

    def unload(self) -> None:
        """Close, and have the component that opened this free the weights too; it loads them again when it needs them.

        For measurements that hold the same model in a process of their own. Since 0.1.
        """
        self.close()

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass(frozen=True)
class Measurement:
    """One number about one subject.

    The `unit` "fraction" is a share from 0 to 1: no interval of it or of its differences goes beyond, few items that all
    pass or all fail have a wide one, and reports show percent. `n` is the number of items behind it; `low` and `high` bound
    a 95 % interval over them, None where there is none. `settings` say what someone else needs to get the same number.
    `items` is a JSON Lines file with one object an item: {"item": id, "sum": float, "weight": float}. The value is then
    `transform`(Σ sum / Σ weight), and two subjects are compared item by item. An object may have "shown" besides: texts by
    what they are, such as an answer and a verdict on it, which reports show.
    """

    name: str
    subject: str
    unit: str
    value: float
    n: int
    higher_is_better: bool
    low: float | None = None
    high: float | None = None
    settings: Mapping[str, str] = field(default_factory=dict)
    items: Path | None = None
    transform: Literal["identity", "exp"] = "identity"
