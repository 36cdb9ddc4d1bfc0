"""The filter `secrets`: the suite of filters, what each rule finds, and what none does."""

from __future__ import annotations

import random
import string
import sysconfig
from collections.abc import Sequence
from pathlib import Path

import kdtool
import pytest
from kdtool_essentials.secrets import RULES, SecretsFilter, find_secret
from kdtool_testing import FilterConformance, make_run

ALNUM = string.ascii_letters + string.digits
UPPER = string.ascii_uppercase + "234567"
HEX = "0123456789abcdef"


def drawn(seed: int, length: int, alphabet: str = ALNUM) -> str:
    """Return random characters, so that no file holds anything in the form of a secret."""
    return "".join(random.Random(seed).choices(alphabet, k=length))


def secrets_of(seed: int) -> dict[str, str]:
    def more(length: int, alphabet: str = ALNUM) -> str:
        return drawn(seed + length, length, alphabet)

    lines = "\n".join(more(64) for _ in range(3))
    return {
        "private key": "-----BEGIN " + f"RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\n{lines}\n-----END",
        "AWS access key": "AK" + "IA" + more(16, UPPER),
        "GitHub token": "gh" + "p_" + more(36),
        "GitLab token": "gl" + "pat-" + more(20),
        "Slack token": "xo" + f"xb-{more(12, string.digits)}-{more(24)}",
        "Slack webhook": "https://hooks." + f"slack.com/services/T{more(9, UPPER)}/B{more(10, UPPER)}/{more(24)}",
        "Stripe key": "sk_" + "live_" + more(24),
        "Google API key": "AI" + "za" + more(35),
        "Google OAuth token": "GOC" + "SPX-" + more(28),
        "Anthropic key": "sk-" + "ant-api03-" + more(90),
        "OpenAI key": "sk-" + more(48),
        "Hugging Face token": "h" + "f_" + more(34, string.ascii_letters),
        "npm token": "np" + "m_" + more(36),
        "PyPI token": "py" + "pi-AgEIcHlwaS" + more(80),
        "SendGrid key": "S" + f"G.{more(22)}.{more(43)}",
        "Twilio key": "S" + "K" + more(32, HEX),
        "Telegram token": more(9, "123456789") + ":" + "AA" + more(33),
        "JSON web token": "ey" + f"J{more(20)}.eyJ{more(60)}.{more(43)}",
        "password in a URL": "postgres://app:" + more(16) + "7a@db.internal/app",
        "secret value": f'api_key = "{more(39)}7a"',
    }


class TestSecrets(FilterConformance):
    component = SecretsFilter
    entry_point = "secrets"

    def examples(self) -> tuple[Sequence[kdtool.Example], Sequence[kdtool.Example]]:
        token = secrets_of(0)["GitHub token"]
        talk = kdtool.Messages((("user", f"Why is {token} refused?"), ("assistant", "It is revoked.")))
        pair = kdtool.Preference("Log in.", "login()", f"login({token!r})")
        kept = [kdtool.Example("a", kdtool.Text("token = read_token()"))]
        return kept, [kdtool.Example("b", talk), kdtool.Example("c", pair)]


def test_every_rule_has_a_case() -> None:
    assert {rule.name for rule in RULES} == set(secrets_of(0))


@pytest.mark.parametrize("name", list(secrets_of(0)))
@pytest.mark.parametrize("seed", range(20))
def test_a_secret_is_found_wherever_it_stands(name: str, seed: int) -> None:
    secret = secrets_of(1000 * seed)[name]
    assert find_secret(f"before\n  value: {secret}\nafter") == name
    assert find_secret(f"print({secret!r})") is not None or '"' in secret


@pytest.mark.parametrize(
    "text",
    [
        "AKIAIOSFODNN7" + "EXAMPLE",
        "ghp_" + "x" * 36,
        'api_key = "YOUR_API_KEY_GOES_HERE_1"',
        "-----BEGIN RSA PRIVATE KEY-----\n...\n-----END RSA PRIVATE KEY-----",
        'if line.startswith("-----BEGIN PRIVATE KEY-----"): raise ValueError',
        "http://user:password@example.com/",
        "https://user:{password1}@host/",
        'password = getpass("Your password, please: ")',
        "sha256 = '9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08'",
        "secret_key = os.environ['SECRET_KEY']",
    ],
)
def test_placeholders_and_code_about_secrets_are_kept(text: str) -> None:
    assert find_secret(text) is None


def test_the_standard_library_holds_none() -> None:
    library = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    assert len(library) > 100
    found = {path.name: find_secret(path.read_text("utf-8", errors="replace")) for path in library}
    assert not {name: secret for name, secret in found.items() if secret}


def test_the_secret_is_not_in_the_reason(tmp_path: Path) -> None:
    for secret in secrets_of(3).values():
        (reason,) = SecretsFilter(SecretsFilter.Config()).kdtool_filter(
            make_run(tmp_path), [kdtool.Example("a", kdtool.Text(secret))]
        )
        assert reason
        assert reason in {rule.name for rule in RULES}
