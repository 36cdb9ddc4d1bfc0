"""Other machines: `kdtool cloud` for rented GPUs, the executor `ray`, and stores in buckets and shared folders.

Each is a subpackage or module that imports only its own third parties.
"""
