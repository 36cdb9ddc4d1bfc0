"""The filter `secrets`: the suite of filters, what each rule finds, and what none does."""

from __future__ import annotations

import base64
import json
import random
import string
import sysconfig
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import kdtool
import pytest
from kdtool_essentials.secrets import RULES, SecretsFilter, find_secret
from kdtool_testing import FilterConformance, make_run

ALNUM = string.ascii_letters + string.digits
UPPER = string.ascii_uppercase + "234567"
HEX = "0123456789abcdef"
URL = ALNUM + "-_"
BASE64 = ALNUM + "+/"
OPENAI = "T3Blbk" + "FJ"


def secrets_of(seed: int) -> dict[str, dict[str, str]]:
    """Return a random text of each form, by rule; prefixes are in two parts, so that this file contains no secret."""
    draw = random.Random(seed)

    def more(length: int, alphabet: str = ALNUM) -> str:
        return "".join(draw.choices(alphabet, k=length))

    def claims(**values: object) -> str:
        return base64.urlsafe_b64encode(json.dumps(values, separators=(",", ":")).encode()).decode().rstrip("=")

    lines = "\n".join(more(64, BASE64) for _ in range(3))
    return {
        "private key": {
            kind: "-----BEGIN " + f"{kind} KEY-----\nProc-Type: 4,ENCRYPTED\n\n{lines}\n-----END"
            for kind in ("PRIVATE", "RSA PRIVATE", "OPENSSH PRIVATE")
        }
        | {"PGP": "-----BEGIN " + f"PGP PRIVATE KEY BLOCK-----\r\n\r\n{lines}\r\n-----END"}
        | {"escaped": '"-----BEGIN ' + 'EC PRIVATE KEY-----\\n{}\\n"'.format(lines.replace("\n", "\\n"))},
        "AWS access key": {mark: mark + "IA" + more(16, UPPER) for mark in ("AK", "AS")},
        "GitHub token": {mark: "gh" + f"{mark}_{more(36)}" for mark in "pousr"}
        | {"fine-grained": "github" + f"_pat_{more(22)}_{more(59)}"},
        "GitLab token": {mark: "gl" + f"{mark}-{more(20, URL)}" for mark in ("pat", "rt", "dt", "ptt")}
        | {"routable": "gl" + f"pat-{more(27, URL)}.01.{more(7, HEX)}"},
        "Slack token": {
            "bot": "xo" + f"xb-{more(12, string.digits)}-{more(12, string.digits)}-{more(24)}",
            "user": "xo" + f"xp-{more(12, string.digits)}-{more(12, string.digits)}-{more(32, HEX)}",
            "app": "xa" + f"pp-1-A{more(10, UPPER)}-{more(13, string.digits)}-{more(64, HEX)}",
        },
        "Slack webhook": {"": "https://hooks." + f"slack.com/services/T{more(9, UPPER)}/B{more(10, UPPER)}/{more(24)}"},
        "Stripe key": {mark: f"{mark}_" + more(24) for mark in ("sk_live", "rk_live", "sk_test", "whsec")}
        | {"long": "sk_" + "live_" + more(99)},
        "Google API key": {"": "AI" + "za" + more(35, URL)},
        "Google OAuth token": {"": "GOC" + "SPX-" + more(28, URL)},
        "Anthropic key": {mark: "sk-" + f"ant-{mark}-{more(93, URL)}AA" for mark in ("api03", "admin01")},
        "OpenAI key": {
            mark: "sk-" + f"{mark}-{more(length, URL)}{OPENAI}{more(length, URL)}"
            for mark, length in (("proj", 74), ("svcacct", 74), ("admin", 58))
        }
        | {"old": "sk-" + more(20) + OPENAI + more(20), "old project": "sk-" + f"proj-{more(20)}{OPENAI}{more(20)}"}
        | {"48": "sk-" + more(48), "DeepSeek": "sk-" + more(32, HEX), "OpenRouter": "sk-" + "or-v1-" + more(64, HEX)},
        "key of a model service": {
            "Groq": "gs" + "k_" + more(52),
            "Perplexity": "pp" + "lx-" + more(48),
            "xAI": "xa" + "i-" + more(80),
            "Replicate": "r" + "8_" + more(37),
            "NVIDIA": "nv" + "api-" + more(64, URL),
        },
        "Hugging Face token": {"": "h" + "f_" + more(34, string.ascii_letters)},
        "npm token": {"": "np" + "m_" + more(36)},
        "PyPI token": {"": "py" + "pi-AgEIcHlwaS5vcmc" + more(150, URL)},
        "SendGrid key": {"": "S" + f"G.{more(22, URL)}.{more(43, URL)}"},
        "Twilio key": {"": "S" + "K" + more(32, HEX)},
        "cloud token": {"DigitalOcean": "do" + "p_v1_" + more(64, HEX), "Databricks": "da" + "pi" + more(32, HEX)},
        "Django key": {
            "": "django-" + "insecure-" + more(50, string.ascii_lowercase + string.digits + "!@#$%^&*(-_=+)")
        },
        "Telegram token": {"": more(9, "123456789") + ":" + "AA" + more(33, URL)},
        "JSON web token": {
            "": ".".join(
                (claims(alg="HS256", typ="JWT"), claims(sub=more(10, string.digits), name=more(8)), more(43, URL))
            )
        },
        "password in a URL": {"": "postgres://app:" + more(14) + "7a@db.internal/app"},
        "bearer token": {
            "header": f'headers = {{"Authorization": "Bearer {more(40)}"}}',
            "curl": f"curl -H 'Authorization: Bearer {more(32)}' https://host",
            "hex": f"authorization: bearer {more(40, HEX)}",
        },
        "secret value": {
            "env": f"SECRET_KEY={more(40)}",
            "env 24": f"MY_API_TOKEN={more(24)}",
            "env export": f"export WEATHER_API_KEY={more(32, HEX)}",
            "env base": f"SECRET_KEY_BASE={more(64, HEX)}",
            "ini": f"aws_secret_access_key = {more(40, BASE64)}",
            "yaml": f"client_secret: {more(32)}",
            "yaml hex": f"api_key: {more(32, HEX)}",
            "json": f'{{"accessToken": "{more(32)}"}}',
            "json in a string": f'"{{\\"apiKey\\": \\"{more(32)}\\"}}"',
            "environ": f'os.environ["AWS_SECRET_ACCESS_KEY"] = "{more(40, BASE64)}"',
            "environ, single quotes": f"os.environ['API_KEY'] = '{more(32)}'",
            "call": f'System.setProperty("API_TOKEN", "{more(32)}")',
            "argument": f'Client(api_key="{more(32)}")',
            "annotated": f'token: str | None = "{more(40)}"',
            "hex 32": f'api_key = "{more(32, HEX)}"',
            "hex 40": f'auth_token = "{more(40, HEX)}"',
            "hex 64": f'private_key = "0x{more(64, HEX)}"',
            "Go": f"apiToken := `{more(32)}`",
            "Go, typed": f'var apiToken string = "{more(32)}"',
            "PHP": f"'apiToken' => '{more(32)}',",
            "make": f"API_TOKEN ?= {more(32)}",
            "XML": f"<apiToken>\n    {more(32)}\n</apiToken>",
            "query": f"https://host/?access_token={more(32)}&page=2",
            "Azure": f"AccountName=x;AccountKey={more(86, BASE64)}==;EndpointSuffix=core",
        },
    }


