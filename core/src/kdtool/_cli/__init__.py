"""The command line: `kdtool COMMAND`."""

from __future__ import annotations

from kdtool._cli.command_line import call as call
from kdtool._cli.command_line import cli as cli
from kdtool._cli.command_line import main as main
