"""The page of `kdtool serve` in a real browser, before the real application with scripted models."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import kdtool
import pytest
from playwright.sync_api import Browser, Page, sync_playwright
from running import Running, running
from scripted import ScriptedModels, StreamingRuntime

__all__ = ["Model", "Window", "models", "open_browser", "open_window"]

FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]


@contextmanager
def open_browser() -> Iterator[Browser]:
    """Start Chromium without a window and with a new profile, or skip the tests where there is none."""
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        pytest.skip("Chromium is not installed: apt-get install chromium")
    with sync_playwright() as playwright, playwright.chromium.launch(executable_path=path, args=FLAGS) as browser:
        yield browser


class Model(StreamingRuntime):
    """A scripted model of a size; while `gate` is closed it stops before the token `pause`."""

    def __init__(self, text: str, *, size: int = 538_000_000, pause: int = -1, **more: Any) -> None:
        super().__init__(lambda request: text, **more)
        self.size = size
        self.pause = pause
        self.gate = threading.Event()

    def stream(self, request: kdtool.Request) -> Iterator[kdtool.TextPiece]:
        """Yield the pieces, and wait for the gate."""
        for number, piece in enumerate(super().stream(request)):
            if number == self.pause:
                self.gate.wait(20)
            yield piece

    def memory(self) -> int:
        """Return the size."""
        return self.size


class Window:
    """The page of a server in a browser's tab, with what its user sees and does.

    `requests` are the addresses that the page asked for, `problems` what the browser reported.
    """

    def __init__(self, page: Page, server: Running) -> None:
        self.page = page
        self.server = server
        self.requests: list[str] = []
        self.problems: list[str] = []
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("console", lambda message: self.problems.append(message.text))
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.open()

    def open(self) -> None:
        """Load the page, anew if it is loaded already."""
        self.page.goto(self.server.url)
        self.page.wait_for_selector(".chip, .failed")

    def run(self, prompt: str) -> None:
        """Type a prompt and start the run."""
        self.type(prompt)
        self.page.keyboard.press("Control+Enter")

    def ask(self, prompt: str) -> None:
        """Run a prompt to its end."""
        self.run(prompt)
        self.wait()

    def type(self, prompt: str) -> None:
        """Fill in the prompt."""
        self.page.get_by_label("Prompt: code").fill(prompt)

    def wait(self) -> None:
        """Wait for the end of the run."""
        self.page.wait_for_selector("#run:not([data-running])")
        self.page.wait_for_selector("#status:not(:has-text('…'))", state="attached")

    @property
    def alert(self) -> str:
        """The words of the only error."""
        return self.page.get_by_role("alert").inner_text()

    @property
    def status(self) -> str:
        """The sentence above the answers."""
        return self.page.inner_text("#status")

    def answer(self, number: int = 0) -> str:
        """Return the text of one answer, with what stands around it."""
        return self.page.locator(".out").nth(number).text_content() or ""

    def show(self, name: str) -> None:
        """Choose the view: Write or Compare."""
        self.page.locator(".segments").get_by_text(name).click()

    def colours(self, element: str) -> dict[str, str]:
        """Return the highlighted pieces of an element with their classes."""
        script = "node => [...node.children].map(span => [span.textContent.trim(), span.className])"
        return dict(self.page.locator(element).first.evaluate(script))


def models(seconds: float = 0.002, **more: Any) -> dict[str, Model]:
    """Return a student, a control and a teacher that is larger and slower."""
    text = "    return width * height\n"
    return {
        "student": Model(text, seconds=seconds, **more),
        "control": Model(text, seconds=seconds, **more),
        "teacher": Model(text, seconds=4 * seconds, size=2_000_000_000, **more),
    }


@contextmanager
def open_tab(browser: Browser, server: Running, *, init: str = "", **settings: Any) -> Iterator[Window]:
    """Open the page in a tab that shares nothing with others; `init` is a script that runs before the page's own."""
    context = browser.new_context(**settings)
    context.set_default_timeout(20_000)
    context.add_init_script(init)
    try:
        yield Window(context.new_page(), server)
    finally:
        context.close()


@contextmanager
def open_window(
    browser: Browser,
    served: Mapping[str, kdtool.Runtime | Exception] | None = None,
    *,
    tab: Mapping[str, Any] = MappingProxyType({}),
    **settings: Any,
) -> Iterator[Window]:
    """Serve models and open their page in a tab; `settings` are those of `create_app`, `tab` those of `open_tab`."""
    with running(ScriptedModels(served or models()), **settings) as server, open_tab(browser, server, **tab) as window:
        yield window
