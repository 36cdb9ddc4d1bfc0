"""Text in the form that models are trained on: conversations by a chat template, and code with a gap (infilling).

A conversation is cut where answers begin and end. The template is rendered whole, and up to each answer with its generation
prompt, as in a request to the model. An answer begins at the end of that prompt, and ends with the special token after its
text or its calls of tools. So the student learns exactly the tokens that the model has to write itself, with the reasoning
block or the channel that the template puts before the text. `TransformersTokenizer` turns the pieces into tokens.

An infilled answer loses an end that repeats the code after the gap. Light.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from os.path import commonprefix
from typing import Annotated, Any

import kdtool

Message = Mapping[str, Any]
Render = Callable[[Sequence[Message], bool], str]
"""Writes messages by a template, with or without a generation prompt after them."""
_ANSWERING = "assistant"


def cut_turns(render: Render, turns: Sequence[Message], marks: Collection[str], owner: str) -> list[tuple[str, bool]]:
    """Return the conversation's text in pieces, which together are the template's whole text, and whether each is learned.

    Where only the next turn's mark ends an answer, the last one gets it, too.

    Args:
        render: writes messages by the template.
        turns: the messages, with text as content; an answer with a `weight` is not learned.
        marks: the special tokens, one of which ends an answer.
        owner: name of the template's owner, for messages.

    Raises:
        UsageError: answers cannot be located in the conversation as the template writes it.
    """
    whole = render(turns, False)
    there = [mark for mark in marks if mark in whole]
    pieces: list[tuple[str, bool]] = []
    done = 0
    for number, message in enumerate(turns):
        if message["role"] == _ANSWERING:
            learned, is_last = "weight" not in message, number + 1 == len(turns)
            begin, opening = _begin_of_answer(render, turns[:number], whole)
            if begin < done or not _REASONING.fullmatch(opening):
                raise _refusal(owner, f"the text before turn {number + 1} changes with the turns that follow")
            if is_last and (opened := _OPENED.search(opening)):
                raise _refusal(owner, f"its prompt opens {opened[0]}, but the last answer has no reasoning: add it")
            answers = (message["content"].strip(), message["content"].rpartition(_THOUGHT)[2].strip())
            if "tool_calls" in message:
                answers = (_calls_as_written(render, turns[: number + 1], marks),) * 2
            end = _end_of_answer(whole, begin, answers, there, f"{owner}: turn {number + 1}")
            pieces += [(whole[done:begin], False), (whole[begin:end], learned)]
            done = end
            if is_last and not any(whole[:end].endswith(mark) for mark in there):
                pieces.append((_mark_of_next(render, message, marks, owner), learned))
    pieces.append((whole[done:], False))
    return [piece for piece in pieces if piece[0]]


def _begin_of_answer(render: Render, asked: Sequence[Message], whole: str) -> tuple[int, str]:
    """Return where the answer to these messages begins, and the end of their prompt that the whole text lacks there.

    Templates remove reasoning from earlier turns once a later one asks something else.
    """
    prompts = [render(asked, True)]
    if any(_REASONED & message.keys() for message in asked):
        prompts.append(
            render([{key: message[key] for key in message if key not in _REASONED} for message in asked], True)
        )
    shared = [len(commonprefix([prompt, whole])) for prompt in prompts]  # noqa: RUF071 - by characters
    begin = max(shared)
    return begin, prompts[shared.index(begin)][begin:]


_REASONING = re.compile(r"(\s|</?\w+>)*")
"""A prompt's end that an answer without reasoning may lack: a block that begins, or that is empty."""
_OPENED = re.compile(r"<(\w+)>(?!.*</\1>)", re.DOTALL)
_THOUGHT = "</think>"
_NO_END = "no special token ends an answer, so the student would never learn to stop"


def _end_of_answer(whole: str, begin: int, texts: Sequence[str], marks: Collection[str], owner: str) -> int:
    """Return the end of the answer that begins at `begin` and ends with one of `texts` and its end token.

    The end of the text may be without. Templates remove reasoning from answers that others follow.
    """
    answers = dict.fromkeys(texts)
    for answer in answers:
        start = whole.find(answer, begin)
        while start >= 0:
            after = start + len(answer)
            end, mark = min(
                ((end, mark) for mark in marks if (end := whole.find(mark, after)) >= 0),
                key=lambda entry: (entry[0], -len(entry[1])),
                default=(len(whole), ""),
            )
            if not whole[after:end].strip():
                return end + len(mark)
            start = whole.find(answer, start + 1)
    if all(answer not in whole[begin:] for answer in answers):
        raise _refusal(owner, "an answer is changed, so it cannot be found in the text")
    raise _refusal(owner, _NO_END)


