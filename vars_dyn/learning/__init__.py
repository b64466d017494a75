"""Dictionaries that learn from signals: `learn`, the step it is made of, its rules, and where signals come from."""

from vars_dyn.learning.atoms import Atoms, random_dictionary
from vars_dyn.learning.coding import Equilibrium, Integrate, Solve
from vars_dyn.learning.lca import LCA1d, LCA2d, LCA3d, LCACode, LCALayer
from vars_dyn.learning.learner import Learner, Step
from vars_dyn.learning.preprocessing import ZCA, Centre, ContrastNormalisation, OlshausenField
from vars_dyn.learning.results import Learned, load_dictionary, save_dictionary
from vars_dyn.learning.rules import Gradient, Hebbian, Online
from vars_dyn.learning.sources import Patches, Rows, Stream
from vars_dyn.learning.training import StoreOptions, learn

__all__ = [
    "ZCA",
    "Atoms",
    "Centre",
    "ContrastNormalisation",
    "Equilibrium",
    "Gradient",
    "Hebbian",
    "Integrate",
    "LCA1d",
    "LCA2d",
    "LCA3d",
    "LCACode",
    "LCALayer",
    "Learned",
    "Learner",
    "OlshausenField",
    "Online",
    "Patches",
    "Rows",
    "Solve",
    "Step",
    "StoreOptions",
    "Stream",
    "learn",
    "load_dictionary",
    "random_dictionary",
    "save_dictionary",
]
