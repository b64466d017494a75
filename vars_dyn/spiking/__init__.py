"""Spiking neurons whose mean rates are a sparse code: the spiking LCA, simulated event by event."""

from vars_dyn.spiking.neurons import SpikingLCA
from vars_dyn.spiking.run import SpikeProgress, spike
from vars_dyn.spiking.store import open_spikes
from vars_dyn.spiking.trains import by_unit, filtered

__all__ = ["SpikeProgress", "SpikingLCA", "by_unit", "filtered", "open_spikes", "spike"]
