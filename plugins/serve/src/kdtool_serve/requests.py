"""Requests of OpenAI's API and llama.cpp's `/infill`: their parameters, and the text around a cursor.

Text around the cursor becomes ever shorter until it fits.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, TypeVar

import kdtool
import pydantic
from pydantic import AliasChoices, Field

from kdtool_serve.errors import RequestError

LONGEST = 4096
"""Tokens of an answer to requests that name no limit; the model's context may end it before."""
USUAL = 256
"""Tokens of a gap without a limit, and room in the context for other answers without one."""
Stop = Annotated[list[Annotated[str, Field(min_length=1)]], Field(max_length=64)]
_IGNORED = frozenset({"user", "store", "metadata", "service_tier", "safety_identifier", "prompt_cache_key"})
"""Parameters that change no answer, regardless of their value."""
_NEUTRAL: Mapping[str, tuple[object, ...]] = {
    "best_of": (1,),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "logit_bias": ({},),
    "parallel_tool_calls": (True, False),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
}
"""Accepted with values that change nothing."""
_LLAMA_CPP: Mapping[str, tuple[object, ...]] = {
    "dynatemp_range": (0,),
    "typical_p": (1,),
    "min_p": (0, 0.05, 0.1),  # editors send the default of llama.cpp, or that of llama.vim
    "xtc_probability": (0,),
    "repeat_penalty": (1,),
    "dry_multiplier": (0,),
    "mirostat": (0,),
    "lora": ([],),
    "timings_per_token": (False,),
    "ignore_eos": (False,),
}
"""Further samplers of llama.cpp, switched off."""
_LLAMA_CPP_IGNORED = frozenset({
    "cache_prompt", "samplers", "id_slot", "dynatemp_exponent", "xtc_threshold", "repeat_last_n", "dry_base",
    "dry_allowed_length", "dry_penalty_last_n", "dry_sequence_breakers", "mirostat_tau", "mirostat_eta",
    "t_max_prompt_ms", "n_keep", "slot_id", "n_cmpl",
})  # fmt: skip
"""Hints of llama.cpp, and details of samplers that are off. The prompt's cache is always used, and one answer is given."""


class _Strict(pydantic.BaseModel):
    """Takes no number for a truth value, and no text for a number."""

    model_config = pydantic.ConfigDict(strict=True)


class StreamOptions(_Strict):
    """`stream_options`."""

    include_usage: bool = False
    include_obfuscation: bool = False


class Parameters(_Strict):
    """Parameters of every request for text."""

    model_config = pydantic.ConfigDict(extra="forbid")
    ignored: ClassVar[frozenset[str]] = _IGNORED | _LLAMA_CPP_IGNORED
    neutral: ClassVar[Mapping[str, tuple[object, ...]]] = {**_NEUTRAL, **_LLAMA_CPP}

    model: str | None = None
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()
    temperature: float = Field(1.0, ge=0, le=2)
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int = Field(0, ge=0)
    seed: int | None = None
    stop: Stop = []
    n: int = Field(1, ge=1, le=128)

    @pydantic.model_validator(mode="before")
    @classmethod
    def _leave_out_harmless(cls, given: Any) -> Any:
        """Remove fields that are null or change nothing."""
        if not isinstance(given, dict):
            return given
        return {
            name: value
            for name, value in given.items()
            if value is not None
            and name not in cls.ignored
            and value not in cls.neutral.get(name, ())
            and (name, value) != ("model", "")  # llama.vim names no model so
        }

    @pydantic.field_validator("stop", mode="before")
    @classmethod
    def _list(cls, given: Any) -> Any:
        return [given] if isinstance(given, str) else given


def make_request(given: Any, prompt: str, max_tokens: int, number: int = 0, **further: Any) -> kdtool.Request:
    """Return the request of the choice `number`, each with another seed, by the sampling settings of any protocol."""
    settings = {name: getattr(given, name) for name in ("temperature", "top_p", "top_k")}
    seed = secrets.randbits(31) if given.seed is None else (abs(given.seed) + number) % 2**63
    return kdtool.Request(str(number), prompt, max_tokens, tuple(given.stop), seed=seed, **{**settings, **further})


