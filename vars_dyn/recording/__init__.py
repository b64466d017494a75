"""Trajectories as labelled datasets: streamed to zarr stores that are whole at every moment, and resumable."""

from vars_dyn.recording.quantities import VARIABLES
from vars_dyn.recording.record import Progress, open_dataset, record, to_dataset
from vars_dyn.recording.store import StoreError, is_store

__all__ = ["VARIABLES", "Progress", "StoreError", "is_store", "open_dataset", "record", "to_dataset"]
