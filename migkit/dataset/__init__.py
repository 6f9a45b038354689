"""Many traces: files, folders, packed folders and URLs of them, read when they are asked for."""

from migkit.dataset.dataset import Dataset
from migkit.dataset.opening import open_dataset
from migkit.dataset.partition import Bad, Partition

__all__ = ["Bad", "Dataset", "Partition", "open_dataset"]
