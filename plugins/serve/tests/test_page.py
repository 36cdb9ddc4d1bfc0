"""The page in a browser: what its user types, sees, copies, and reads when something fails."""

from __future__ import annotations

import re
from typing import Any

import kdtool
import pytest
from page_window import Model, models, open_window
from playwright.sync_api import Browser, expect

PROMPT = "def area(width, height):\n"
CODE = "    return width * height\n"


def test_a_prompt_is_answered_with_highlighted_code_and_figures(browser: Browser) -> None:
    served = models()
    with open_window(browser, served) as window:
        window.ask(PROMPT)
        assert window.answer() == CODE
        assert window.colours(".out")["return"] == "keyword"
        assert window.colours("#copy")["def"] == "keyword"
        assert re.fullmatch(r"student wrote 5 tokens at [\d.]+ tokens/s\.", window.status)
        assert re.fullmatch(r"[\d.]+", window.page.inner_text(".speed"))
        assert re.fullmatch(r"\d+ ms", window.page.inner_text(".first"))
        assert window.page.inner_text(".memory") == "538 MB"
        assert window.page.inner_text(".state") == "5 tokens, finished"
        assert window.problems == []
    (asked,) = served["student"].asked
    assert (asked.prompt, asked.suffix, asked.max_tokens, asked.temperature) == (PROMPT, None, 128, 0.2)


@pytest.mark.parametrize("way", ["Escape", "button"])
def test_code_appears_while_it_is_written_and_can_be_stopped(browser: Browser, way: str) -> None:
    served = models(pause=3)
    with open_window(browser, served) as window:
        window.type(PROMPT)
        window.page.click("#run")
        expect(window.page.locator(".out")).to_have_text("return width")
        expect(window.page.locator("#run")).to_have_text(re.compile(r"Stop\s*Esc"))
        if way == "button":
            window.page.get_by_role("button", name="Stop").click()
        else:
            window.page.keyboard.press(way)
        window.wait()
        served["student"].gate.set()
        assert window.page.inner_text(".state") == "3 tokens, stopped"
        assert window.answer().strip() == "return width"
        assert window.page.evaluate("document.activeElement.id") == "run"
        assert window.problems == []
        window.ask(PROMPT)
        assert window.answer() == CODE


@pytest.mark.parametrize(
    "init",
    ["", "Object.defineProperty(navigator, 'clipboard', {value: undefined})", "Clipboard.prototype.writeText = null"],
)
def test_copy_gives_the_answer_alone(browser: Browser, init: str) -> None:
    code = f"    return {len(init)}  # another one each time: tabs share the clipboard\n"
    rights = ["clipboard-read", "clipboard-write"]
    with open_window(browser, {"student": Model(code)}, tab={"permissions": rights, "init": init}) as window:
        window.ask(PROMPT)
        window.page.get_by_role("button", name="Copy").click()
        expect(window.page.locator(".copy")).to_have_text("Copied")
        window.type("")
        window.page.keyboard.press("Control+V")
        assert window.page.input_value("#prompt") == code


def test_an_example_fills_the_prompt(browser: Browser) -> None:
    with open_window(browser, served := models()) as window:
        window.page.get_by_role("button", name="Write a class").click()
        gap = window.page.get_by_role("button", name="Fill in the middle")
        expect(gap).to_have_count(0)  # not known before the model is loaded
        window.page.keyboard.press("Control+Enter")
        window.wait()
        window.open()
        gap.click()
        assert "return <FILL_ME>\n" in window.page.input_value("#prompt")
        window.page.keyboard.press("Control+Enter")
        window.wait()
        assert window.page.locator(".example").count() == 0
    assert (served["student"].asked[1].suffix or "").startswith("\n\n\nprint(mean")


def test_a_gap_is_filled_from_both_sides(browser: Browser) -> None:
    served = models()
    with open_window(browser, served) as window:
        window.type("def area(width, height):\n    return \n\nprint(area(1, 2))\n")
        window.page.evaluate("document.getElementById('prompt').setSelectionRange(36, 36)")
        window.page.keyboard.press("Control+i")
        prompt = "def area(width, height):\n    return <FILL_ME>\n\nprint(area(1, 2))\n"
        assert window.page.input_value("#prompt") == prompt
        assert window.colours("#copy")["<FILL_ME>"] == "gap"
        window.page.keyboard.press("Control+Enter")
        window.wait()
    (asked,) = served["student"].asked
    assert (asked.prompt, asked.suffix) == ("def area(width, height):\n    return ", "\n\nprint(area(1, 2))\n")


