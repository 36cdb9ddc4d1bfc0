"""The contract between the engine and plugins: what every plugin author builds on.

`text` examples, rows and batches; `signals` what a teacher tells and a loss sees; `models` language models, tokenizers and
what is measured on them; `training` phases, terms and reports; `component`
the base of every plugin class; `kinds` one base class a kind with its typed hooks; `hooks` how hooks are called.

Nothing here imports torch: tensor types are named for type checkers only.
"""
