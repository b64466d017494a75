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
    RandomFeatureDictionary,
    UnionDictionary,
)
from vars_dyn.dynamics import Attention, EncoderDecoder, FeedForward, Field, Recurrent, Reduced, SparseRecurrent
from vars_dyn.integration import IntegrationError, Trajectory
from vars_dyn.integration.integrate import integrate
from vars_dyn.problems import SparseProblem
from vars_dyn.recording import facts, open_dataset, to_dataset
from vars_dyn.recording.record import record
from vars_dyn.solvers.equilibrium import equilibrium
from vars_dyn.solvers.implicit import differentiability
from vars_dyn.solvers.solve import Solution, solve
from vars_dyn.thresholds import GeluThreshold, NonNegativeSoftThreshold, SoftThreshold, Threshold

if TYPE_CHECKING:
    from vars_dyn.attention import PerformerAttention, SoftmaxAttention, VarsAttention, replace_attention

__all__ = [
    "Attention",
    "ConvDictionary",
    "DenseDictionary",
    "Dictionary",
    "EncoderDecoder",
    "FeedForward",
    "Field",
    "FourierDictionary",
    "GeluThreshold",
    "IntegrationError",
    "NonNegativeSoftThreshold",
    "PerformerAttention",
    "RandomFeatureDictionary",
    "Recurrent",
    "Reduced",
    "SoftThreshold",
    "SoftmaxAttention",
    "Solution",
    "SparseProblem",
    "SparseRecurrent",
    "Threshold",
    "Trajectory",
    "UnionDictionary",
    "VarsAttention",
    "differentiability",
    "equilibrium",
    "facts",
    "integrate",
    "open_dataset",
    "record",
    "replace_attention",
    "solve",
    "to_dataset",
]

_LAYERS = ("PerformerAttention", "SoftmaxAttention", "VarsAttention", "replace_attention")


def __getattr__(name: str) -> Any:
    """The attention layers. They are imported on first use, because timm takes longer to import than the simulator."""
    if name in _LAYERS:
        return getattr(importlib.import_module("vars_dyn.attention"), name)
    raise AttributeError(f"module 'vars_dyn' has no attribute {name!r}")
