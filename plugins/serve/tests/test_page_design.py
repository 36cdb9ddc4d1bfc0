"""The page as it looks and is reached: phones, dark and light, contrast, labels, the keyboard alone."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from page_window import Model, models, open_window
from playwright.sync_api import Browser, expect

PROMPT = 'def volume(width, height):\n    """Say @how much\n'
CODE = '    fits."""\n    # a comment\n    return Box(width) * area(height, 2) + "long_name_" * 20\n' + "very_" * 40

CONTRASTS = """() => {
  const channel = value => value <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  const canvas = Object.assign(document.createElement("canvas"), {width: 1, height: 1}).getContext("2d");
  const colour = (text, below = [255, 255, 255]) => {
    canvas.fillStyle = `rgb(${below})`; canvas.fillRect(0, 0, 1, 1);
    canvas.fillStyle = text; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const luminance = rgb => [0.2126, 0.7152, 0.0722].reduce((sum, weight, at) => sum + weight * channel(rgb[at] / 255), 0);
  const ground = node => node ? colour(getComputedStyle(node).backgroundColor, ground(node.parentElement)) : [255, 255, 255];
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let text = walker.nextNode(); text; text = walker.nextNode()) {
    const node = text.parentElement;
    if (!text.data.trim() || !node.checkVisibility() || node.closest("script, style, textarea, option")) continue;
    const below = ground(node);
    const [light, dark] = [luminance(colour(getComputedStyle(node).color, below)), luminance(below)].sort((a, b) => b - a);
    found.push([text.data.trim().slice(0, 40), Math.round((light + 0.05) / (dark + 0.05) * 100) / 100]);
  }
  return found;
}"""


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_text_has_enough_contrast(browser: Browser, theme: Literal["light", "dark"]) -> None:
    served: dict[str, Any] = {**models(), "broken": RuntimeError("no")}
    served = {name: Model(CODE) if name == "student" else model for name, model in served.items()}
    with open_window(browser, served, tab={"color_scheme": theme, "reduced_motion": "reduce"}) as window:
        assert window.page.inner_text("#theme") == {"light": "Dark", "dark": "Light"}[theme]
        window.show("Compare")
        window.page.get_by_label("broken").check(force=True)
        window.ask(PROMPT + "<FILL_ME>")
        expect(window.page.get_by_role("alert")).to_have_count(1)
        found = window.page.evaluate(CONTRASTS)
    assert len(found) > 60
    assert [each for each in found if each[1] < 4.5] == []


@pytest.mark.parametrize("view", ["Write", "Compare"])
@pytest.mark.parametrize("width", [360, 320])
def test_a_narrow_screen_needs_no_sideways_scrolling(browser: Browser, view: str, width: int) -> None:
    served = {**models(), "student": Model(CODE), "student-with-a-long-name.q4_k_m.gguf": Model(CODE)}
    tab = {"viewport": {"width": width, "height": 740}, "has_touch": True, "is_mobile": True}
    with open_window(browser, served, tab=tab) as window:
        window.show(view)
        window.type(PROMPT + "wide_" * 60)
        window.page.get_by_role("button", name="Run").tap()
        window.wait()
        fill = "(all, figure) => all.map(one => one.textContent = figure)"
        for name, figure in (
            ("speed", "1,234.5"),
            ("first", "12,345 ms"),
            ("memory", "1,234.5 MB"),
        ):  # of a busy machine
            window.page.locator(f".figures .{name}").evaluate_all(fill, figure)
        assert window.page.evaluate("document.documentElement.scrollWidth") == width
        sideways = "all => all.filter(one => one.scrollWidth > one.clientWidth + 1).map(one => one.className)"
        assert window.page.locator("main *:visible:not(.sr, .name)").evaluate_all(sideways) == []
        tops = window.page.locator(".pane").evaluate_all("all => all.map(one => one.getBoundingClientRect().left)")
        assert len(set(tops)) == 1
        expect(window.page.locator("footer kbd").first).to_be_hidden()


def test_all_controls_have_names(browser: Browser) -> None:
    with open_window(browser) as window:
        window.ask(PROMPT)
        nameless = """all => all.filter(one => ![one.ariaLabel, one.textContent, one.labels?.[0]?.textContent]
            .some(text => text?.trim())).map(one => one.outerHTML)"""
        assert window.page.locator("button, input, select, textarea, [tabindex]").evaluate_all(nameless) == []
        assert window.page.evaluate("document.documentElement.lang") == "en"
        assert window.page.get_by_role("heading", level=1).inner_text() == "kdtool"
        expect(window.page.locator("p[role=status]")).to_contain_text("student wrote")


def test_the_keyboard_alone_is_enough(browser: Browser) -> None:
    with open_window(browser) as window:
        page = window.page
        assert page.evaluate("document.activeElement.id") == "prompt"
        page.keyboard.press("Tab")
        page.keyboard.press("ArrowRight")
        assert page.locator("#models :checked").input_value() == "control"
        assert page.evaluate("document.activeElement.value") == "control"
        ring = page.evaluate("getComputedStyle(document.activeElement.nextElementSibling).outlineStyle")
        assert ring == "solid"
        page.keyboard.press("Tab")
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        window.wait()
        assert page.inner_text(".name") == "control"
