"""The engine's interface to language models: tokenizers, models that learn, and opened models that answer and score."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from kdtool._contract.data import Batch, DetailedMessages
from kdtool._contract.signals import Head, ModelOutputs, SignalRequest
from kdtool._errors import UsageError

Ability = Literal["continue", "converse", "prefill", "score", "infill", "echo"]
Finish = Literal["stop", "length", "refused"]


@dataclass(frozen=True)
class ModelFacts:
    """Shapes of a model. `copied_layers[i]` is the teacher's layer that layer i began as; () if it began otherwise.

    `head_size` is the width of an attention head; 0 stands for hidden / heads. `experts` counts the experts of a layer
    whose router logits the model returns; 0 if it returns none.
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
    experts: int = 0

    def cache_bytes(self, itemsize: int, tokens: int | None = None) -> int:
        """Return the bytes of the keys and values of this number of tokens, by default of the whole context. Since 0.1."""
        width = self.head_size or self.hidden // max(1, self.heads)
        return 2 * self.layers * self.kv_heads * width * (self.context if tokens is None else tokens) * itemsize


class Tokenizer(ABC):
    """Text to token ids and back.

    Required: `vocabulary`, `end_of_text`, `fingerprint` (class attributes will do), `encode` and `pieces`. Everything else
    has a default for plain tokenizers: without special tokens before a text, chat template or FIM tokens.
    """

    @property
    @abstractmethod
    def vocabulary(self) -> int:
        """The true vocabulary size V: ids are below it."""

    @property
    @abstractmethod
    def end_of_text(self) -> int:
        """The id that ends a document."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Identifies the map from text to ids: equal fingerprints mean equal tokenizers."""

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """Return the ids of `text`, without special tokens added."""

    @abstractmethod
    def pieces(self, ids: Sequence[int]) -> Sequence[bytes]:
        """Return the bytes that each of `ids` adds to their text, none for special tokens: together the UTF-8 of `decode`.

        A character may be divided among tokens; ids may begin and end within one. Since 0.1.
        """

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of `ids`, special tokens left out. By default the text of their `pieces`."""
        return b"".join(self.pieces(ids)).decode("utf-8", errors="replace")

    def tokens(self) -> Sequence[str]:
        """Return every id's token as the tokenizer names it, in order of ids, "" for an id without one: `vocabulary` names.

        If two tokenizers begin with the same names, these ids mean the same to models of both. By default an id is named by
        its bytes; special tokens except the end, and further ids of the same bytes, have names that are unique to this
        tokenizer.
        Since 0.1.
        """
        names: list[str] = []
        known = {b""}
        for number, piece in enumerate(self.pieces(range(self.vocabulary))):
            name = f"<{self.fingerprint} {number}>" if piece in known else f"<{piece.hex()}>"
            names.append("<end>" if number == self.end_of_text else name)
            known.add(piece)
        return names

    def save(self, folder: Path) -> None:
        """Write the files from which `transformers.AutoTokenizer` opens it.

        Raises:
            UsageError: it has no such files, which is the default: students with this tokenizer cannot be saved for others.
        """
        raise UsageError(f"{type(self).__name__} cannot be written as files of transformers; implement Tokenizer.save")

    @property
    def document_start(self) -> tuple[int, ...]:
        """The ids that begin every document: those that the tokenizer itself puts before a text, such as Llama's `<s>`.

        () if it puts none. They stand for no bytes of text. Since 0.1.
        """
        return ()

    @property
    def scoring_context(self) -> tuple[int, ...]:
        """The ids after which the first token of a text is scored: `document_start`, else those of a line break.

        Rows, prompts and users put no end of text before a text, and a model that was tuned to converse may continue one
        with anything: Qwen2.5-Coder-0.5B-Instruct takes 1,619 nats for a file after it, 1,101 after a line break, and 1,093
        without its first token. Since 0.1.
        """
        return self.document_start or tuple(self.encode("\n")) or (self.end_of_text,)

    def missing_start(self, ids: Sequence[int]) -> tuple[int, ...]:
        """Return the ids to put before a document: `document_start`, or () if `ids` already begin with it.

        Chat templates may write it themselves. Since 0.1.
        """
        start = self.document_start
        return () if tuple(ids[: len(start)]) == start else start

    def encode_behind(self, before: str, text: str) -> list[int]:
        """Return the ids of `text` when it follows `before`, so that the ids of both, in this order, decode to both.

        A sentencepiece-style tokenizer, which puts a space before every text, adds none here. No token belongs to both
        texts. The last part of the preceding text is enough; "" if there is none. Since 0.1.
        """
        return self.encode(text)

    def encode_template(self, text: str, before: str = "") -> list[int]:
        """Return the ids of `text` after `before`, in which control tokens that are written count: text of a template.

        In all other texts they are text. By default as `encode_behind`. Since 0.1.
        """
        return self.encode_behind(before, text)

    chat_fingerprint: str = ""
    """Identifies the template of `encode_chat`; "" if the tokenizer has none. Since 0.1."""

    def encode_chat(
        self, turns: Sequence[tuple[str, str]], detailed: DetailedMessages | None = None
    ) -> tuple[list[int], list[bool]] | None:
        """Return the ids of a conversation in the tokenizer's template, and for each whether it is learned.

        `detailed` is the conversation of these turns if it has more than them. The assistant's answers are learned, each
        with the token that ends it. None if there is no template. Raises a `UsageError` if a template cannot be split in
        this way, refuses the conversation, or leaves a part out. Since 0.1.
        """
        return None

    def encode_prompt(
        self, turns: Sequence[tuple[str, str]], opening: str = "", detailed: DetailedMessages | None = None
    ) -> list[int]:
        """Return the ids of a conversation in the tokenizer's template, up to the assistant's next turn: what a model gets.

        That turn begins with `opening`. The ids begin with `document_start`. `detailed` is as in `encode_chat`. Since 0.1.

        Raises:
            UsageError: a chat template is missing, or it refuses the conversation.
        """
        raise UsageError(f"{type(self).__name__} lacks a chat template for prompts; implement Tokenizer.encode_prompt")

    def encode_infilling(self, before: str, middle: str, after: str, suffix_first: bool) -> list[int] | None:
        """Return the ids of a text whose middle comes last, between the tokenizer's FIM tokens, and its end.

        `before` comes first, or with `suffix_first` the text after the middle. None if there are no FIM tokens. Since 0.1.
        """
        return None


class LanguageModel(ABC):
    """A causal language model with its tokenizer, split into backbone and head.

    The engine never computes all logits at once: it takes final states from `backbone` and projects chunks of them by
    `head`.
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
    def head(self) -> Head:
        """The head, on the model's own parameters (tied to the embedding where the model ties them)."""

    @abstractmethod
    def backbone(self, batch: Batch, want: SignalRequest) -> ModelOutputs:
        """Run everything but the head on a batch.

        Documents of a row do not see each other. Gradients flow unless the caller switched them off. Nothing is kept
        between calls.
        """

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        limits: Sequence[int],
        temperature: float,
        seeds: Sequence[int],
        top_p: float = 1.0,
    ) -> list[list[int]]:
        """Continue prompts of at least one token, each by at most its limit (from 1) of tokens; return the new tokens.

        Tokens are drawn from softmax(logits / temperature), the likeliest ones at temperature 0; `top_p` keeps the fewest
        likeliest tokens that together have this probability. A continuation ends with
        the first token that ends a text (or an answer, if the tokenizer has such a token), inclusive, else at its limit or
        at the end of the context. Up to rounding, it depends only on its prompt and its seed (0 to 2⁶³ − 1), not on the
        other prompts. No dropout, no gradient; parameters, training mode and generators are afterwards as before.
        Trainers with on-policy text call it, under the autocast of training. Since 0.1.

        Raises:
            UsageError: a prompt fills the context; or the model does not support it, which is the default.
        """
        raise UsageError(f"{type(self).__name__} does not support generation, which on-policy training needs")

    def open_runtime(self) -> Runtime:
        """Return the model in its present state, opened for measurement; closing the result does not affect the model.

        Afterwards parameters, training mode and generators are as before. Since 0.1.

        Raises:
            UsageError: the model does not support it, which is the default.
        """
        raise UsageError(f"{type(self).__name__} cannot be measured while it is in memory")

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write weights (safetensors), configuration and tokenizer so that `AutoModelForCausalLM` opens the folder."""


@dataclass(frozen=True)
class Request:
    """A prompt to answer. `temperature` 0 is greedy; `seed` fixes sampling if the runtime supports it.

    `turns` are a preceding conversation, as (role, content) pairs: the answer is then the assistant's next turn, and
    `prompt` is its beginning, which servers refuse. `suffix` is the text after the answer (infilling);
    None continues the prompt. Sampling considers the `top_k` likeliest tokens (0: all), and of these the likeliest that
    together have the probability `top_p`. `logprobs` asks `Runtime.stream` for the log-probabilities of each token
    and of this number of likeliest ones; None for none. `heal` asks `Runtime.stream` to choose the last token of the
    prompt again, if it can, so that the answer may continue a word that the prompt cuts. `ids` are the tokens of the prompt,
    read as they are; () for those of `prompt`. `echo` asks for the `logprobs` of the prompt, too, before the answer's.
    """

    id: str
    prompt: str
    max_tokens: int
    stop: tuple[str, ...] = ()
    temperature: float = 0.0
    seed: int = 0
    turns: tuple[tuple[str, str], ...] = ()
    suffix: str | None = field(default=None, kw_only=True)
    top_p: float = field(default=1.0, kw_only=True)
    top_k: int = field(default=0, kw_only=True)
    logprobs: int | None = field(default=None, kw_only=True)
    heal: bool = field(default=False, kw_only=True)
    ids: tuple[int, ...] = field(default=(), kw_only=True)
    echo: bool = field(default=False, kw_only=True)


@dataclass(frozen=True)
class TextAnswer:
    """An answer to the request of the same id. `finish` is the reason of its end: "stop", "length" or "refused".

    A request whose prompt leaves no room in the context is refused, too, without text. `reason` is a service's reason for a
    refusal, or the reason why its answer cannot be read; "" if the model itself declined. Since 0.1.
    """

    id: str
    text: str
    finish: Finish
    tokens_in: int
    tokens_out: int
    picodollars: int = 0
    reason: str = ""


@dataclass(frozen=True)
class TokenLogprob:
    """A token as text, its log-probability in nats, and those of the likeliest tokens instead of it.

    Log-probabilities are of the model's softmax, before temperature, `top_k` and `top_p`; NaN for a prompt's first token,
    which nothing predicts. Bytes of incomplete characters are surrogate escapes. `shown` is False for a control token,
    which texts leave out. Since 0.1.
    """

    token: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()
    shown: bool = True


@dataclass(frozen=True)
class TextPiece:
    """The next piece of an answer that is being generated: whole characters, "" while one is incomplete.

    `tokens_out` counts the tokens generated so far. The last piece has a `finish`, see `TextAnswer`; `reason` explains a
    refusal. `logprobs` are of the tokens since the piece before, if the request asks for them. Since 0.1.
    """

    text: str
    tokens_in: int
    tokens_out: int
    finish: Finish | None = None
    reason: str = ""
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True)
class LogLikelihood:
    """A text's log-likelihood in nats, summed over `tokens` predicted tokens, which stand for `bytes` of UTF-8."""

    log_likelihood: float
    tokens: int
    bytes: int


