"""Stores in buckets and shared folders: `--store s3://bucket/prefix`, `gs://`, `hf://`, `file://`.

Artefacts are made and read in a local folder, and copied to the remote store. `ObjectStore` in `_store`
is the class that the core opens. `_objects` declares the few operations of a store, `_bucket_objects` provides them through
fsspec and `_folder_objects` in a shared folder. `_artefacts` and `_parts` transfer artefacts, `_lease` keeps machines
apart, `_answers` copies SQLite files as snapshots, `_run_files` the files of a run, and `_space` keeps the size limit.
"""

from __future__ import annotations

from kdtool_object_store._store import ObjectStore

__all__ = ["ObjectStore"]
