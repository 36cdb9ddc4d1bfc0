"""The command line: `kdtool COMMAND`, one module for each command."""

from kdtool._cli.command_line import call as call
from kdtool._cli.command_line import cli as cli
from kdtool._cli.command_line import main as main
