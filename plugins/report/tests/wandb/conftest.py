"""The module of the stand-in server is next to the tests; W&B reports no errors, and is imported after this."""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
os.environ["WANDB_ERROR_REPORTING"] = "false"