class Runtime(AbstractContextManager["Runtime"], ABC):
    """An opened subject. Close it after use; it is a context manager."""

    model: LanguageModel | None = None
    """The opened model, if its states are accessible; None for servers and foreign formats."""
    abilities: frozenset[Ability] = frozenset({"continue", "converse", "prefill", "score"})
    """Supported requests: to `continue` a prompt, to answer `Request.turns` (`converse`), even if the prompt begins the
    answer (`prefill`), to `score` texts, to `infill` what is missing before `Request.suffix`, and to read `Request.ids` and
    `echo`. Since 0.1."""
    streams: int = 1
    """Answers that `stream` can generate at once, in as many threads; callers queue further ones. Since 0.1."""

    @property
    def tokenizer(self) -> Tokenizer | None:
        """The tokenizer of texts, by default the model's; None if it is not known. Since 0.1."""
        return None if self.model is None else self.model.tokenizer

    @abstractmethod
    def answer(self, requests: Iterable[Request]) -> Iterator[TextAnswer]:
        """Answer requests, in any order; results carry the request's id. Only requests that are too long are refused."""

    def stream(self, request: Request) -> Iterator[TextPiece]:
        """Yield an answer while it is generated; together its pieces are the text of `answer`.

        A character at the end of which the limit left only some bytes may be missing: `answer` has U+FFFD for it.
        Closing the iterator ends the generation. A piece, perhaps without text, comes with each token, or with the few of a
        speculative step, and several times while a long prompt is read, so that callers can stop soon. By default the whole
        answer is one piece. Since 0.1.
        """
        for found in self.answer([request]):
            yield TextPiece(found.text, found.tokens_in, found.tokens_out, found.finish, found.reason)

    def memory(self) -> int | None:
        """Return the bytes of memory that the opened model takes, weights and cache; None if it is not known. Since 0.1."""
        return None

    def score(self, texts: Sequence[str]) -> Iterator[LogLikelihood]:
        """Score whole texts, in order. The first token is predicted from the tokenizer's `scoring_context`.

        Raises:
            UsageError: scoring is not among its `abilities`, which is the default.
        """
        raise UsageError(f"{type(self).__name__} cannot score text (no log-probabilities)")

    def close(self) -> None:
        """Free memory, processes and files. Safe to call twice."""

    def unload(self) -> None:
        """Close, and release the weights in the component that opened this; it loads them again when it needs them.

        For measurements that hold the same model in a separate process. Since 0.1.
        """
        self.close()

    def __exit__(self, *_: object) -> None:
        self.close()


def facts_in(described: LanguageModel | ModelFacts | None) -> ModelFacts | None:
    """Return the shapes in what `kdtool_describe` returns: shapes, or a student's outline."""
    return described.facts if isinstance(described, LanguageModel) else described
