"""Teacher plugin `vllm`: a model on `vllm serve`, by its hidden states.

`VLLM` is the teacher, and `kdtool teacher` starts its server. Files in `server` run in vLLM's process or next to it, in an
environment without kdtool. `rollouts` is for trainers whose student's text is written by a vLLM server.
"""

from __future__ import annotations

from kdtool_teacher_vllm._teacher import VLLM

__all__ = ["VLLM"]