class Completion(Parameters):
    """`/v1/completions`."""

    prompt: Annotated[list[str | list[int]], Field(min_length=1, max_length=128)]
    suffix: str | None = None
    max_tokens: int = Field(16, ge=0)
    echo: bool = False
    natural_end: bool = False
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None

    @property
    def ranked_by(self) -> int | None:
        """Likeliest tokens to report per position; 0 if only those of the answers are needed, to order them."""
        return 0 if self.logprobs is None and self.n > 1 and not self.stream else self.logprobs

    @pydantic.field_validator("prompt", mode="before")
    @classmethod
    def _one_prompt(cls, given: Any) -> Any:
        prompts = given if isinstance(given, list) and not _is_ids(given) else [given]
        if not all(isinstance(prompt, str) or _is_ids(prompt) for prompt in prompts):
            raise ValueError("must be a text, a list of token ids, or a list of these")
        return prompts


def _is_ids(given: Any) -> bool:
    return isinstance(given, list) and bool(given) and all(type(each) is int and each >= 0 for each in given)


class TextPart(_Strict):
    """A part of a message's content; images and sound are refused."""

    type: Literal["text"]
    text: str


class Message(_Strict):
    """A turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: list[TextPart] = []
    name: str | None = None

    @pydantic.field_validator("content", mode="before")
    @classmethod
    def _parts(cls, given: Any) -> Any:
        if isinstance(given, str):
            return [{"type": "text", "text": given}]
        if isinstance(given, list):
            return given
        raise ValueError('must be a text or a list of parts such as {"type": "text", "text": "…"}')

    def turn(self) -> tuple[str, str]:
        """Return role and text; "developer" is OpenAI's newer name of "system"."""
        return ("system" if self.role == "developer" else self.role), "".join(part.text for part in self.content)


class Chat(Parameters):
    """`/v1/chat/completions`."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_tokens: int = Field(-1, ge=-1, validation_alias=AliasChoices("max_tokens", "n_predict"))
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    natural_end: bool = False
    logprobs: bool = False
    top_logprobs: int = Field(0, ge=0, le=20)


class Extra(_Strict):
    """A piece of another file, for `/infill`."""

    filename: str = ""
    text: str = ""


class Infill(Parameters):
    """`/infill` of llama.cpp. Greedy unless a temperature is given: editors want the likeliest text."""

    input_prefix: str = ""
    input_suffix: str = ""
    input_extra: list[Extra] = []
    prompt: str = ""
    n_predict: int = Field(-1, ge=-1)
    temperature: float = Field(0.0, ge=0, le=2)
    n_indent: int = Field(0, ge=0)
    t_max_predict_ms: int = 0
    response_fields: list[str] = []


P = TypeVar("P", bound=pydantic.BaseModel)


def parse(kind: type[P], body: bytes) -> P:
    """Return the parameters in a request's JSON body.

    Raises:
        RequestError: the body is not JSON; or a parameter is unknown or has a value that is not accepted.
    """
    try:
        return kind.model_validate_json(body)
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False)[0]
    path = ".".join(str(part) for part in first["loc"])
    if first["type"] == "json_invalid":
        raise RequestError(f"the body is not valid JSON: {first['msg'].partition(': ')[2]}")
    if first["type"] == "extra_forbidden":
        raise RequestError(f"{path}: this parameter is not supported, or not with this value; leave it out", param=path)
    message = first["msg"].removeprefix("Value error, ")
    raise RequestError(f"{path or 'body'}: {message[:1].lower()}{message[1:]}", param=path or None)


_LEAST_AROUND = 8
"""Characters around the cursor that are not shortened further."""


def shorten(
    before: str, after: str, others: Sequence[str] = (), *, reads_after: bool = True
) -> Iterator[tuple[str, str]]:
    """Yield the text before and after the cursor: whole, without the text of `others`, then ever nearer to it.

    Text after it stays whole unless the model `reads_after` the cursor.
    """
    if others:
        yield "".join(f"{other}\n\n" for other in others) + before, after
    yield before, after
    while len(before) + reads_after * len(after) > _LEAST_AROUND:
        before, after = before[(len(before) + 1) // 2 :], after[: len(after) // 2] if reads_after else after
        yield before, after
