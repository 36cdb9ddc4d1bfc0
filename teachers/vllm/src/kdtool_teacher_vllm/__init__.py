"""Teacher plugin `vllm`: a model on `vllm serve`, by its hidden states.

`VLLM` is the teacher. `_pool` shares prompts among servers (`_station`), also when the user stops (`_interrupt`), `_source`
fetches files of states, `_readout` has the model's final norm and head, `_gate` compares distributions before the first row
(`_reference` computes the model's own, in a separate process), `_runtime` shows the teacher to evaluators, and `command` is
`kdtool teacher`. Files in `server` run in vLLM's process or next to it, in an environment without kdtool. `rollouts` is for
trainers whose student's text is written by a vLLM server.
"""

from __future__ import annotations

from kdtool_teacher_vllm._teacher import VLLM

__all__ = ["VLLM"]
