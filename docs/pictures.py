"""Take the pictures of a run's report and of the page of `kdtool serve`. Needs Chromium and the dependency group `test`.

    python docs/pictures.py quickstart

writes `docs/report.png` and `docs/serve.png`. The run's report is written again first. The page compares the exported
student with the teacher, which have the same precision, several times, so that it shows medians of warm models. Nothing else
should run meanwhile.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

DOCS = Path(__file__).resolve().parent
REPEATS = 6
"""Times that the models answer: one to warm up, then five for the medians."""
MODELS = {"student": False, "control": False, "student-safetensors": True, "teacher": True}
PROMPT = '''import os


def list_files(folder):
    """Return the names of all files in a folder."""
    names = []
    for name in os.listdir(folder):
        if'''


def main() -> None:
    """Take both pictures of the run that the command line names."""
    parser = argparse.ArgumentParser(description="Take the pictures of a run's report and of the page of kdtool serve.")
    parser.add_argument("run", help="name of a run in ./runs, or its folder")
    parser.add_argument("--into", type=Path, default=DOCS, metavar="FOLDER", help="folder of the pictures")
    arguments = parser.parse_args()
    with open_browser() as browser:
        report = take_report(browser, arguments.run, arguments.into / "report.png")
        serve = take_page(browser, arguments.run, arguments.into / "serve.png")
    print(report, serve, sep="\n")


@contextmanager
def open_browser() -> Iterator[Browser]:
    """Start Chromium without a window."""
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        sys.exit("Chromium is not installed: apt-get install chromium")
    with (
        sync_playwright() as playwright,
        playwright.chromium.launch(executable_path=path, args=["--no-sandbox"]) as found,
    ):
        yield found


def take_report(browser: Browser, run: str, path: Path) -> Path:
    """Write the run's report again, and take its verdict and first differences."""
    command = _kdtool("report", run)
    done = subprocess.run(command, check=True, capture_output=True, text=True, encoding="utf-8")  # noqa: S603 - our own
    page = _open(browser, Path(done.stdout.split()[-1]).resolve().as_uri(), 1160, 1150)
    page.filtershot(path=path)
    return path


def take_page(browser: Browser, run: str, path: Path) -> Path:
    """Serve the run, compare its models until they are warm, and take the page."""
    with _served(run) as address:
        page = _open(browser, address, 1360, 800)
        page.locator(".segments").get_by_text("Compare").click()
        page.get_by_label("Order").select_option("one by one")
        for name, chosen in MODELS.items():
            page.get_by_label(name, exact=True).set_checked(chosen, force=True)
        page.get_by_label("Length").fill("6")
        page.get_by_label("Prompt: code").fill(PROMPT)
        for _ in range(REPEATS):
            page.keyboard.press("Control+Enter")
            page.wait_for_selector("#run[data-running]")
            page.wait_for_selector("#run:not([data-running])", timeout=600_000)
            page.wait_for_selector(".status.verdict")
        page.wait_for_selector(f"#status:has-text('medians of {REPEATS - 1} runs')")
        page.filtershot(path=path)
    return path


def _open(browser: Browser, address: str, width: int, height: int) -> Page:
    page = browser.new_page(viewport={"width": width, "height": height}, color_scheme="light", reduced_motion="reduce")
    page.goto(address)
    return page


@contextmanager
def _served(run: str) -> Iterator[str]:
    """Yield the address of the page of `kdtool serve` for a run."""
    command = _kdtool("serve", run, "--no-browser", "--port", "0")
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)  # noqa: S603 - our own
    with server:
        try:
            lines = server.stdout or ()
            yield next(found[1] for line in lines if (found := re.match(r"page +(http\S+)", line)))
        finally:
            server.terminate()


def _kdtool(*words: str) -> list[str]:
    return [sys.executable, "-m", "kdtool", *words]


if __name__ == "__main__":
    main()
