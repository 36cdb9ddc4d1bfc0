"""The filter `secrets`: no texts with keys, tokens or passwords.

`_rules` holds the forms that are looked for; `find_secret` serves without kdtool's runs.
"""

from __future__ import annotations

from kdtool_filter_secrets._filter import SecretsFilter
from kdtool_filter_secrets._rules import RULES, find_secret

__all__ = ["RULES", "SecretsFilter", "find_secret"]
