"""A run: artefacts made stage by stage, each complete or absent, reused where nothing they depend on has changed.

`runner` goes through the stages; `context` is what they share; `artefacts` publishes folders atomically; `fingerprint`
names them by what they depend on; `lock` keeps other processes out; `texts`, `rows`, `signals`, `students`, `training`,
`scores` and `exports` make one stage each; `comparison` pairs student and control; `record` writes `results.json`.
"""
