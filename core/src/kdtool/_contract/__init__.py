"""The contract between the engine and plugins: what every plugin author builds on.

Each kind of component has its base class, whose methods `kdtool_…` are its hooks, beside the records that these take and
return. `component` is the base of all kinds, `kind_table` lists them, `hooks` declares how hooks are called, and `run_info`
is what a component sees of a run.

Nothing here imports torch: tensor types are named for type checkers only.
"""
