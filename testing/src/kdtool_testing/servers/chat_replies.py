"""For tests: replies as chat models write them, with a given solution of a prompt in Python."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from textwrap import dedent, indent

UNUSABLE_REPLIES: Mapping[str, str] = {
    "refusal": "I'm sorry, but I can't help with that.",
    "one word": "Sorry",
    "empty": "",
    "prose": "You could loop over the numbers, keep the largest one, and return it at the end.",
    "shell": "First install what you need:\n\n```bash\npip install numpy\n```\n\nThen it works.",
    "stub": "```python\npass  # your code here\n```",
    "broken": "```python\nreturn (1 +\n```",
}
"""Replies without code that completes a function, by their kind."""
_FENCE = "```"


def chat_replies(prompt: str, body: str) -> Mapping[str, str]:
    """Return replies to a request to complete a Python function, by their form; each contains the same solution.

    Args:
        prompt: ends with the function's signature and documentation.
        body: the function's body, indented to continue the prompt.
    """
    whole = f"{prompt.rstrip()}\n{body.rstrip()}\n"
    function = ast.parse(whole).body[-1]
    name = getattr(function, "name", "")
    fenced = f"{_FENCE}python\n{whole}{_FENCE}\n"
    usage = (
        f"{_FENCE}python\nresult = {name}\nprint(result)\n{_FENCE}\n\nIt prints:\n\n{_FENCE}\n<function>\n{_FENCE}\n"
    )
    return {
        "plain": whole,
        "fence": fenced,
        "prose": f"Certainly! Here's the completed function:\n\n{fenced}\nLet me know if you have questions.",
        "prose without fence": f"Sure, here it is.\n\n{whole}\nThis works because it follows the description.",
        "no label": f"The function:\n\n{_FENCE}\n{whole}{_FENCE}",
        "body": f"Add this body:\n\n{_FENCE}python\n{body.rstrip()}\n{_FENCE}",
        "body at the margin": f"Add this body:\n\n{_FENCE}python\n{dedent(body).rstrip()}\n{_FENCE}",
        "without documentation": f"{_FENCE}py\n{_without_documentation(whole, body)}{_FENCE}",
        "several blocks": f"First the function:\n\n{fenced}\nThen call it:\n\n{usage}",
        "import apart": f"You need an import:\n\n{_FENCE}python\nimport math\n{_FENCE}\n\nThe function:\n\n{fenced}",
        "tests behind": f"{_FENCE}python\n{whole}\n\nif __name__ == '__main__':\n    print({name})\n{_FENCE}",
        "thoughts": f"<think>\nLet me see:\n{_FENCE}python\ndef {name}(): pass\n{_FENCE}\n</think>\n{fenced}",
        "list": f"1. The code:\n\n{indent(fenced, '   ')}\n2. Done.",
        "tildes": f"~~~python\n{whole}~~~\n",
        "unclosed": f"Of course!\n\n{_FENCE}python\n{whole}",
        "alternative": f"{fenced}\nOr, shorter but slower:\n\n{_FENCE}python\ndef {name}(*args):\n    ...\n{_FENCE}",
    }


def _without_documentation(whole: str, body: str) -> str:
    """Return a module whose last function has its signature and body, but not its documentation."""
    function = ast.parse(whole).body[-1]
    first = function.body[0]  # type: ignore[attr-defined] # a function, by `chat_replies`
    if not (isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)):
        return whole
    return "\n".join([*whole.split("\n")[: first.lineno - 1], body.rstrip(), ""])
