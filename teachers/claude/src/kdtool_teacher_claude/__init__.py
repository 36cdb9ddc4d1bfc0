"""Teacher plugin `claude`: Anthropic's models through the Messages API, paid within a budget.

`Claude` is the teacher. `_requests` turns prompts into bodies and messages into answers, `_prices` prices them, `_client`
sends, `_limiter` decides when, `_messages` and `_batches` are the two ways to ask, `_estimate` forecasts money for
`kdtool check`, `_progress` shows it while a run asks. The SDK loads when something is asked.
"""

from __future__ import annotations

from kdtool_teacher_claude._teacher import Claude

__all__ = ["Claude"]
