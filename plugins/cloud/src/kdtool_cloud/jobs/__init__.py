"""Jobs on rented GPUs: the files with which SkyPilot or Hugging Face Jobs runs a recipe.

`forecast` asks `kdtool.check` for GPU, time and cost, and `write_bundle` collects the recipe, its files and wheels of
the packages it needs.
"""

from __future__ import annotations

from kdtool_cloud.jobs.bundle import Job, write_bundle
from kdtool_cloud.jobs.forecast import Forecast, forecast

__all__ = ["Forecast", "Job", "forecast", "write_bundle"]
