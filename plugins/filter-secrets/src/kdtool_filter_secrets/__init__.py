"""The filter `secrets`: rejects texts with keys, tokens or passwords.

`_rules` has the patterns to search for; `find_secret` also works outside of runs.
"""

from __future__ import annotations

from kdtool_filter_secrets._filter import SecretsFilter
from kdtool_filter_secrets._rules import RULES, find_secret

__all__ = ["RULES", "SecretsFilter", "find_secret"]
