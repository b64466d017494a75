"""vars_dyn: recurrent sparse-coding neurons, simulated, certified, and used as attention.

Every name is imported on first use. `import vars_dyn` itself therefore costs nothing, and a program pays only for what
it takes: the simulator without timm, the dictionaries without zarr.
"""

import importlib.util
import sys
from typing import TYPE_CHECKING, Any

from vars_dyn._version import __version__ as __version__

if TYPE_CHECKING:
    from vars_dyn import plot as plot
    from vars_dyn import stimuli as stimuli
    from vars_dyn.attention import PerformerAttention, SoftmaxAttention, VarsAttention, replace_attention
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
    from vars_dyn.learning.lca import LCA1d, LCA2d, LCA3d
    from vars_dyn.learning.results import Learned
    from vars_dyn.learning.training import learn
    from vars_dyn.noise import Noise
    from vars_dyn.problems import SparseProblem
    from vars_dyn.recording import facts, open_dataset, to_dataset
    from vars_dyn.recording.record import record
    from vars_dyn.solvers.equilibrium import equilibrium
    from vars_dyn.solvers.implicit import differentiability
    from vars_dyn.solvers.margins import support_radius
    from vars_dyn.solvers.path import solve_path
    from vars_dyn.solvers.solve import Solution, solve
    from vars_dyn.spiking import SpikingLCA, open_spikes, spike
    from vars_dyn.sweeping.sweep import sweep
    from vars_dyn.thresholds import GeluThreshold, NonNegativeSoftThreshold, SoftThreshold, Threshold

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
    "LCA1d",
    "LCA2d",
    "LCA3d",
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
    "solve_path",
    "spike",
    "support_radius",
    "sweep",
    "to_dataset",
]

#: The module that each public name comes from.
_HOMES = {
    "Attention": "vars_dyn.dynamics",
    "Clamp": "vars_dyn.interventions",
    "ConvDictionary": "vars_dyn.dictionaries",
    "DenseDictionary": "vars_dyn.dictionaries",
    "Dictionary": "vars_dyn.dictionaries",
    "EncoderDecoder": "vars_dyn.dynamics",
    "FeedForward": "vars_dyn.dynamics",
    "Field": "vars_dyn.dynamics",
    "FourierDictionary": "vars_dyn.dictionaries",
    "GeluThreshold": "vars_dyn.thresholds",
    "Hierarchy": "vars_dyn.hierarchy",
    "HierarchyDictionary": "vars_dyn.dictionaries",
    "Inject": "vars_dyn.interventions",
    "IntegrationError": "vars_dyn.integration",
    "LCA1d": "vars_dyn.learning.lca",
    "LCA2d": "vars_dyn.learning.lca",
    "LCA3d": "vars_dyn.learning.lca",
    "Learned": "vars_dyn.learning.results",
    "Lesion": "vars_dyn.interventions",
    "Noise": "vars_dyn.noise",
    "NonNegativeSoftThreshold": "vars_dyn.thresholds",
    "PerformerAttention": "vars_dyn.attention",
    "RandomFeatureDictionary": "vars_dyn.dictionaries",
    "Recurrent": "vars_dyn.dynamics",
    "Reduced": "vars_dyn.dynamics",
    "Scale": "vars_dyn.interventions",
    "Silence": "vars_dyn.interventions",
    "SoftThreshold": "vars_dyn.thresholds",
    "SoftmaxAttention": "vars_dyn.attention",
    "Solution": "vars_dyn.solvers.solve",
    "SparseProblem": "vars_dyn.problems",
    "SparseRecurrent": "vars_dyn.dynamics",
    "SpikingLCA": "vars_dyn.spiking",
    "Threshold": "vars_dyn.thresholds",
    "Trajectory": "vars_dyn.integration",
    "UnionDictionary": "vars_dyn.dictionaries",
    "VarsAttention": "vars_dyn.attention",
    "differentiability": "vars_dyn.solvers.implicit",
    "equilibrium": "vars_dyn.solvers.equilibrium",
    "facts": "vars_dyn.recording",
    "hierarchy_problem": "vars_dyn.hierarchy",
    "integrate": "vars_dyn.integration.integrate",
    "learn": "vars_dyn.learning.training",
    "open_dataset": "vars_dyn.recording",
    "open_spikes": "vars_dyn.spiking",
    "record": "vars_dyn.recording.record",
    "replace_attention": "vars_dyn.attention",
    "solve": "vars_dyn.solvers.solve",
    "solve_path": "vars_dyn.solvers.path",
    "spike": "vars_dyn.spiking",
    "support_radius": "vars_dyn.solvers.margins",
    "sweep": "vars_dyn.sweeping.sweep",
    "to_dataset": "vars_dyn.recording",
}


def __getattr__(name: str) -> Any:
    """The public object or module `name`, imported now and kept."""
    if name in _HOMES:
        found = getattr(importlib.import_module(_HOMES[name]), name)
    elif not name.startswith("_") and importlib.util.find_spec(f"vars_dyn.{name}"):
        found = importlib.import_module(f"vars_dyn.{name}")
    else:
        raise AttributeError(f"module 'vars_dyn' has no attribute {name!r}", name=name, obj=sys.modules[__name__])
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "plot", "stimuli"})
