"""vars_dyn: recurrent sparse-coding neurons, simulated, certified, and used as attention."""

import importlib
from typing import TYPE_CHECKING, Any

from vars_dyn import stimuli as stimuli
from vars_dyn._version import __version__ as __version__
from vars_dyn.dictionaries import (
    ConvDictionary,
    DenseDictionary,
    Dictionary,
    FourierDictionary,
    HierarchyDictionary,
    RandomFeatureDictionary,
    UnionDictionary,
)
from vars_dyn.dynamics import Attention, EncoderDecoder, FeedForward, Field, Recurrent, Reduced, SparseRecurrent
from vars_dyn.hierarchy import Hierarchy, hierarchy_problem
from vars_dyn.integration import IntegrationError, Trajectory
from vars_dyn.integration.integrate import integrate
from vars_dyn.interventions import Clamp, Inject, Lesion, Scale, Silence
from vars_dyn.learning.results import Learned
from vars_dyn.learning.training import learn
from vars_dyn.noise import Noise
from vars_dyn.problems import SparseProblem
from vars_dyn.recording import facts, open_dataset, to_dataset
from vars_dyn.recording.record import record
from vars_dyn.solvers.equilibrium import equilibrium
from vars_dyn.solvers.implicit import differentiability
from vars_dyn.solvers.solve import Solution, solve
from vars_dyn.spiking import SpikingLCA, open_spikes, spike
from vars_dyn.sweeping.sweep import sweep
from vars_dyn.thresholds import GeluThreshold, NonNegativeSoftThreshold, SoftThreshold, Threshold

if TYPE_CHECKING:
    from vars_dyn.attention import PerformerAttention, SoftmaxAttention, VarsAttention, replace_attention

__all__ = [
    "Attention",
    "Clamp",
    "ConvDictionary",
    "DenseDictionary",
    "Dictionary",
    "EncoderDecoder",
    "FeedForward",
    "Field",
    "FourierDictionary",
    "GeluThreshold",
    "Hierarchy",
    "HierarchyDictionary",
    "Inject",
    "IntegrationError",
    "Learned",
    "Lesion",
    "Noise",
    "NonNegativeSoftThreshold",
    "PerformerAttention",
    "RandomFeatureDictionary",
    "Recurrent",
    "Reduced",
    "Scale",
    "Silence",
    "SoftThreshold",
    "SoftmaxAttention",
    "Solution",
    "SparseProblem",
    "SparseRecurrent",
    "SpikingLCA",
    "Threshold",
    "Trajectory",
    "UnionDictionary",
    "VarsAttention",
    "differentiability",
    "equilibrium",
    "facts",
    "hierarchy_problem",
    "integrate",
    "learn",
    "open_dataset",
    "open_spikes",
    "record",
    "replace_attention",
    "solve",
    "spike",
    "sweep",
    "to_dataset",
]

_LAYERS = ("PerformerAttention", "SoftmaxAttention", "VarsAttention", "replace_attention")


def __getattr__(name: str) -> Any:
    """The attention layers. They are imported on first use, because timm takes longer to import than the simulator."""
    if name in _LAYERS:
        return getattr(importlib.import_module("vars_dyn.attention"), name)
    raise AttributeError(f"module 'vars_dyn' has no attribute {name!r}")
