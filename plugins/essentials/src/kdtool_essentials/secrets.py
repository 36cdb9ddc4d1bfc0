"""The filter `secrets`: rejects texts with keys, tokens or passwords. `find_secret` also works outside of runs.

Patterns match tokens that services mark with a prefix, private keys, and random values of names such as `api_key`. The
services publish the prefixes so that secrets can be found. A rule is a pattern with the group `secret`. A match counts
only if it is random: placeholders such as `ghp_xxxxxxxx` and documented examples are not secrets.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import kdtool


class SecretsFilter(kdtool.Filter):
    """Rejects examples with a key, token or password in a published format, or a random value with such a name."""

    class Config(kdtool.Config):
        """No settings."""

    config: Config

    def kdtool_filter(self, run: kdtool.RunInfo, examples: Sequence[kdtool.Example]) -> Sequence[str | None]:
        """Return the type of the first secret in an example, or None; the secret itself is never returned."""
        return [self._filter(example.body) for example in examples]

    def _filter(self, body: kdtool.Text | kdtool.Completion | kdtool.Messages) -> str | None:
        rejected = (body.rejected,) if isinstance(body, kdtool.Preference) else ()
        return find_secret("\n".join((*kdtool.parts_of(body), *rejected)))


class Rule(NamedTuple):
    """A pattern of secrets. Every match contains one of the `hints`, in lower case.

    Texts without a hint are not searched, which is most of them.
    """

    name: str
    hints: tuple[str, ...]
    pattern: re.Pattern[str]
    bits: float = 3.0
    """Minimum entropy of the secret's characters, in bits per character."""


def _rule(name: str, hints: str, pattern: str, bits: float = 3.0) -> Rule:
    return Rule(name, tuple(hints.split()), re.compile(pattern), bits)


_WORD = r"(?<![A-Za-z0-9_-])"
_END = r"(?![A-Za-z0-9_-])"
RULES = (
    _rule(
        "private key",
        "-----begin",
        r"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----(?:(?!-----)[\s\S]){0,400}?(?P<secret>[A-Za-z0-9+/]{40,})",
        4.0,
    ),
    _rule("AWS access key", "akia asia abia acca", rf"{_WORD}(?P<secret>(?:AKIA|ASIA|ABIA|ACCA)[A-Z2-7]{{16}}){_END}"),
    _rule("GitHub token", "gh", rf"{_WORD}(?P<secret>gh[pousr]_[A-Za-z0-9]{{36,}}){_END}"),
    _rule("GitHub token", "github_pat_", rf"{_WORD}(?P<secret>github_pat_[A-Za-z0-9_]{{50,}}){_END}"),
    _rule("GitLab token", "glpat-", rf"{_WORD}(?P<secret>glpat-[A-Za-z0-9_-]{{20,}}){_END}"),
    _rule("Slack token", "xox xapp", rf"{_WORD}(?P<secret>xox[abeoprs]-(?:[A-Za-z0-9]+-)*[A-Za-z0-9]{{10,}}){_END}"),
    _rule("Slack webhook", "hooks.slack.com", r"hooks\.slack\.com/services/(?P<secret>T\w{8,}/B\w{8,}/\w{20,})"),
    _rule("Stripe key", "k_live_", rf"{_WORD}(?P<secret>[rs]k_live_[A-Za-z0-9]{{20,}}){_END}"),
    _rule("Google API key", "aiza", rf"{_WORD}(?P<secret>AIza[A-Za-z0-9_-]{{35}}){_END}"),
    _rule("Google OAuth token", "ya29. gocspx-", rf"{_WORD}(?P<secret>(?:ya29\.|GOCSPX-)[A-Za-z0-9_-]{{28,}})"),
    _rule("Anthropic key", "sk-ant-", rf"{_WORD}(?P<secret>sk-ant-[A-Za-z0-9]+-[A-Za-z0-9_-]{{20,}}){_END}"),
    _rule(
        "OpenAI key", "sk-", rf"{_WORD}(?P<secret>sk-(?:proj-|svcacct-)?[A-Za-z0-9]{{32,}}[A-Za-z0-9_-]*){_END}", 3.5
    ),
    _rule("Hugging Face token", "hf_", rf"{_WORD}(?P<secret>hf_[A-Za-z]{{34}}){_END}", 3.5),
    _rule("npm token", "npm_", rf"{_WORD}(?P<secret>npm_[A-Za-z0-9]{{36}}){_END}"),
    _rule("PyPI token", "pypi-", rf"{_WORD}(?P<secret>pypi-AgEIcHlwaS[A-Za-z0-9_-]{{50,}})"),
    _rule("SendGrid key", "sg.", rf"{_WORD}(?P<secret>SG\.[A-Za-z0-9_-]{{22}}\.[A-Za-z0-9_-]{{43}}){_END}"),
    _rule("Twilio key", "sk", rf"{_WORD}(?P<secret>SK[0-9a-f]{{32}}){_END}"),
    _rule("Telegram token", ":aa", rf"{_WORD}(?P<secret>[0-9]{{8,10}}:AA[A-Za-z0-9_-]{{33}}){_END}"),
    _rule(
        "JSON web token",
        "eyj",
        rf"{_WORD}(?P<secret>eyJ[A-Za-z0-9_-]{{15,}}\.eyJ[A-Za-z0-9_-]{{15,}}\.[A-Za-z0-9_-]{{20,}})",
        4.0,
    ),
    _rule(
        "password in a URL",
        "://",
        r"[a-z][a-z0-9+.-]{1,15}://[^\s:/@'\"]{1,60}:"
        r"(?P<secret>(?=[^@]*\d)(?=[^@]*[A-Za-z])[^\s:/@'\"{}<>$%*]{8,100})@[\w.-]+",
        2.75,
    ),
    _rule(
        "secret value",
        "key token secret passw",
        r"(?i:(?:api|access|auth|private|secret|client|encryption)[_-]?(?:key|token|secret)|passw(?:or)?d|secret)['\"]?\s*"
        r"(?::\s*\w+\s*)?(?:=|:|=>|:=)\s*['\"](?P<secret>(?=[^'\"]*\d)(?=[^'\"]*[A-Za-z])[A-Za-z0-9+/_=-]{20,200})['\"]",
        3.7,
    ),
)
"""In the order in which they are tried."""
_PLACEHOLDER = re.compile(
    r"(?i)example|placeholder|your[_-]|changeme|dummy|sample|redacted|x{5}|0{8}|12345678|abcdefgh"
)


def find_secret(text: str) -> str | None:
    """Return the name of the first rule that finds a secret in a text, or None."""
    lower = text.lower()
    for rule in RULES:
        if any(hint in lower for hint in rule.hints):
            for match in rule.pattern.finditer(text):
                if _is_random(match["secret"], rule.bits):
                    return rule.name
    return None


def _is_random(secret: str, bits: float) -> bool:
    return not _PLACEHOLDER.search(secret) and _entropy(secret) >= bits


def _entropy(text: str) -> float:
    """Return the Shannon entropy of the characters, in bits per character."""
    return -sum(count / len(text) * math.log2(count / len(text)) for count in Counter(text).values())
