"""Records of datasets: of the Hugging Face Hub as a stream, or of local data files. A library for corpus plugins.

`HubDataset` and `DataFiles` name the source of records; both return its identity and yield its records one by one,
shuffled in a buffer on request. Code of a dataset is never run. The library `datasets` is imported when records are read.
"""

from kdtool_datasets._files import DataFiles
from kdtool_datasets._hub import HubDataset

__all__ = ["DataFiles", "HubDataset"]
