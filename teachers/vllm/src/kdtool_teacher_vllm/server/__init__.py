"""Files for the server's machine, which needs no kdtool: a connector for vLLM, and the process that sends its files."""

from __future__ import annotations