def _calls_as_written(render: Render, turns: Sequence[Message], marks: Collection[str]) -> str:
    """Return the end of the last turn's calls of tools as the template writes them, up to the mark that ends the turn."""
    others = replace_texts(
        turns[-1]["tool_calls"], lambda key, text: text if key in {"id", "type", _KEY} else f"{text}x"
    )
    written, other = (
        render([*turns[:-1], {**turns[-1], "tool_calls": calls}], False) for calls in (turns[-1]["tool_calls"], others)
    )
    begin = len(commonprefix([written, other]))  # noqa: RUF071 - by characters
    return written[begin : max((at for mark in marks if (at := written.rfind(mark)) >= begin), default=None)].strip()


def _mark_of_next(render: Render, answer: Message, marks: Collection[str], owner: str) -> str:
    """Return the special token that begins a turn after an answer, for templates in which it ends the answer (GLM)."""
    plain = {key: answer[key] for key in answer if key not in _REASONED} | {"content": "b"}
    turns: list[Message] = [{"role": "user", "content": "a"}, plain]
    following = {"role": "tool" if "tool_calls" in answer else "user", "content": "a"}
    answered, after = render(turns, False), render([*turns, following], False)
    behind = after[len(answered) :].lstrip() if after.startswith(answered) else ""
    mark = max((mark for mark in marks if behind.startswith(mark)), key=len, default="")
    if not mark:
        raise _refusal(owner, _NO_END)
    return mark


_REASONED = {"reasoning_content", "thinking"}
"""Names of an answer's reasoning; the second one is that of gpt-oss."""
_KEY = "name of a key"
_WORD = "kdtool"
_TOOL = {
    "type": "function",
    "function": {"name": _WORD, "description": "", "parameters": {"type": "object", "properties": {}}},
}


def replace_texts(data: Any, replace: Callable[[str, str], str], key: str = "") -> Any:
    """Return plain data with `replace(key, text)` in place of each text."""
    if isinstance(data, Mapping):
        return {replace(_KEY, name): replace_texts(each, replace, name) for name, each in data.items()}
    if isinstance(data, list | tuple):
        return [replace_texts(each, replace, key) for each in data]
    return replace(key, data) if isinstance(data, str) else data


def require_all_written(
    render: Callable[[Sequence[Message], bool, Sequence[Message]], str],
    messages: Sequence[Message],
    tools: Sequence[Message],
    known: set[str],
    owner: str,
) -> None:
    """Refuse a template that leaves out contents or calls of messages of this shape, definitions of tools, or all reasoning.

    It is asked to write a word in place of each text, unless it is `known` to write messages of this shape.

    Raises:
        UsageError: it leaves something out, or refuses the messages.
    """
    words: dict[str, str] = {}
    expected = [(_WORD, "tools")] if tools else []

    def replace(location: str, key: str, text: str) -> str:
        if key in {"role", "type", _KEY} or not text:
            return text
        word = words.setdefault(text, f"word{len(words):05}")  # as long as Mistral's ids of calls
        if key != "id" and location.startswith(("content", "tool_calls")):
            expected.append((word, location))
        return word

    shape = [
        {key: replace_texts(value, partial(replace, f"{key} of turn {number}"), key) for key, value in message.items()}
        for number, message in enumerate(messages, 1)
    ]
    if (name := json.dumps([shape, bool(tools)])) in known:
        return
    counts, text = Counter(word for word, _ in expected), render(shape, False, [_TOOL] if tools else [])
    missing = [location for word, location in expected if text.count(word) < counts[word]]
    if any(_REASONED & message.keys() for message in shape):  # it may leave out that of earlier answers
        answer = {"role": _ANSWERING, "content": "b", **dict.fromkeys(_REASONED, _WORD)}
        text = render([{"role": "user", "content": "a"}, answer], False, [])
        missing += [] if _WORD in text else ["reasoning_content"]
    if missing:
        raise _refusal(owner, f"it leaves out {missing[0]}")
    known.add(name)


def _refusal(owner: str, reason: str) -> kdtool.UsageError:
    return kdtool.UsageError(f"the chat template of {owner}: {reason}")


FILL_ME = "<FILL_ME>"
"""Stands for missing code in a prompt, for all models; it is that of CodeLlama's tokenizer."""


