"""Rendering of chat templates in a limited process. Run as a module, this file is that process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kdtool_transformers.limits import LimitedProcess, answer_questions

_LONGEST = 16_000_000
"""Characters of a rendered conversation."""


_PROCESS = LimitedProcess(__name__, seconds=5, megabytes=512)
"""A template of a published model takes less than a millisecond."""


def render_template(messages: Sequence[Mapping[str, Any]], **settings: Any) -> str:
    """Return a conversation as transformers renders it with these settings, `chat_template` among them.

    Raises:
        ValueError: the template refuses the messages, or exceeds a limit.
    """
    answer = _PROCESS.ask(conversations=[messages], **settings)
    if "text" not in answer:
        raise ValueError(answer["error"])
    return str(answer["text"])


def _render(**question: Any) -> dict[str, Any]:
    ((text,), _) = render_jinja_template(**question)
    return {"text": text} if len(text) <= _LONGEST else {"error": f"it writes more than {_LONGEST:,} characters"}


if __name__ == "__main__":
    from transformers.utils.chat_template_utils import render_jinja_template

    answer_questions(_render)
