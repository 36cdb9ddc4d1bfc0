"""Components and commands for almost every recipe: read text, filter it, pack it, follow a run, and decide on it.

Every component is in its own module, and importing this package imports none of them.
"""
