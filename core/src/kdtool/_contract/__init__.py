"""The contract between the engine and plugins: one file per question, with base classes, hooks and records.

Nothing here imports torch: tensor types are named for type checkers only.
"""
