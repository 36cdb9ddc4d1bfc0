"""A transformers tokenizer as kdtool's `Tokenizer`: ids, text, a fingerprint, and files for others to open.

Opened by `open_tokenizer` without weights. Uses the Rust tokenizer below transformers directly, which is fast and adds
nothing by itself. `byte_tokenizer` returns one of bytes, for models that start without a tokenizer, and for tests.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from hashlib import sha256
from itertools import takewhile
from operator import itemgetter
from pathlib import Path
from typing import Any

import kdtool
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from kdtool_transformers.prompts import (
    FIM_FAMILIES,
    Infilling,
    Message,
    Render,
    cut_turns,
    replace_texts,
    require_all_written,
)
from kdtool_transformers.rendering import render_template
from kdtool_transformers.tokenizer_json import Pieces, without_space_before
from kdtool_transformers.vetting import require_bounds

Turns = Sequence[tuple[str, str]]
DOCUMENT_ENDS = ("<|endoftext|>", "<|end_of_text|>", "<｜end▁of▁sentence｜>", "<eos>")
"""End-of-document tokens of pre-training; chat models name the end of a turn as their end-of-sequence token instead."""
_SEPARATORS = (
    *("<file_sep>", "<|file_sep|>", "<|file_separator|>", "<repo_name>", "<reponame>", "<|repo_name|>"),
    *("<fim_pad>", "<|fim_pad|>"),
)
"""Tokens of code models that begin another file or repository, or fill rows: an answer ends before them."""
_DATE = "{% macro strftime_now(format) %}26 Jul 2024{% endmacro %}\n"
"""Before a template that asks for the date: Llama 3's own default, so that rows do not change from day to day."""
_READING = 2
"""Increased whenever the same text gets other ids than before."""
_OPENING = ("is_local", "local_files_only")
"""Settings of transformers that depend on where, and how, a tokenizer was opened; they would be saved with the tokenizer."""
_LONGEST = 4 * 2**20
"""Characters of a text that is encoded at once, as of a line of JSON Lines."""
_MAP = ("added_tokens", "normalizer", "pre_tokenizer", "model", "decoder")
"""The parts of tokenizer.json that decide text to ids and back; a post-processor only adds special tokens around."""


