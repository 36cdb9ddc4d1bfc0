"""Token completion on a file of tokenised code: one JSON record of counts for each program, kept through a kill."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import kdtool
from kdtool_asking import file_of, journal, open_for_measuring
from kdtool_measuring import Item, choose, make_measurement, read_and_hash
from kdtool_torch import exact_head

from kdtool_evaluator_codexglue._tokens import SKIPPED, correct_tokens, language_of

__all__ = ["Code", "Codes", "accuracy", "codes_of"]

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
class Codes:
    """Programs in one language."""

    language: str
    programs: Sequence[Code]


@dataclass(frozen=True)
class _Counted:
    """Number of tokens of a program, and of those where the model's likeliest token is right."""

    id: str
    correct: int
    counted: int


def codes_of(file: Path, most: int | None) -> Codes:
    """Return the programs of test.txt of py150 or javaCorpus, one per line, that have a token to predict.

    Raises:
        kdtool.UsageError: the file cannot be read, or is in another form.
    """
    lines = read_and_hash(file, _KEY)[0].decode("utf-8", "replace").split("\n")
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
    return Codes(language_of(code.text for code in programs), choose(programs, most))


def accuracy(
    run: kdtool.RunInfo, subject: kdtool.Subject, codes: Codes, settings: Mapping[str, str]
) -> Iterator[kdtool.Measurement]:
    """Yield token accuracy; nothing, with a message, if the subject gives no access to its model."""
    name = f"codexglue.{codes.language}.token"
    with journal(file_of(run, name, subject, "counts"), _Counted, run.say) as kept:
        missing = [code for code in codes.programs if code.id not in kept]
        if missing:
            with open_for_measuring(run, subject, name, _unfit) as runtime:
                if runtime is None or runtime.model is None:
                    return
                head = exact_head(runtime.model.head)
                for code in missing:
                    kept.add(_Counted(code.id, *_counts(runtime.model, head, code)))
                    run.hook.kdtool_progress(run, len(kept))
        counts = [kept[code.id] for code in codes.programs]
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
    from kdtool_evaluator_codexglue._predictions import likeliest

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