@dataclass(frozen=True)
class Infilling:
    """A family's FIM tokens before, after and between (arXiv 2207.14255).

    `behind_prefix` is between the prefix token and the code before the middle. `end` is the token that ends the middle;
    "" is the end of the text. Prompts have the order prefix, suffix, middle (PSM), or with `suffix_first` that of SPM.
    """

    prefix: str
    suffix: str
    middle: str
    behind_prefix: str = ""
    end: str = ""
    suffix_first: bool = False

    @cached_property
    def tokens(self) -> tuple[str, ...]:
        """The tokens that must be in the vocabulary."""
        return tuple(token for token in (self.prefix, self.suffix, self.middle, self.end) if token)

    def writes(self, prompt: str) -> bool:
        """Return whether a whole prompt is written with these tokens, as by editors that know the model."""
        return all(mark in prompt for mark in self.tokens[:3]) and prompt.rstrip().endswith(self.middle)

    def pieces(self, before: str, middle: str, after: str, suffix_first: bool) -> list[tuple[str, str]]:
        """Return a whole text with its middle last, as (token or "", text after it): each is encoded separately.

        With `suffix_first` in the order that the paper calls SPM, variant 2: no token separates
        the code before the middle from the middle.
        """
        code = f"{self.behind_prefix}{before}"
        if suffix_first:
            return [(self.prefix, ""), (self.suffix, after), (self.middle, code), ("", middle)]
        return [(self.prefix, code), (self.suffix, after), (self.middle, middle)]


STARCODER = Infilling("<fim_prefix>", "<fim_suffix>", "<fim_middle>")
"""Also of SantaCoder, StableCode and Granite Code."""


SUFFIX_FIRST = Infilling("<spm_prefix>", "<spm_suffix>", "<spm_middle>", suffix_first=True)
"""Of vocabularies without FIM tokens: a model that has seen few gaps continues the code right before the middle."""


CODE_LLAMA = Infilling("▁<PRE>", "▁<SUF>", "▁<MID>", behind_prefix=" ", end="▁<EOT>")
"""sentencepiece writes the first word of a text with a space before it, also after a FIM token."""


FIM_FAMILIES = (
    STARCODER,
    SUFFIX_FIRST,
    CODE_LLAMA,
    Infilling("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),  # Qwen2.5-Coder, Granite from 3.3
    Infilling("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),  # DeepSeek-Coder
)


def infilling_by(prefix: str, suffix: str, middle: str) -> Infilling:
    """Return the family with these FIM tokens; an unknown one writes the prefix first."""
    known = (
        family for family in FIM_FAMILIES if (family.prefix, family.suffix, family.middle) == (prefix, suffix, middle)
    )
    return next(known, Infilling(prefix, suffix, middle))


def trim_suffix(answer: str, suffix: str, *, cut: bool = False) -> str:
    """Return an infilled answer without the suffix's beginning, if it ends by repeating that.

    The longest end of the answer that is a beginning of the suffix is a repetition if it contains a whole line of the suffix
    with a letter or a digit that is a whole line in the answer, too. Shorter ones are often the code itself: in `f(g(|))`
    the answer ends with a bracket, as the suffix begins, and between two lines with a line break; `return x` may follow
    `if y:` and, less indented, also come below. The last line of an answer that was `cut` off at its limit of tokens counts
    as whole.
    """
    begin = len(answer) - overlap(answer, suffix)
    repeated, rest = answer[begin:], suffix[len(answer) - begin :]
    lines = repeated.split("\n")
    if begin and answer[begin - 1] != "\n":
        del lines[0]  # its line in the answer begins with something else
    if not cut and rest[:1] not in ("", "\r", "\n"):
        del lines[-1:]
    return answer[:begin] if any(any(map(str.isalnum, line)) for line in lines) else answer


def overlap(text: str, suffix: str) -> int:
    """Return the length of the longest end of `text` that is a beginning of `suffix`."""
    first = max(0, len(text) - len(suffix))
    return next((len(text) - at for at in range(first, len(text)) if suffix.startswith(text[at:])), 0)


def held_back(text: str, stops: Sequence[str], suffix: str) -> int:
    """Return how many characters at the end of a growing text may still be cut from the answer.

    They begin a stop string, or repeat the suffix's beginning; an answer that ends before a stop string may repeat it there.
    """
    ends = {0, *(overlap(text, stop) for stop in stops)}
    return max(held + overlap(text[: len(text) - held], suffix) for held in ends)


FimTokens = Annotated[tuple[str, ...], kdtool.Field(min_length=3, max_length=3)]
"""The setting `fim_tokens`: the tokens to rename to FIM tokens for prefix, suffix and middle."""