def test_a_conversation_has_several_turns_until_a_new_one_begins(browser: Browser) -> None:
    answer = "Like **this**:\n\n```python\nreturn width\n```\n\nand <b>no</b> more.\n"
    served = {"student": Model(answer), "teacher": Model("Width by height.")}
    with open_window(browser, served) as window:
        window.show("Compare")
        window.page.get_by_label("Prompt is").select_option("a question")
        for question in ("What is an area?", "And of a circle?"):
            window.ask(question)
            expect(window.page.get_by_label("Prompt: code")).to_have_value("")
        assert window.answer(1) == "What is an area?\n\nWidth by height.\n\nAnd of a circle?\n\nWidth by height."
        window.page.get_by_text("New conversation").click()
        expect(window.page.locator(".out")).to_have_count(0)
        window.ask("Why?")
        assert [window.answer(number) for number in (0, 1)] == [f"Why?\n\n{answer}", "Why?\n\nWidth by height."]
        colours = window.colours(".out")
        assert (colours["return"], colours["Like **this**:"]) == ("keyword", "prose")
    for model in served.values():
        first, second, third = (request.turns for request in model.asked)
        assert [role for role, _ in second] == ["user", "assistant", "user"]
        assert second[:1] == first == (("user", "What is an area?"),)
        assert third == (("user", "Why?"),)


def test_compare_runs_all_at_once_and_ends_with_a_sentence(browser: Browser) -> None:
    served = models(seconds=0.02, pause=4)
    with open_window(browser, served) as window:
        window.show("Compare")
        window.run(PROMPT)
        for number in range(3):
            expect(window.page.locator(".out").nth(number)).to_have_text("return width *")
        assert window.status == "3 models write…"
        for model in served.values():
            model.pause = -1
            model.gate.set()
        window.wait()
        window.ask(PROMPT)
        sentence, conditions = window.status.split("\n")
        faster = r"The student is ([\d.]+)× faster than the teacher and takes 0\.27 of its memory\."
        found = re.fullmatch(faster, sentence)
        assert found is not None, sentence
        assert 1.5 < float(found[1]) < 8
        assert conditions.startswith("Measured at once")
        assert window.page.locator(".memory").all_inner_texts() == ["538 MB", "538 MB", "2.0 GB"]
        share = "all => all.map(one => Number(one.style.getPropertyValue('--share')))"
        shares = window.page.locator(".pane").evaluate_all(share)
        assert max(shares) == 1
        assert 0 < shares[2] < 0.5
        assert window.problems == []


def test_repeated_runs_show_warm_medians(browser: Browser) -> None:
    with open_window(browser, models()) as window:
        window.show("Compare")
        for repeats in ("", "", "medians of 2 runs", "medians of 3 runs"):
            window.ask(PROMPT)
            assert ("medians" in window.status) == bool(repeats)
            assert repeats in window.status
        window.ask(PROMPT + " ")
        assert "medians" not in window.status


def test_columns_can_be_chosen_and_run_one_by_one(browser: Browser) -> None:
    served = models()
    with open_window(browser, served) as window:
        window.show("Compare")
        window.page.get_by_label("control").uncheck(force=True)
        window.page.get_by_label("Order").select_option("one by one")
        served["student"].pause = 1
        window.run(PROMPT)
        expect(window.page.locator(".state")).to_have_text(["1 token", "waiting"])
        assert not served["teacher"].asked
        served["student"].gate.set()
        window.wait()
        assert window.page.locator(".name").all_inner_texts() == ["student", "teacher"]
        assert window.status.endswith("Measured one by one, each with the whole machine.")
        assert "Stop all" not in window.page.inner_text("#run")
    assert not served["control"].asked


def test_a_column_that_fails_leaves_the_others(browser: Browser) -> None:
    served: dict[str, Any] = {**models(), "control": kdtool.UsageError("control lacks its tokenizer; export it again")}
    with open_window(browser, served) as window:
        window.show("Compare")
        window.ask(PROMPT)
        assert window.page.inner_text(".error:visible") == "Control lacks its tokenizer; export it again."
        assert window.status.startswith("The student is ")


