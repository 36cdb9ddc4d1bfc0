"""`kdtool cloud`: writes the files with which SkyPilot or Hugging Face Jobs runs a recipe on a rented GPU.

`forecast` asks `kdtool.check` for GPU, time and cost, `bundle` collects the recipe, its files and wheels of the packages it
needs, `sky` and `hf_jobs` write a job for each service, and `command` is the click command.
"""

from __future__ import annotations

from kdtool_command_cloud.bundle import write_bundle
from kdtool_command_cloud.forecast import Forecast, forecast
from kdtool_command_cloud.job import Job

__all__ = ["Forecast", "Job", "forecast", "write_bundle"]
