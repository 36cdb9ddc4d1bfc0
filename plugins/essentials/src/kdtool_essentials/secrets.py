"""The filter `secrets`: rejects texts with keys, tokens or passwords. `find_secret` also works outside of runs.

The forms of keys follow gitleaks' rules (https://github.com/gitleaks/gitleaks, MIT), with minimum lengths, since services
lengthen their keys. A match counts only if its group `secret` is random: words, placeholders and documented examples are
not secrets.
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
    """A pattern of secrets. Every match contains one of the `hints`; texts without a hint are not searched."""

    name: str
    hints: tuple[str, ...]
    pattern: re.Pattern[str]
    words: bool
    """True if words match, too: matches with as many frequent pairs of letters as words have do not count."""


def _rule(name: str, hints: str, pattern: str, words: bool = False) -> Rule:
    return Rule(name, tuple(hints.split()), re.compile(pattern, re.ASCII), words)


def _prefix_rule(name: str, prefixes: str, rest: str, words: bool = False) -> Rule:
    marks = "|".join(map(re.escape, prefixes.split()))
    return _rule(name, prefixes, rf"(?<![\w-])(?:{marks})(?P<secret>{rest})", words)


_PEM = r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----(?:(?!-----)[\s\S]){0,400}?(?P<secret>[A-Za-z0-9+/]{40,})"
_URL = (
    r"[a-z][a-z0-9+.-]{1,15}://[^\s:/@'\"]{1,60}:"
    r"(?P<secret>(?=[^\s@]*\d)(?=[^\s@]*[A-Za-z])[^\s:/@'\"{}<>$%*]{8,100})@[\w.-]+"
)
_KEYS = "access account api app auth client consumer encryption jwt master private secret service sign signing storage"
_VALUE = (
    rf"(?:(?:key|Key|KEY)(?:{'|'.join(f'(?<=(?i:{word}{dash}key))' for word in _KEYS.split() for dash in ('', '[_-]'))})"
    r"|(?:token|Token|TOKEN)(?<!(?i:keytoken))|secret|Secret|SECRET|passw(?:or)?d|Passw(?:or)?d|PASSW(?:OR)?D)"
    r"(?:_base|_BASE)?['\"\])\\]*+(?:(?:[: \t][\w \t\[\]|.]*+(?==))?[ \t]*+(?:=>|[:.?]{0,3}=|[:>])\s*"
    r"|(?<=['\"]),\s*(?=['\"][^'\"]*['\"]\s*\)))\\*+['\"`]?"
    r"(?P<secret>(?![\w+/-]*(?i:public|private|passw|secret|token|_key))(?=[\d-]*[A-Za-z_+/])[\w+/-]{16,200}+={0,2})"
    r"(?=['\"`\s;,)}<&\\]|$)"
)
RULES = (
    _rule("private key", "-----BEGIN", _PEM),
    _prefix_rule("AWS access key", "AKIA ASIA ABIA ACCA", r"[A-Z2-7]{16}(?![\w-])"),
    _prefix_rule("GitHub token", "ghp_ gho_ ghu_ ghs_ ghr_ github_pat_", r"\w{36,}"),
    _prefix_rule(
        "GitLab token", "glpat- gldt- glrt- glptt- glcbt- glft- glimt- glagent- gloas- glsoat-", r"[\w-]{20,}"
    ),
    _prefix_rule("Slack token", "xoxa- xoxb- xoxe- xoxe. xoxo- xoxp- xoxr- xoxs- xapp-", r"[\w-]{20,}"),
    _rule("Slack webhook", "hooks.slack.com", r"hooks\.slack\.com/services/(?P<secret>T\w{8,}/B\w{8,}/\w{20,})"),
    _prefix_rule("Stripe key", "sk_live_ rk_live_ sk_test_ rk_test_ whsec_", r"[A-Za-z0-9]{20,}"),
    _prefix_rule("Google API key", "AIza", r"[\w-]{35}(?![\w-])"),
    _prefix_rule("Google OAuth token", "ya29. GOCSPX-", r"[\w-]{28,}"),
    _prefix_rule("Anthropic key", "sk-ant-", r"[\w-]{28,}"),
    _prefix_rule("OpenAI key", "sk-", r"[\w-]{32,}", words=True),
    _prefix_rule("key of a model service", "gsk_ pplx- xai- r8_ nvapi-", r"[\w-]{32,}", words=True),
    _prefix_rule("Hugging Face token", "hf_ api_org_", r"[A-Za-z0-9]{34,}"),
    _prefix_rule("npm token", "npm_", r"[A-Za-z0-9]{36,}"),
    _prefix_rule("PyPI token", "pypi-AgE", r"[\w-]{50,}"),
    _prefix_rule("SendGrid key", "SG.", r"[\w-]{22}\.[\w-]{43}"),
    _prefix_rule("Twilio key", "SK", r"[0-9a-f]{32}(?![\w-])"),
    _prefix_rule("cloud token", "dop_v1_ doo_v1_ dor_v1_ dapi", r"[0-9a-f]{32,}"),
    _prefix_rule("Django key", "django-insecure-", r"[^\s'\"]{40,}"),
    _rule("Telegram token", ":AA", r"(?<![\w-])[0-9]{8,10}:(?P<secret>AA[\w-]{33})(?![\w-])"),
    _prefix_rule("JSON web token", "eyJ", r"[\w-]{15,}\.eyJ[\w-]{15,}\.[\w-]{20,}"),
    _rule("password in a URL", "://", _URL),
    _rule("bearer token", "earer EARER", r"(?:[Bb]earer|BEARER)\s+(?P<secret>[\w.~+/-]{20,}+)", words=True),
    _rule("secret value", "ey oken ecret assw EY OKEN ECRET ASSW", _VALUE, words=True),
)
"""In the order in which they are tried."""
_PLACEHOLDER = re.compile(
    r"(?i)example|placeholder|your[_-]|changeme|dummy|sample|redacted|x{5}|0{8}|12345678|abcdefgh"
)
_PAIRS = (  # most frequent in words of Python's standard library
    "ab ac ad ai al am an ap ar as at be ca ce ch cl co ct de di ea ec ed ee ef el em en ep er es et ex fi fo ge ha he ho "
    "ic id ig il im in io is it ke la le li ll lo ly ma me mp na nc nd ne ng ni no ns nt od ol om on op or ot ou pa pe pl "
    "po pr ra re ri ro rr rs rt se si so ss st su ta te th ti to tr ts tu ty ue ul un ur us ut va ve"
)


def find_secret(text: str) -> str | None:
    """Return the name of the first rule that finds a secret in a text, or None."""
    for rule in RULES:
        if any(hint in text for hint in rule.hints):
            for match in rule.pattern.finditer(text):
                if _is_random(match["secret"], rule.words):
                    return rule.name
    return None


def _is_random(secret: str, words: bool) -> bool:
    bits = -sum(count / len(secret) * math.log2(count / len(secret)) for count in Counter(secret).values())
    pairs = re.findall(r"(?=([a-z0-9]{2}))", secret.lower()) if words else ()
    is_text = 2 * sum(pair in _PAIRS for pair in pairs) > len(pairs)
    return bits >= 2.7 and not is_text and not _PLACEHOLDER.search(secret)
