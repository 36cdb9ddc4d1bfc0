"""Processes inside the sandbox: a tester, a keeper, and a candidate for each task.

These modules are handed over when a sandbox starts, import only the standard library and each other, and contain no
secrets.
"""
