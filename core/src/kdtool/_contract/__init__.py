"""The contract between the engine and plugins: base classes with hooks, and the records that these take and return.

`component` is the base of all kinds, `kind_table` lists them, `hooks` declares the calls of hooks, and `run_info` is a
component's access to a run. Nothing here imports torch: tensor types are named for type checkers only.
"""