class TransformersTokenizer(kdtool.Tokenizer):
    """Text to ids and back. `inner` is the wrapped `PreTrainedTokenizerFast`, with its chat template.

    Besides the `end_ids` that the tokenizer knows itself, `answer_ends` names tokens that end an answer, and `stored_ends`
    holds the ids that the model's configurations name as ends.
    """

    answer_ends: Sequence[str] = ()
    stored_ends: Sequence[int] = ()

    def __init__(self, inner: Any) -> None:
        backend = getattr(inner, "backend_tokenizer", None)
        if backend is None:
            raise kdtool.UsageError(
                f"the tokenizer of {inner.name_or_path} has no tokenizer.json and none could be made from its files; "
                "open it once with transformers, save it in the fast format, and point to that folder"
            )
        for part in (backend.normalizer, backend.decoder):
            require_bounds(part, inner.name_or_path)
        backend.no_truncation()
        backend.no_padding()
        self.inner = inner
        self._backend = backend
        self._written = set[str]()
        self.chat_fingerprint = self._chat_fingerprint()

    @cached_property
    def vocabulary(self) -> int:
        """The true vocabulary size: one more than the greatest id."""
        return 1 + int(max(self._backend.get_vocab(with_added_tokens=True).values()))

    @cached_property
    def end_of_text(self) -> int:
        """The id that ends a document: the pre-training separator if there is one, else the end-of-sequence token."""
        for token in DOCUMENT_ENDS:
            index = self._backend.token_to_id(token)
            if index is not None:
                return int(index)
        if self.inner.eos_token_id is None:
            raise kdtool.UsageError(f"the tokenizer of {self.inner.name_or_path} has no end-of-sequence token")
        return int(self.inner.eos_token_id)

    @property
    def end_ids(self) -> tuple[int, ...]:
        """The ids at which generation ends: those of a document, a turn and an answer, and before another file.

        A stored id of ordinary text is left out: it is the default of a class of configurations.
        """
        named = (self._backend.token_to_id(token) for token in (*self.answer_ends, *_SEPARATORS))
        stored = self._added_ids & set(self.stored_ends)
        known = {self.end_of_text, self.inner.eos_token_id, self.turn_end, *named, *stored} - {None}
        return tuple(sorted(known))

    @cached_property
    def _added_ids(self) -> frozenset[int]:
        return frozenset(self._backend.get_added_tokens_decoder())

    @cached_property
    def turn_end(self) -> int | None:
        """The id with which the chat template ends an answer; None if there is no template, or it cannot be followed."""
        try:
            ids, labelled = self.encode_chat([("user", "a"), ("assistant", "b")]) or ([], [])
        except kdtool.UsageError:
            return None
        return next((index for index, learned in zip(reversed(ids), reversed(labelled), strict=True) if learned), None)

    @cached_property
    def document_start(self) -> tuple[int, ...]:
        """The ids that the tokenizer's post-processor puts before a text; see `kdtool.Tokenizer.document_start`."""
        encoded = self._backend.encode("x", add_special_tokens=True)
        marked = zip(encoded.ids, encoded.special_tokens_mask, strict=True)
        return tuple(token for token, _ in takewhile(itemgetter(1), marked))

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the parts that map text to ids, and the end-of-text id."""
        content = json.loads(self._backend.to_str())
        canonical = {name: content.get(name) for name in _MAP} | {"end_of_text": self.end_of_text}
        return sha256(json.dumps(canonical, sort_keys=True, ensure_ascii=True).encode()).hexdigest()

    @property
    def identity(self) -> str:
        """SHA-256 over everything that decides the ids of a text or a conversation, and where answers end."""
        about = [_READING, self.fingerprint, self.chat_fingerprint, self.document_start, self.end_ids]
        return sha256(json.dumps(about).encode()).hexdigest()

    @cached_property
    def infilling(self) -> Infilling | None:
        """The vocabulary's FIM tokens; None if it has no known ones."""
        return next((family for family in FIM_FAMILIES if all(map(self.has_token, family.tokens))), None)

    @cached_property
    def infilling_ends(self) -> tuple[int, ...]:
        """The ids at which an infilled answer ends: those of any answer, and the FIM tokens."""
        fim = self.infilling.tokens if self.infilling else ()
        return tuple(sorted({*self.end_ids, *(self._backend.token_to_id(mark) for mark in fim)}))

    def has_token(self, token: str) -> bool:
        """Return whether `token` is one token of the vocabulary."""
        return self._backend.token_to_id(token) is not None

    def encode(self, text: str) -> list[int]:
        """Return the ids of `text`; control tokens written in it are text, and none are added."""
        return self.encode_behind("", text)

    def encode_behind(self, before: str, text: str) -> list[int]:
        """Return the ids of `text` after `before`, without the space that some tokenizers put before a text.

        After a special token, the text is encoded as the tokenizer does there. Control tokens written in it are text.
        """
        return self._as_text(self.encode_template(text, before), text, bool(before))

    def _as_text(self, ids: list[int], text: str, behind: bool) -> list[int]:
        """Return the ids of a text, encoded again if control tokens are among them."""
        if self._marks.keys().isdisjoint(ids):
            return ids
        with self._explain(text):
            tokenizer = self._plain_behind if behind else self._plain
            return list(tokenizer.encode(text if behind else self._add_space(text), add_special_tokens=False).ids)

    def encode_template(self, text: str, before: str = "") -> list[int]:
        """Return the ids of a template's text after `before`: control tokens written in it count, none are added."""
        with self._explain(text):
            if not before or not text:
                return list(self._backend.encode(self._add_space(text), add_special_tokens=False).ids)
            for mark, swallows in self._special.items():
                if before.endswith(mark) or (swallows and before.rstrip().endswith(mark)):
                    return list(self._backend.encode(mark + text, add_special_tokens=False).ids[1:])
            return list(self._behind_text.encode(text, add_special_tokens=False).ids)

    def _encode_piece(self, before: str, piece: str, split: str) -> list[int]:
        """Return the ids of a template's text in which `split` is within the control tokens that its turns contain."""
        if not split or split not in piece:
            return self.encode_template(piece, before)
        marks = sorted((mark for mark in self._marks.values() if mark in piece), key=len, reverse=True)
        ids: list[int] = []
        for part in re.split(f"({'|'.join(map(re.escape, marks))})" if marks else "(?!)", piece):
            if part in marks:
                ids.append(self._backend.token_to_id(part))
            elif part:
                ids += self.encode_behind(before, part.replace(split, ""))
            before = part or before
        return ids

    def _read(self, conversation: kdtool.DetailedMessages) -> tuple[Render, list[Message], str]:
        """Return a function that writes a conversation's messages, the messages, and the character within control tokens.

        It is "" if the texts contain no control tokens. Raises a `UsageError` if the template leaves something out.
        """
        messages: list[Message] = [
            {"role": role, "content": content, **detail, **({"thinking": reasoning} if reasoning else {})}
            for (role, content), detail in zip(conversation.turns, conversation.details, strict=True)
            for reasoning in [detail.get("reasoning_content")]
        ]
        tools, split = conversation.tools, ""
        text, first = json.dumps([messages, tools], ensure_ascii=False), {mark[0] for mark in self._marks.values()}
        written = [] if first.isdisjoint(text) else [mark for mark in self._marks.values() if mark in text]
        if written:
            split = next(letter for letter in map(chr, range(0xE000, 0xF8FF)) if letter not in text)
            marked = re.compile("|".join(map(re.escape, sorted(written, key=len, reverse=True))))
            messages, tools = replace_texts(
                [messages, tools], lambda _, text: marked.sub(lambda mark: f"{mark[0][0]}{split}{mark[0][1:]}", text)
            )
        others = {message["role"] for message in messages} - {"user", "assistant"}
        if tools or others or any(conversation.details):
            require_all_written(self._render, messages, tools, self._written, str(self.inner.name_or_path))
        return partial(self._render, tools=tools), messages, split

    def encode_chat(
        self, turns: Turns, detailed: kdtool.DetailedMessages | None = None
    ) -> tuple[list[int], list[bool]] | None:
        """Return a conversation's ids by the tokenizer's chat template, and whether each is learned.

        Parts with and without labels are encoded separately, as in a prompt.
        """
        if not self.chat_fingerprint:
            return None
        ids: list[int] = []
        labelled: list[bool] = []
        before = ""
        render, messages, split = self._read(detailed or kdtool.DetailedMessages(tuple(turns), ({},) * len(turns)))
        for piece, learned in cut_turns(render, messages, self._special, str(self.inner.name_or_path)):
            piece_ids = self._encode_piece(before, piece, split)
            ids += piece_ids
            labelled += [learned] * len(piece_ids)
            before = piece
        return ids, labelled

    def encode_prompt(
        self, turns: Turns, opening: str = "", detailed: kdtool.DetailedMessages | None = None
    ) -> list[int]:
        """Return the ids of a conversation up to the assistant's next turn, which begins with `opening`.

        Raises:
            UsageError: there is no chat template, or it refuses the turns.
        """
        if not self.chat_fingerprint:
            raise kdtool.UsageError(
                f"the tokenizer of {self.inner.name_or_path} has no chat template, which a conversation needs"
            )
        render, messages, split = self._read(detailed or kdtool.DetailedMessages(tuple(turns), ({},) * len(turns)))
        asked = render(messages, True)
        ids = self._encode_piece("", asked, split)
        return [*self.missing_start(ids), *ids, *self.encode_behind(asked, opening)]

    def encode_infilling(self, before: str, middle: str, after: str, suffix_first: bool) -> list[int] | None:
        """Return a text's ids with its middle last, between FIM tokens; None if there are none."""
        fim = self.infilling
        if fim is None:
            return None
        ids = self._encode_pieces(fim.pieces(before, middle, after, suffix_first))
        return [*ids, self._backend.token_to_id(fim.end) if fim.end else self.end_of_text]

    def encode_infilling_prompt(self, before: str, after: str) -> list[int]:
        """Return the ids of the prompt whose answer is the text between `before` and `after`.

        Raises:
            UsageError: the tokenizer has no FIM tokens.
        """
        if self.infilling is None:
            raise kdtool.UsageError(
                f"the tokenizer of {self.inner.name_or_path} has none of the FIM tokens that kdtool knows, so "
                "it cannot answer a prompt with a suffix: leave the suffix out, or choose a model trained for infilling"
            )
        return self._encode_pieces(self.infilling.pieces(before, "", after, self.infilling.suffix_first))

    def _encode_pieces(self, pieces: Sequence[tuple[str, str]]) -> list[int]:
        """Return the ids of texts after FIM tokens."""
        ids: list[int] = []
        written = ""
        for mark, text in pieces:
            ids += [self._backend.token_to_id(mark)] if mark else []
            ids += self.encode_behind(written + mark, text)
            written += mark + text
        return ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of several texts, on all cores."""
        with self._explain(*texts):
            encoded = self._backend.encode_batch_fast(
                [self._add_space(text) for text in texts], add_special_tokens=False
            )
        return [self._as_text(list(each.ids), text, behind=False) for each, text in zip(encoded, texts, strict=True)]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of `ids`, special tokens left out."""
        return str(self._backend.decode(list(ids), skip_special_tokens=True))

    def pieces(self, ids: Sequence[int]) -> list[bytes]:
        """Return the bytes of each id.

        Raises:
            UsageError: the tokenizer is neither byte-level nor in the manner of sentencepiece.
        """
        return self._pieces.of(ids)

    @cached_property
    def _pieces(self) -> Pieces:
        return Pieces(json.loads(self._backend.to_str()), self.tokens())

    def tokens(self) -> list[str]:
        """Return every id's token as tokenizer.json writes it."""
        names = [""] * self.vocabulary
        for token, index in self._backend.get_vocab(with_added_tokens=True).items():
            names[index] = token
        return names

    def save(self, folder: Path) -> None:
        """Write tokenizer.json and its companions, the same however the tokenizer was opened."""
        for name in _OPENING:
            self.inner.init_kwargs.pop(name, None)
        self.inner.save_pretrained(folder)

    @cached_property
    def _behind_text(self) -> Any:
        """The tokenizer for text that follows other text: the same, without a space before the text."""
        return _without_space(self._backend)

    @cached_property
    def _marks(self) -> dict[int, str]:
        """The control tokens: special ones, those of FIM, and those that begin another file."""
        named = {*self._special, *_SEPARATORS, *(token for family in FIM_FAMILIES for token in family.tokens)}
        return {index: token for token in named if (index := self._backend.token_to_id(token)) is not None}

    @cached_property
    def _plain(self) -> Any:
        """The tokenizer without control tokens, for texts that contain their names; all other tokens keep their ids."""
        content = json.loads(self._backend.to_str())
        known = self._backend.get_vocab(with_added_tokens=False)
        content["added_tokens"] = [
            {**token, "content": f"\uf8ff{token['id']}\uf8ff"} if token["id"] in self._marks else token
            for token in content["added_tokens"]
            if token["id"] not in self._marks or token["content"] not in known
        ]
        return Tokenizer.from_str(json.dumps({**content, "post_processor": None}))

    @cached_property
    def _plain_behind(self) -> Any:
        return _without_space(self._plain)

    @cached_property
    def _special(self) -> dict[str, bool]:
        """The special tokens, and whether each absorbs the white space after it."""
        added = self._backend.get_added_tokens_decoder().values()
        return {
            token.content: token.rstrip for token in added if token.special or token.content == self.inner.eos_token
        }

    @contextmanager
    def _explain(self, *texts: str) -> Iterator[None]:
        """Raise errors of encoding, such as a pattern that takes too many steps, as ones of the tokenizer's file."""
        if texts and len(longest := max(texts, key=len)) > _LONGEST:
            raise kdtool.UsageError(
                f"the text that begins with {longest[:40]!r} has {len(longest):,} characters; expected {_LONGEST:,} at "
                "most, since encoding takes 100 bytes for each: divide it"
            )
        try:
            yield
        except BaseException as error:  # a panic in Rust is no Exception
            if isinstance(error, Exception) or type(error).__name__ == "PanicException":
                raise kdtool.UsageError(
                    f"the tokenizer.json of {self.inner.name_or_path} cannot encode a text: {error}; give the tokenizer "
                    "that the model was trained with"
                ) from error
            raise

    def _render(self, messages: Sequence[Message], prompting: bool, tools: Sequence[Message] = ()) -> str:
        """Write messages by the template, the same on every day.

        Raises:
            UsageError: the template refuses them, or takes too much time or memory.
        """
        try:
            template = self.inner.get_chat_template()
            template = f"{_DATE}{template}" if "strftime_now" in template else template
            if not messages:
                raise ValueError("there is no turn to write")
            tokens = self.inner.special_tokens_map
            settings = {"chat_template": template, "add_generation_prompt": prompting, "tools": tools or None}
            return render_template(messages, **settings, **tokens)
        except (ValueError, TypeError) as error:  # a template that is no text, too
            roles = ", ".join(message["role"] for message in messages)
            raise kdtool.UsageError(
                f"the chat template of {self.inner.name_or_path} refuses turns of {roles or 'no role'}: {error}"
            ) from error

    def _chat_fingerprint(self) -> str:
        if not self.inner.chat_template:
            return ""
        about = [self.inner.chat_template, {name: str(token) for name, token in self.inner.special_tokens_map.items()}]
        return sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()

    def _add_space(self, text: str) -> str:
        # sentencepiece puts a space before every text, and decoding takes it away; the `Metaspace` that transformers builds
        # for such tokenizers leaves it out if the text already begins with a space, which would be lost.
        pre = self._backend.pre_tokenizer
        lacking = isinstance(pre, pre_tokenizers.Metaspace) and pre.prepend_scheme != "never"
        return f" {text}" if lacking and text.startswith(" ") else text


def _without_space(tokenizer: Any) -> Any:
    """Return the tokenizer that puts no space before a text."""
    content = json.loads(tokenizer.to_str())
    changed = {name: without_space_before(content[name]) for name in ("normalizer", "pre_tokenizer")}
    if all(content[name] == part for name, part in changed.items()):
        return tokenizer
    return Tokenizer.from_str(json.dumps({**content, **changed}))


def byte_tokenizer(family: str = "llama") -> TransformersTokenizer:
    """Return a tokenizer of 257 tokens: the bytes, and `<|endoftext|>`; of the class that transformers uses for a family."""
    import transformers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    if family == "qwen2":
        vocabulary = {token: number for number, token in enumerate(alphabet)}
        return TransformersTokenizer(transformers.Qwen2Tokenizer(vocab=vocabulary, merges=[]))
    inner = Tokenizer(models.BPE(vocab={token: number for number, token in enumerate(alphabet)}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|endoftext|>")  # noqa: S106 - no password
    return TransformersTokenizer(fast)
