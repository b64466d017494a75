"""vars_dyn: recurrent sparse-coding neurons, simulated, certified, and used as attention."""

from vars_dyn.dictionaries import (
    ConvDictionary,
    DenseDictionary,
    Dictionary,
    FourierDictionary,
    RandomFeatureDictionary,
    UnionDictionary,
)
from vars_dyn.dynamics import Attention, EncoderDecoder, FeedForward, Field, Recurrent, Reduced, SparseRecurrent
from vars_dyn.equilibrium import differentiability, equilibrium
from vars_dyn.integrate import IntegrationError, Trajectory, integrate
from vars_dyn.problems import SparseProblem
from vars_dyn.recording import open_dataset, record, to_dataset
from vars_dyn.solvers import Solution, solve
from vars_dyn.thresholds import GeluThreshold, NonNegativeSoftThreshold, SoftThreshold, Threshold

__version__ = "0.1.0"

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
    "RandomFeatureDictionary",
    "Recurrent",
    "Reduced",
    "SoftThreshold",
    "Solution",
    "SparseProblem",
    "SparseRecurrent",
    "Threshold",
    "Trajectory",
    "UnionDictionary",
    "differentiability",
    "equilibrium",
    "integrate",
    "open_dataset",
    "record",
    "solve",
    "to_dataset",
]
