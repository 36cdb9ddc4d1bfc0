"""Requests as a model is asked them: its abilities, and gaps with and without FIM tokens.

A model without FIM tokens continues the text before a gap, up to where the text after it begins.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import kdtool
from kdtool_transformers import end_naturally

from kdtool_serve.devices import Devices, end_at_unit, end_where
from kdtool_serve.errors import RequestError


@dataclass(frozen=True)
class Task:
    """A request as a model is asked it, and the text after the gap that its answer fills: None if there is no gap.

    The answer to a gap ends where `suffix` begins if it is `continued`, because the model does not read the suffix. Models
    read and write LF; the client gets the `newline` of its text, and in a gap no stray CR. None: the text as it is.
    """

    request: kdtool.Request
    suffix: str | None = None
    continued: bool = False
    natural_end: bool = False
    devices: Devices = field(default_factory=Devices)
    newline: str | None = None

    @classmethod
    def of(
        cls, request: kdtool.Request, runtime: kdtool.Runtime, devices: Devices, *, natural_end: bool, exact: bool
    ) -> Task:
        """Return the task for a request to an opened model; `exact`: its tokens are listed, so its text stays as it is."""
        newline = None
        if not exact and not request.turns and "\r\n" in request.prompt + (request.suffix or ""):
            newline, suffix = "\r\n", request.suffix
            stop = tuple(map(_with_lf, request.stop))
            request = replace(request, prompt=_with_lf(request.prompt), suffix=suffix and _with_lf(suffix), stop=stop)
        gap = as_gap(request, runtime)
        is_gap = gap.suffix is not None
        continued = is_gap and does_continue(runtime)
        heal = devices.healing and is_gap and not exact
        asked = replace(gap, heal=heal, suffix=None if continued else gap.suffix)
        newline = newline or ("\n" if is_gap and not exact else None)
        return cls(asked, gap.suffix, continued, natural_end, devices, newline)

    def restore(self, text: str) -> str:
        """Return new text of the answer with the client's line ends."""
        return text if self.newline is None else text.replace("\r", "").replace("\n", self.newline)

    def stream(self, runtime: kdtool.Runtime) -> Iterator[kdtool.TextPiece]:
        """Yield the answer while it is generated."""
        pieces = runtime.stream(self.request)
        if self.natural_end or self.continued:
            pieces = end_naturally(pieces, self.request)
        if self.suffix is None:
            return pieces
        if self.continued:
            pieces = end_at_suffix(pieces, self.suffix)
        return end_at_unit(pieces, self.request.prompt, self.suffix) if self.devices.units else pieces


