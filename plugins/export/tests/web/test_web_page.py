"""The exported page in a real Chromium: measured on both backends, and used offline."""

from __future__ import annotations

import json
import shutil
from math import ceil
from pathlib import Path
from typing import ClassVar

import kdtool
import numpy as np
import onnxruntime as ort
import pytest
from kdtool_export.web import Web
from kdtool_export.web.browser import find_chromium, serving
from kdtool_export.web.npm import _cache, _is_whole
from kdtool_export.web.parity import POSITIONS, WINDOW
from kdtool_testing import make_run
from kdtool_testing.tiny_models import save_tiny
from playwright.sync_api import Page, Request, sync_playwright
from tokenizers import Tokenizer

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_chromium() is None, reason="Chromium is not installed: apt-get install chromium"),
    pytest.mark.skipif(
        shutil.which("npm") is None and not _is_whole(_cache()), reason="npm is not installed: apt-get install npm"
    ),
]

PROMPT = "def squares(numbers):\n    return [number ** 2 for number in numbers]\n\n\ndef "
"""Of more tokens than the page reads at once on WebGPU."""
FLAGS = ["--no-sandbox", "--disable-quic", "--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader"]


class Progress(kdtool.Tracker):
    """Keeps what was done."""

    seen: ClassVar[list[int]] = []

    def kdtool_progress(self, run: kdtool.RunInfo, done: int, total: int | None) -> None:
        self.seen.append(done)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[kdtool.Artifact, list[str]]:
    """The folder of a tiny student's page, measured in Chromium, and what was said."""
    folder = tmp_path_factory.mktemp("web")
    save_tiny(folder / "trained", layers=2, hidden_size=64, intermediate_size=96)
    said: list[str] = []
    (folder / "run").mkdir()
    run = make_run(folder / "run", {"trackers.progress": Progress(Progress.Config())}, say=said.append)
    return Web(Web.Config()).kdtool_export(run, folder / "trained"), said


def test_every_file_is_measured_on_both_backends(exported: tuple[kdtool.Artifact, list[str]]) -> None:
    artifact, said = exported
    places = [(dtype, where) for dtype in ("q4", "int8") for where in ("WASM", "WebGPU")]
    assert len(said) == len(places)
    windows = ceil(POSITIONS / WINDOW)
    assert Progress.seen == list(range(1, windows * len(places) + 1)), "not shown window by window"
    for line, (dtype, where) in zip(said, places, strict=True):
        assert line.startswith(f"web: {dtype}, {where} in Chromium")
        assert float(line.partition("KL divergence ")[2].split()[0]) < (1e-3 if dtype == "int8" else 0.1)
        assert int(line.partition(" on ")[2].split()[0]) >= 256
        assert line.removeprefix("web: ") in artifact.card


@pytest.mark.parametrize("backend", ["wasm", "webgpu"])
def test_the_page_completes_offline_at_400_pixels(backend: str, exported: tuple[kdtool.Artifact, list[str]]) -> None:
    folder, asked = exported[0].path, list[Request]()
    with (
        serving(folder, {}, lambda path, body: None) as address,
        sync_playwright() as playwright,
        playwright.chromium.launch(executable_path=find_chromium(), args=FLAGS) as browser,
    ):
        context = browser.new_context(viewport={"width": 400, "height": 800})
        context.set_default_timeout(120_000)
        # playwright takes no built-in function
        context.on("request", lambda request: asked.append(request))
        page = context.new_page()
        problems: list[str] = []
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(f"{address}/?backend={backend}&dtype=int8")
        assert page.evaluate("crossOriginIsolated")
        text = complete(page, PROMPT, 16)
        assert page.evaluate("document.documentElement.scrollWidth") <= 400
        assert page.inner_text("#ran") == f"int8 {backend}"
        assert page.inner_text("#first").endswith(" ms")
        assert float(page.inner_text("#rate")) > 0
    assert text == continued(folder, PROMPT, 16)
    assert not problems
    others = [request.url for request in asked if not request.url.startswith((address, "blob:", "data:"))]
    assert not others, "the page contacts its own site only"


def complete(page: Page, prompt: str, tokens: int) -> str:
    """Type a prompt, and return what the page writes."""
    page.wait_for_selector("#run:not([disabled])")
    page.fill("#prompt", prompt)
    page.fill("#limit", str(tokens))
    page.click("#run")
    page.wait_for_selector("#status:has-text('tokens: ')")
    return page.text_content("#written") or ""


def continued(folder: Path, prompt: str, tokens: int) -> str:
    """Return the greedy continuation of the graph in Python, read from the beginning for each token."""
    settings = json.loads((folder / "student.json").read_text(encoding="utf-8"))
    session = ort.InferenceSession(folder / "onnx" / "model_int8.onnx")
    empty = np.zeros((1, settings["kvHeads"], 0, settings["headSize"]), np.float32)
    caches = {each.name: empty for each in session.get_inputs() if "past" in each.name}
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    ids = tokenizer.encode(prompt, add_special_tokens=False).ids
    begun = len(ids)
    while len(ids) - begun < tokens:
        feed = {"input_ids": np.array([ids]), "attention_mask": np.ones((1, len(ids)), np.int64), **caches}
        logits = session.run(["logits"], {**feed, "num_logits_to_keep": np.array([1])})[0][0, -1]
        if int(logits.argmax()) in settings["end"]:
            break
        ids.append(int(logits.argmax()))
    return str(tokenizer.decode(ids[begun:])).rstrip("\ufffd")
