"""A run: artefacts made stage by stage, each complete or absent, reused where nothing they depend on has changed.

`stages` builds the graph (`graph`), `runner` makes its nodes, `plan` says beforehand what would be made; `context` is what
they share. `artefacts` publishes folders atomically and verifies them; `fingerprint` names them by what they depend on;
`sealed` writes small files in which damage is noticed; `committed` records the files from which a killed stage goes on;
`lock` keeps other processes out. `texts`, `data`, `rows`, `signals`, `students`, `training` with `phase_training`,
`exports` and `scores` make the artefacts; `comparison` pairs arms, with `intervals`; `record` writes `results.json`.
`store` knows the runs that share a store, `store_runs` lists them, `store_clean` frees what none needs.
"""
