"""A conversation as a chat template writes it, cut where answers begin and end.

The template is rendered whole, and up to each answer with its generation prompt, as in a request to the model. An answer
begins at the end of that prompt, and ends with the first special token after it. So the student learns exactly the tokens
that the model has to write itself. `TransformersTokenizer` turns the pieces into tokens.
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
        render: writes turns by the template, with or without a generation prompt after them.
        turns: roles and contents.
        marks: the special tokens, one of which ends an answer.
        owner: name of the template's owner, for messages.

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
                raise _refusal(owner, f"the text before turn {number + 1} changes with the turns that follow")
            end = _end_of_answer(whole, len(asked), content, marks, f"{owner}: turn {number + 1}")
            pieces += [(whole[done : len(asked)], False), (whole[len(asked) : end], True)]
            done = end
    pieces.append((whole[done:], False))
    return [piece for piece in pieces if piece[0]]


def _end_of_answer(whole: str, begin: int, content: str, marks: Collection[str], owner: str) -> int:
    """Return the end of the answer that begins at `begin`, including its end token."""
    answer = content.strip()
    start = whole.find(answer, begin)
    if start < 0 or whole[begin:start].strip():
        raise _refusal(owner, "an answer does not follow the generation prompt as it is")
    after = start + len(answer)
    end, mark = min(
        ((end, mark) for mark in marks if (end := whole.find(mark, after)) >= 0),
        key=lambda entry: (entry[0], -len(entry[1])),
        default=(-1, ""),
    )
    if end < 0 or whole[after:end].strip():
        raise _refusal(owner, "no special token ends an answer, so the student would never learn to stop")
    return end + len(mark)


def _refusal(owner: str, reason: str) -> kdtool.UsageError:
    return kdtool.UsageError(f"the chat template of {owner}: {reason}")
