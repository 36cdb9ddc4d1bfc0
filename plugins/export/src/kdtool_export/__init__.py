"""Exports of trained students: exporters for several formats, and `kdtool push`, which publishes their files.

Each format is a subpackage or module that imports only its own third parties.
"""