@pytest.mark.parametrize("path", ["models", "completions"])
def test_a_server_that_has_gone_is_named_and_found_again_is_used(browser: Browser, path: str) -> None:
    with open_window(browser) as window:
        window.page.route(f"**/v1/{path}", lambda route: route.abort("connectionrefused"))
        said = "The server does not answer: start it again with “kdtool serve”, then press Run."
        if path == "models":
            window.open()
            assert window.status == said
        else:
            window.ask(PROMPT)
            assert window.alert == said
        window.page.unroute(f"**/v1/{path}")
        window.run(PROMPT)  # fetches the models first if they are missing
        expect(window.page.locator(".out")).to_have_text(CODE.strip())


@pytest.mark.parametrize(
    ("rest", "sentence"),
    [
        ("", "The server broke off: look at its terminal, then press Run."),
        ('data: {"error":{"message":"ask a smaller model"}}\n\ndata: [DONE]\n\n', "Ask a smaller model."),
    ],
)
def test_a_stream_that_fails_keeps_its_text_and_says_why(browser: Browser, rest: str, sentence: str) -> None:
    with open_window(browser) as window:
        body = 'data: {"choices":[{"text":"retu"}]}\n\n' + rest
        answer = {"status": 200, "content_type": "text/event-stream", "body": body}
        window.page.route("**/v1/completions", lambda route: route.fulfill(**answer))
        window.ask(PROMPT)
        assert window.alert == sentence
        assert window.answer() == "retu"


def test_a_server_with_a_key_asks_for_it(browser: Browser) -> None:
    with open_window(browser, key="a-secret") as window:
        assert window.status.startswith("The server wants its key: paste into “Key”")
        window.page.get_by_label("Key", exact=True).fill("a-secret")
        window.page.keyboard.press("Enter")
        expect(window.page.locator(".out")).to_have_text(CODE.strip())
        assert "a-secret" not in window.page.evaluate("localStorage.getItem('kdtool')")
        assert not any("a-secret" in address for address in window.requests)


def test_markup_that_a_model_writes_stays_text(browser: Browser) -> None:
    attack = "<img src=x onerror='window.hacked=1'><script>window.hacked=1</script> </pre><b>&amp;</b> 'open"
    with open_window(browser, {"student": Model(attack)}) as window:
        window.ask(PROMPT)
        assert window.answer() == attack
        assert window.page.evaluate("window.hacked") is None
        tags = window.page.evaluate("new Set([...document.querySelectorAll('.out *')].map(one => one.tagName)).size")
        assert tags == 1
        window.page.get_by_role("button", name="Add to prompt").click()
        assert window.page.text_content("#copy") == PROMPT + attack + "\n"
        assert window.problems == []


def test_the_page_asks_nobody_but_its_server(browser: Browser) -> None:
    with open_window(browser) as window:
        window.show("Compare")
        window.ask(PROMPT)
        page = {window.server.url + path for path in ("/", "/v1/models", "/v1/completions")}
        assert {address for address in window.requests if not address.startswith("data:")} == page
        assert window.page.evaluate("fetch('https://example.org').then(() => 'sent', () => 'blocked')") == "blocked"


def test_settings_are_remembered(browser: Browser) -> None:
    with open_window(browser) as window:
        window.page.get_by_label("Temperature").fill("1.1")
        window.page.get_by_label("Length").fill("5")
        window.page.get_by_label("Language").select_option("Rust")
        background = "getComputedStyle(document.body).backgroundColor"
        light = window.page.evaluate(background)
        window.page.get_by_role("button", name="Dark").click()
        window.show("Compare")
        window.page.get_by_label("control").uncheck(force=True)
        window.open()
        assert window.page.locator(".settings output").all_inner_texts() == ["1.1", "32"]
        assert window.page.get_by_label("Language").input_value() == "rust"
        assert window.page.evaluate(background) != light
        window.page.get_by_role("button", name="Light").click()
        assert window.page.evaluate(background) == light
        chosen = window.page.locator("#models :checked").evaluate_all("all => all.map(one => one.value)")
        assert chosen == ["student", "teacher"]
