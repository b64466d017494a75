"""Trajectories as labelled datasets. A run is streamed to a zarr store, which is whole at every moment."""

from vars_dyn._files import StoreError
from vars_dyn.recording.dataset import to_dataset
from vars_dyn.recording.integrity import is_store
from vars_dyn.recording.quantities import VARIABLES
from vars_dyn.recording.reading import open_dataset
from vars_dyn.recording.scalars import facts
from vars_dyn.recording.selection import Selection
from vars_dyn.recording.writer import Progress

__all__ = ["VARIABLES", "Progress", "Selection", "StoreError", "facts", "is_store", "open_dataset", "to_dataset"]
