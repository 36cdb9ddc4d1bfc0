"""Refuse conversations that a teacher would read in another chat template than it was tuned on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from kdtool._contract.data import Example, Messages, Row
from kdtool._contract.tokenizer import Tokenizer
from kdtool._errors import UsageError
from kdtool._recipe.model import PhaseSpec
from kdtool._run.context import Context
from kdtool._run.stages.terms import plain_terms, teachers_of_terms

Render = Callable[[Example, Tokenizer], Iterable[Row]]


def other_templates(context: Context, phase: PhaseSpec, learner: str) -> dict[str, Tokenizer]:
    """Return the tokenizers of teachers that read the student's tokens and have another chat template, by teacher."""
    own = context.tokenizer_part(learner).get("chat template")
    asked = teachers_of_terms(plain_terms(context.assembly, phase))
    readers = [name for name in asked if (known := context.vocabularies.get(name)) and known.comparable]
    templates = {name: context.tokenizer_part(name).get("chat template") for name in readers}
    return {name: context.tokenizer_of(name) for name, template in templates.items() if template and template != own}


def refuse_other_templates(
    examples: Iterable[Example], tokenizer: Tokenizer, others: Mapping[str, Tokenizer], render: Render
) -> Iterator[Example]:
    """Yield the examples; the first conversation must have the same tokens in the templates of `others`.

    Raises:
        UsageError: it has not, for the teacher that is named.
    """
    unchecked = dict(others)
    for example in examples:
        if unchecked and isinstance(example.body, Messages):
            expected = _tokens(render, example, tokenizer)
            for teacher in [name for name, other in unchecked.items() if _tokens(render, example, other) != expected]:
                raise UsageError(
                    f"rows: conversation {example.id!r} has other tokens in the chat template of {teacher} than in the "
                    f"student's, so {teacher} would score text in a form that it was not tuned on; give both models one "
                    "template (chat_template.jinja), or set `rows.conversations: plain`"
                )
            unchecked = {} if expected else unchecked
        yield example


def _tokens(render: Render, example: Example, tokenizer: Tokenizer) -> list[list[int]]:
    return [list(row.input_ids) for row in render(example, tokenizer)]
