"""Token completion: how often the next token of code is predicted whole, given all tokens before it.

The file consists of tokenised code. The counts of each program are a JSON record, kept through a kill.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import kdtool
import torch
from kdtool_measuring import Item, choose, file_of, journal, make_measurement, open_for_measuring, read_lines
from kdtool_torch import eval_mode, exact_head, exact_logits, say_context, windows

from kdtool_evaluator_codexglue._lines import language_of

_KEY = "codexglue.token_completion"
_LIKE = (
    "CodeXGLUE's CodeCompletion-token/code/run_lm.py, eval_acc (there programs follow each other in blocks of 1,024 tokens, "
    "of which the first has nothing before it; here each is read from its beginning, in windows that overlap by half)"
)


@dataclass(frozen=True)
class Code:
    """A program as tokens with spaces between them, without the marks of its beginning and end."""

    id: str
    text: str


@dataclass(frozen=True)
class _Counted:
    """Number of tokens of a program, and of those where the model's likeliest token is right."""

    id: str
    correct: int
    counted: int


def codes_of(file: Path, most: int | None) -> tuple[str, Sequence[Code]]:
    """Return the language and the programs of test.txt of py150 or javaCorpus, one per line, that have a token to predict.

    Raises:
        kdtool.UsageError: the file cannot be read, or is in another form.
    """
    lines = read_lines(file, _KEY)
    programs = []
    for number, line in enumerate(lines, 1):
        tokens = line.split()
        if tokens and (tokens[0], tokens[-1]) != ("<s>", "</s>"):
            raise kdtool.UsageError(
                f"{_KEY}: {file}, line {number}: not a program between <s> and </s>; expected test.txt as "
                "CodeXGLUE's preprocess.py of token completion writes it"
            )
        if set(tokens) - SKIPPED:
            programs.append(Code(str(number), " ".join(tokens[1:-1])))
    if not programs:
        raise kdtool.UsageError(
            f"{_KEY}: {file} contains no tokens to predict; give test.txt of CodeXGLUE's token completion"
        )
    return language_of(code.text for code in programs), choose(programs, most)


def accuracy(
    run: kdtool.RunInfo, subject: kdtool.Subject, language: str, programs: Sequence[Code], settings: Mapping[str, str]
) -> Iterator[kdtool.Measurement]:
    """Yield token accuracy; nothing, with a message, if the subject gives no access to its model."""
    name = f"codexglue.{language}.token"
    with journal(file_of(run, name, subject, "counts"), _Counted, run.say) as kept:
        missing = [code for code in programs if code.id not in kept]
        if missing:
            with open_for_measuring(run, subject, name, _unfit) as runtime:
                if runtime is None or runtime.model is None:
                    return
                say_context(run, name, subject, runtime.model, [code.text for code in missing])
                head = exact_head(runtime.model.head)
                for code in missing:
                    kept.add(_Counted(code.id, *_counts(runtime.model, head, code)))
                    run.hook.kdtool_progress(run, len(kept), len(programs))
        counts = [kept[code.id] for code in programs]
    yield make_measurement(
        [Item(count.id, count.correct, count.counted) for count in counts],
        run,
        subject,
        name=f"{name}-accuracy",
        unit="fraction",
        higher_is_better=True,
        settings={**settings, "like": _LIKE},
    )


def _counts(model: kdtool.LanguageModel, head: kdtool.Head, code: Code) -> tuple[int, int]:
    tokenizer = model.tokenizer
    ids = tokenizer.encode(code.text)
    found = likeliest(model, head, ids)
    same = [one == other for one, other in zip(ids, found, strict=True)]
    return correct_tokens(code.text, tokenizer.pieces(ids), tokenizer.pieces(found), same)


def _unfit(runtime: kdtool.Runtime) -> str:
    """Say why a subject's tokens cannot be compared with those of the text; "" if they can."""
    if runtime.model is None:
        return "it does not expose the model's predictions"
    sample = "def f ( x ) : <EOL> return ' ä ' <EOL> \tx"
    tokenizer = runtime.model.tokenizer
    try:
        kept = b"".join(tokenizer.pieces(tokenizer.encode(sample))) == sample.encode("utf-8")
    except kdtool.UsageError as error:
        return str(error)
    return "" if kept else "its tokenizer changes text"


SKIPPED = frozenset({"<s>", "</s>", "<EOL>", "<pad>"})
"""Marks of the datasets that are not predicted."""


def correct_tokens(
    text: str, pieces: Sequence[bytes], predicted: Sequence[bytes], same: Sequence[bool]
) -> tuple[int, int]:
    """Count the tokens of a text that are predicted, and all that count.

    Tokens are separated by white space; those of `SKIPPED` do not count. A token is predicted if each of the model's smaller
    tokens in it is predicted given the text before, or if the prediction there begins with the token as a word. Wrong
    predictions are not fed back: whole tokens are then wrong either way, as CodeXGLUE's `eval_acc` in
    CodeCompletion-token/code/run_lm.py explains.

    Args:
        text: tokens with white space between them.
        pieces: bytes of the model's tokens of `text`, N together.
        predicted: the bytes of the likeliest token in place of each, b"" for special tokens; N.
        same: whether it is the same token; N.
    """
    ends = list(accumulate(map(len, pieces)))
    correct = counted = first = behind = 0
    for token in re.finditer(rb"\S+", text.encode("utf-8")):
        while first < len(ends) and ends[first] <= behind:
            first += 1
        last = first
        while last < len(ends) and (ends[last - 1] if last else 0) < token.end():
            last += 1
        behind = token.end()
        if token[0].decode("utf-8") in SKIPPED:
            continue
        counted += 1
        # A special token ends no word: without a mark in its place, the words around it would run together.
        words = b"".join(piece or b"\0" for piece in predicted[first:last]).split()
        correct += all(same[first:last]) or words[:1] == [token[0]]
    return correct, counted


WINDOW = 1024
"""Tokens that a model sees at once, as CodeXGLUE's `block_size`; fewer if its context is shorter."""
_HEAD_ROWS = 512


def likeliest(model: kdtool.LanguageModel, head: kdtool.Head, ids: Sequence[int]) -> list[int]:
    """Return the likeliest token in place of each of `ids`, given those before it; `head` is the model's `exact_head`.

    The first is predicted from the tokenizer's `scoring_context`. Longer texts are cut into windows that advance by half,
    and each token is predicted in the first window that contains it. No gradient; in the weights' dtype, logits in float32.
    """
    size = min(WINDOW, model.facts.context or WINDOW)
    context = model.tokenizer.scoring_context
    tokens = [*context, *ids]
    predicted: list[int] = []
    with eval_mode(model.model):
        for start, done, stop in windows(len(tokens) - 1, size, len(context) - 1):
            predicted += _in_window(model, head, tokens[start : stop + 1], done - start)
    return predicted


def _in_window(model: kdtool.LanguageModel, head: kdtool.Head, tokens: Sequence[int], done: int) -> list[int]:
    """Return the likeliest tokens in place of `tokens[1 + done:]`."""
    ids = torch.tensor([tokens], device=model.head.weight.device)
    labels = ids[:, 1:].clone()
    labels[:, :done] = -100
    positions = torch.arange(labels.shape[1], device=ids.device)[None]
    document = torch.zeros_like(positions, dtype=torch.int32)
    batch = kdtool.Batch(ids[:, :-1], positions, labels, document, ("",))
    states = model.backbone(batch, kdtool.SignalRequest()).last
    return [int(token) for rows in torch.split(states, _HEAD_ROWS) for token in exact_logits(head, rows).argmax(-1)]
