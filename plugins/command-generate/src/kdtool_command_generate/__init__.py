"""`kdtool generate`: use the models of a run from the command line.

`command` is the click command. `answers` generates and measures, `highlighting` shows code line by line, `columns` shows
several models side by side, `session` is a conversation with its settings, and `terminal` reads what the user types.
"""
