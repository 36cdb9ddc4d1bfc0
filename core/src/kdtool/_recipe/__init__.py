"""From a recipe's text to a checked `Recipe`: every problem is found, with its place, before anything is built.

`yaml_text` reads YAML 1.2 with the place of every key; `layers` composes `extends` and `--set` and removes sugar; `model`
holds the typed recipe; `parse` makes it from composed data. Components' own settings are validated in assembly, where
their classes are known.
"""
