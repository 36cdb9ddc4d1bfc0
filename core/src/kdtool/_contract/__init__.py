"""The contract between the engine and plugins: base classes with hooks, and the records that these take and return.

`component` is the base of all kinds and declares the calls of hooks, `kind_table` lists the kinds, and `run_info` is a
component's access to a run. Nothing here imports torch: tensor types are named for type checkers only.
"""

from __future__ import annotations
