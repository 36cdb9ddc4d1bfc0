"""A conversation as a chat template writes it, cut where answers begin and end.

The template is written whole, and up to each answer with its generation prompt, as when the model is asked: where that
ends, the answer begins; it ends with the first special token behind it. So what is learned is what the model will have to
write itself, no less and no more. `TransformersTokenizer` turns the pieces into tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import kdtool

__all__ = ["Turns", "cut"]

Turns = Sequence[tuple[str, str]]
_ANSWERING = "assistant"


def cut(
    render: Callable[[Turns, bool], str], turns: Turns, marks: Collection[str], owner: str
) -> list[tuple[str, bool]]:
    """Return the conversation's text in pieces, which together are the template's whole text, and whether each is learned.

    Args:
        render: writes turns by the template, with or without a generation prompt behind them.
        turns: roles and contents.
        marks: the special tokens, one of which ends an answer.
        owner: whose template it is, for messages.

    Raises:
        UsageError: answers cannot be located in the conversation as the template writes it.
    """
    whole = render(turns, False)
    pieces: list[tuple[str, bool]] = []
    done = 0
    for number, (role, content) in enumerate(turns):
        if role == _ANSWERING:
            asked = render(turns[:number], True)
            if not whole.startswith(asked) or len(asked) < done:
                raise _refusal(owner, f"what it writes before turn {number + 1} changes with the turns that follow")
            end = _end_of_answer(whole, len(asked), content, marks, f"{owner}: turn {number + 1}")
            pieces += [(whole[done : len(asked)], False), (whole[len(asked) : end], True)]
            done = end
    pieces.append((whole[done:], False))
    return [piece for piece in pieces if piece[0]]


def _end_of_answer(whole: str, begin: int, content: str, marks: Collection[str], owner: str) -> int:
    """Return the end of the answer that begins at `begin`, including its end token."""
    said = content.strip()
    found = whole.find(said, begin)
    if found < 0 or whole[begin:found].strip():
        raise _refusal(owner, "an answer does not follow the generation prompt as it is")
    behind = found + len(said)
    place, mark = min(
        ((place, mark) for mark in marks if (place := whole.find(mark, behind)) >= 0),
        key=lambda entry: (entry[0], -len(entry[1])),
        default=(-1, ""),
    )
    if place < 0 or whole[behind:place].strip():
        raise _refusal(owner, "no special token ends an answer, so the student would never learn to stop")
    return place + len(mark)


def _refusal(owner: str, reason: str) -> kdtool.UsageError:
    return kdtool.UsageError(f"the chat template of {owner}: {reason}")
