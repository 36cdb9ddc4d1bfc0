"""Exporter plugin `web`: a folder with a static page that runs the student in a browser.

`Web` writes the graphs (`_graph`, `_blocks`), the page, its runtime from npm (`_npm`) and the tokenizer, and has a headless
Chromium compare them with the student (`_browser`, `_parity`).
"""

from __future__ import annotations

from kdtool_exporter_web._exporter import Web

__all__ = ["Web"]
