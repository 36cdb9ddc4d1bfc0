"""Records of data sets: of the Hugging Face hub as a stream, or of local data files. A library for corpus plugins.

`HubDataset` and `DataFiles` say where records are; both tell their identity and give records one by one, shuffled in a
buffer where that is asked for. Code of a data set is never run. The library `datasets` is imported when records are read.
"""

from kdtool_datasets._files import DataFiles
from kdtool_datasets._hub import HubDataset

__all__ = ["DataFiles", "HubDataset"]