def _with_lf(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


def does_continue(runtime: kdtool.Runtime) -> bool:
    """Return whether a model without FIM tokens fills a gap by continuing the text before it."""
    return "infill" not in runtime.abilities and "continue" in runtime.abilities


HEADER = {"Kdtool-Gap": "continued"}
"""Header of responses whose model continued the text before a gap, because it has no FIM tokens."""
_MARKS = (
    ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
    ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),
    ("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),
    ("<|code_prefix|>", "<|code_suffix|>", "<|code_middle|>"),
    ("<PRE> ", " <SUF>", " <MID>"),
)
"""FIM tokens of StarCoder, Qwen, DeepSeek, GLM and Code Llama, which editors write themselves."""
_TEMPLATES = [
    (prefix.strip(), re.compile(pattern, re.DOTALL))
    for prefix, suffix, middle in _MARKS
    for pattern in (
        f".*?{re.escape(prefix)}(?P<prefix>.*){re.escape(suffix)}(?P<suffix>.*){re.escape(middle)}\\s*",
        f".*?{re.escape(suffix)}(?P<suffix>.*){re.escape(prefix)}(?P<prefix>.*){re.escape(middle)}(<\\|assistant\\|>)?\\s*",
    )
] + [("[PREFIX]", re.compile(r"\[SUFFIX\](?P<suffix>.*)\[PREFIX\](?P<prefix>.*)", re.DOTALL))]
"""The prefix's token and the pattern of prompts in both orders, and in that of Codestral, which has no last token. That one
must be the whole prompt, since text may speak of [SUFFIX] and [PREFIX]."""


def as_gap(request: kdtool.Request, runtime: kdtool.Runtime) -> kdtool.Request:
    """Return a request whose prompt has another model's FIM tokens as one with a suffix; any other one as it is.

    Text before the first FIM token, such as other files, is left out.
    """
    family = getattr(runtime, "infilling", None)
    if request.suffix is not None or request.turns or ("infill" in runtime.abilities and family is None):
        return request
    known = {token.strip("▁") for token in family.tokens} if family else set()
    for mark, pattern in _TEMPLATES:
        if mark not in known and (match := pattern.fullmatch(request.prompt)):
            return replace(request, prompt=match["prefix"], suffix=match["suffix"])
    return request


def end_at_suffix(pieces: Iterator[kdtool.TextPiece], suffix: str) -> Iterator[kdtool.TextPiece]:
    """Yield the pieces of a continued text up to where the suffix begins.

    If the cursor's line has text after the gap, the text ends within that line. Otherwise it ends before the suffix's first
    line that is not blank.
    """
    return end_where(
        pieces,
        lambda text, is_whole: _find_end(text, suffix, is_whole=is_whole),
        lambda text: _safe_length(text, suffix),
    )


def _find_end(text: str, suffix: str, *, is_whole: bool) -> int | None:
    """Return how much of a text to keep if it has reached the suffix; `is_whole`: no more text follows."""
    rest = suffix.partition("\n")[0].rstrip()
    if rest.strip():
        line, newline, _ = text.partition("\n")
        if not newline and not is_whole:
            return None
        at = line.rfind(rest)
        return len(line.rstrip()) if at < 0 else at
    first = _first_line(suffix)
    begin = 0
    while first and (begin := text.find("\n", begin) + 1):
        line, newline, _ = text[begin:].partition("\n")
        if (newline or is_whole) and line.rstrip() == first:
            return _without_blank_end(text[:begin], suffix)
    return None


def _safe_length(text: str, suffix: str) -> int:
    """Return the length of the text that cannot be cut any more."""
    if suffix.partition("\n")[0].strip():
        return 0
    before, newline, line = text.rpartition("\n")
    begins = bool(newline) and _first_line(suffix).startswith(line.rstrip())
    return len(before.rstrip()) if begins else len(text)


def _first_line(suffix: str) -> str:
    return next((line.rstrip() for line in suffix.split("\n")[1:] if line.strip()), "")


def _without_blank_end(text: str, suffix: str) -> int:
    """Return the length of a text without the line breaks that the suffix begins with."""
    return len(text.rstrip()) if suffix[:1] in {"\n", "\r", " ", "\t"} else len(text)


def read_ids(name: str, tokenizer: kdtool.Tokenizer | None, ids: Sequence[int]) -> str:
    """Return the text of a prompt's token ids; "" without a tokenizer.

    Raises:
        RequestError: the model `name` has no such token.
    """
    if tokenizer is None:
        return ""
    if max(ids) >= (most := tokenizer.vocabulary):
        raise RequestError(f"prompt: {name} has no token {max(ids)}; expected ids below {most}", param="prompt")
    return tokenizer.decode(ids)


def require_abilities(name: str, runtime: kdtool.Runtime, request: kdtool.Request) -> None:
    """Refuse a request that the model `name` is not able to answer.

    Raises:
        RequestError: the message names the parameter that asks for it, and a remedy.
    """
    needed: dict[kdtool.Ability, bool] = {
        "converse": bool(request.turns),
        "prefill": bool(request.turns and request.prompt),
        "infill": request.suffix is not None,
        "continue": not request.turns and request.suffix is None,
        "echo": request.echo or bool(request.ids),
    }
    for ability, is_needed in needed.items():
        if is_needed and ability not in runtime.abilities:
            param, why = _CANNOT[ability]
            raise RequestError(f"{param}: {name} {why}", code="unsupported", param=param)


_CANNOT = {
    "continue": ("prompt", "does not continue text; use /v1/chat/completions"),
    "converse": ("messages", "does not converse, because its tokenizer has no chat template; use /v1/completions"),
    "prefill": ("messages", "cannot continue an answer that is begun; let the last message be the user's"),
    "infill": ("suffix", "cannot infill, because its tokenizer has no FIM tokens; send only a prompt"),
    "echo": (
        "prompt",
        "reads no token ids, and reports no log-probabilities of a prompt: only models of transformers that answer without "
        "--draft do; send text without echo, logprobs and max_tokens 0 together",
    ),
}
