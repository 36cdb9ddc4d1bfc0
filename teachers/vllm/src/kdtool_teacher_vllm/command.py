"""The click command `kdtool teacher`: the server of a recipe's teacher, with the settings that the recipe needs."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import click
import kdtool
from kdtool._cli.shared import set_option

if TYPE_CHECKING:
    from kdtool_teacher_vllm._config import VLLMConfig

SERVER = Path(__file__).with_name("server")
"""The files that vLLM's environment needs."""
_SECONDS_TO_END = 30
_CHOSEN = 256
"""Tokens that may be scored at a position, for any `support` of a loss."""
_TEXT = 8192
"""Tokens of a prompt with its answer, for rows that are shorter."""


@click.group("teacher")
def teacher() -> None:
    """Start what a served teacher needs."""


@teacher.command("serve")
@click.argument("recipe", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@set_option
@click.option("--name", default="", help="The teacher, if the recipe has several on vLLM.")
@click.option("--number", default=0, show_default=True, help="The server, from 0, if `url` lists several.")
@click.option(
    "--states",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for states on the server's machine [default: the teacher's `folder`, else kdtool-states-PORT in /dev/shm].",
)
@click.option(
    "--python", default="", metavar="PATH", help="Python of the environment with vLLM [default: the `vllm` on PATH]."
)
@click.option("--run", "is_run", is_flag=True, help="Start the server and its companion here, until Ctrl-C.")
def serve(
    recipe: Path, settings: dict[str, str], name: str, number: int, states: Path | None, python: str, is_run: bool
) -> None:
    """Print or run what serves RECIPE's teacher.

    The first command starts vLLM with hidden states, the second sends their files to other processes and machines. Copy the
    folder that PYTHONPATH names to the server's machine if it is another one; kdtool is not needed there. With `chosen:
    server` there is only the first, without hidden states.

    \b
    Example:  kdtool teacher serve recipe.yaml --run
    """  # noqa: D301 - click reads backspaces
    config, layers, longest = _find_teacher(recipe, settings, name)
    if not 0 <= number < len(config.urls):
        raise kdtool.UsageError(
            f"--number {number} is not a server of `url`, which has {len(config.urls)}; count from 0"
        )
    port = urlsplit(config.urls[number]).port or 8000
    folder = states or config.folder or Path(f"/dev/shm/kdtool-states-{port}")  # noqa: S108 - mode 0700, by the connector
    server = server_command(config, layers, longest, number, folder, python)
    needs_companion = config.folder is None and config.chosen == "states"
    parts = urlsplit(config.companions[number])
    address = ["--host", parts.hostname or "127.0.0.1", "--port", str(parts.port or 8001)]
    companion = [python or sys.executable, str(SERVER / "kdtool_companion.py"), str(folder), *address]
    # vLLM's second model runner is the one that scores chosen tokens.
    environment = {"PYTHONPATH": str(SERVER)} if config.chosen == "states" else {"VLLM_USE_V2_MODEL_RUNNER": "1"}
    if not is_run:
        click.echo(shlex.join([*(f"{key}={value}" for key, value in environment.items()), *server]))
        if needs_companion:
            click.echo(shlex.join(companion))
        return
    started = []
    try:
        started = [subprocess.Popen(server, env={**os.environ, **environment})]  # noqa: S603 - the command that is shown
        if needs_companion:
            started.append(subprocess.Popen(companion))  # noqa: S603
        with suppress(KeyboardInterrupt):
            started[0].wait()
    finally:
        _stop(started)
    if started[0].returncode not in (0, -2, -15):
        raise kdtool.ServiceError(
            f"the server ended with exit code {started[0].returncode}; its log above has the reason"
        )


def _stop(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Ask processes to end, and kill those that have not ended in time."""
    for process in processes:
        process.terminate()
    try:
        for process in processes:
            process.wait(_SECONDS_TO_END)
    finally:  # also at another Ctrl-C
        for process in processes:
            process.kill()


def server_command(
    config: VLLMConfig, layers: int, longest: int | None, number: int, folder: Path, python: str = ""
) -> list[str]:
    """Return the command that starts a server with hidden states, or one that scores chosen tokens.

    `layers` is the number of decoder layers, `longest` the tokens to read at once (None: what the model allows), `number`
    the server among `url`, `folder` where it writes states, `python` that of vLLM's environment ("": the `vllm` on PATH).
    """
    from kdtool_teacher_vllm._config import DISK

    parts = urlsplit(config.urls[number])
    command = [
        str(Path(python).with_name("vllm")) if python else "vllm",
        "serve",
        config.model,
        *(["--revision", config.revision] if config.revision else []),
        *(["--quantization", config.quantisation] if config.quantisation else []),
        *(["--max-model-len", str(longest)] if longest else []),
        *["--dtype", config.dtype, "--host", parts.hostname or "127.0.0.1", "--port", str(parts.port or 8000)],
        # A row is read once, and cached prefixes would round otherwise.
        "--no-enable-prefix-caching",
    ]
    if config.chosen == "server":
        return [*command, "--enable-scale-out", "--max-logprobs", str(_CHOSEN)]
    speculative: dict[str, Any] = {
        "method": "extract_hidden_states",
        "num_speculative_tokens": 1,
        "draft_model_config": {"hf_config": {"eagle_aux_hidden_state_layer_ids": config.layer_ids(layers)}},
    }
    transfer: dict[str, Any] = {
        "kv_connector": "KdtoolStates",
        "kv_connector_module_path": "kdtool_states",
        "kv_role": "kv_producer",
        "kv_connector_extra_config": {"shared_storage_path": str(folder), "disk_bytes": DISK},
    }
    return [
        *command,
        *["--speculative-config", json.dumps(speculative, separators=(",", ":"))],
        *["--kv-transfer-config", json.dumps(transfer, separators=(",", ":"))],
    ]


def _find_teacher(recipe: Path, settings: dict[str, str], name: str) -> tuple[VLLMConfig, int, int | None]:
    """Return the settings of a recipe's served teacher, the number of its layers, and the tokens that it must read at once.

    A model that allows 262,144 tokens would reserve memory for them; None if it does not say what it allows.

    Raises:
        UsageError: the recipe has none of that name, or several and no name was given.
    """
    from kdtool._assembly.assemble import assemble
    from kdtool._recipe.parser import load_recipe

    from kdtool_teacher_vllm._teacher import VLLM

    with assemble(load_recipe(recipe, settings), lambda line: click.echo(line, err=True)) as assembly:
        built = {item.owner.name: item.component for item in assembly.built.values()}
        served = {key: each for key, each in built.items() if isinstance(each, VLLM) and name in ("", key)}
        if len(served) != 1:
            names = ", ".join(sorted(served)) or "none"
            raise kdtool.UsageError(
                f"{recipe} has these teachers with `use: vllm`: {names}; expected one, so name it by --name"
            )
        (each,) = served.values()
        rows = [
            item.component.row_length for item in assembly.built.values() if isinstance(item.component, kdtool.Packer)
        ]
        facts = each.read_facts()
        return each.config, facts.layers, facts.context and min(facts.context, max(_TEXT, *rows))
