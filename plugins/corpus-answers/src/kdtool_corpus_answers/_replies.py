"""Ask a chat model for code, and extract from its reply the code that completes the prompt."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import kdtool
from kdtool_asking import Templates, Turns

from kdtool_corpus_answers._prompts import Prompt

__all__ = ["Replies"]

_NAME = "template"
_FENCES = ("```", "~~~")


class Replies:
    """Requests for code in a chat, by a template, and the completions in the replies.

    Args:
        template: the recipe's own template; None for the one that comes with the package.
    """

    def __init__(self, template: Path | None) -> None:
        files = {} if template is None else {_NAME: template}
        shipped = Path(__file__).with_name("templates")
        self._templates = Templates(shipped, files, {"prompt", "language"}, key="answers.")

    @cached_property
    def version(self) -> str:
        """The template's name with a digest of its text.

        Raises:
            UsageError: the template cannot be read, or uses an unknown variable.
        """
        return str(self._templates.find(_NAME))

    def turns(self, prompt: Prompt) -> Turns:
        """Return the conversation that asks for a completion of the prompt.

        Raises:
            UsageError: the template fails on the prompt.
        """
        return self._templates.render(_NAME, {"prompt": prompt.text.rstrip(), "language": prompt.language})

    def completion(self, prompt: Prompt, answer: kdtool.TextAnswer) -> str:
        """Return the code of a reply that continues the prompt; "" if there is none.

        Python parses together with its prompt. Code in other languages must be in a fenced block.
        """
        from kdtool_programs import code_of, completed_names, continuation_of

        python = prompt.language == "python"
        if not python and not any(fence in answer.text for fence in _FENCES):
            return ""
        names = completed_names(prompt.text) if python else ()
        code = code_of(answer.text, continues=False, names=names)
        return continuation_of(prompt.text, code, prompt.language)
