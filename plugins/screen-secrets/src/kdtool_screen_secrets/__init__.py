"""The screen `secrets`: no texts with keys, tokens or passwords.

`_rules` holds the forms that are looked for; `find_secret` serves without kdtool's runs.
"""

from __future__ import annotations

from kdtool_screen_secrets._rules import RULES, find_secret
from kdtool_screen_secrets._screen import SecretsScreen

__all__ = ["RULES", "SecretsScreen", "find_secret"]