class TestSecrets(FilterConformance):
    component = SecretsFilter
    entry_point = "secrets"

    def examples(self) -> tuple[Sequence[kdtool.Example], Sequence[kdtool.Example]]:
        token = secrets_of(0)["GitHub token"]["p"]
        talk = kdtool.Messages((("user", f"Why is {token} refused?"), ("assistant", "It is revoked.")))
        pair = kdtool.Preference("Log in.", "login()", f"login({token!r})")
        kept = [kdtool.Example("a", kdtool.Text("token = read_token()"))]
        return kept, [kdtool.Example("b", talk), kdtool.Example("c", pair)]


def test_every_rule_has_a_case() -> None:
    assert {rule.name for rule in RULES} == set(secrets_of(0))


def test_all_of_a_hundred_secrets_of_each_form_are_found() -> None:
    missed = Counter(
        (name, form, find_secret(secret))
        for seed in range(100)
        for name, texts in secrets_of(seed).items()
        for form, secret in texts.items()
        if find_secret(f"x = 1\n  {secret}\ny = 2") != name
    )
    assert not missed


@pytest.mark.parametrize("name", list(secrets_of(0)))
def test_a_secret_is_found_wherever_it_stands(name: str) -> None:
    for secret in secrets_of(1)[name].values():
        for text in (secret, f"print('{secret}')", f"x={secret};", f"<b>{secret}</b>", f"- {secret}\r\n"):
            assert find_secret(text) is not None, text


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
        "secret_key=aws_secret_access_key_v2_or_none,",
        "token: transformers.PreTrainedTokenizerFast",
        "token = Name.Builtin.Pseudo",
        'tokens = ["MLKEM768X25519PrivateKey", "sodium_crypto_box_publickey"]',
        'cache_key = "9f86d081884c7d659a2feaa0c55ad015"',
        'PublicKeyToken="b77a5c561934e089"',
        'headers = {"Authorization": f"Bearer {token}"}',
        "class='sk-estimator-doc-link-fitted-parameters-table'",
        "token: 2024-01-01-12-00-00-00",
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
    for secret in (text for texts in secrets_of(3).values() for text in texts.values()):
        (reason,) = SecretsFilter(SecretsFilter.Config()).kdtool_filter(
            make_run(tmp_path), [kdtool.Example("a", kdtool.Text(secret))]
        )
        assert reason
        assert reason in {rule.name for rule in RULES}
