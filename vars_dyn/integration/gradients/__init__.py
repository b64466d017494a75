"""How to differentiate through a solve: one choice for every integration, equilibrium and layer.

A mode is given by its name, or as an object where its settings matter:

    "backprop"    through the integrator's steps, capped so that the gradient is accurate; memory grows with the steps
    "checkpoint"  the same gradient, by steps repeated in the backward pass; memory grows with their square root
    "adjoint"     torchdiffeq's continuous adjoint, restarted from the stored state often enough to be right
    "implicit"    of the certified equilibrium, by a linear system on the support; it needs and keeps no trajectory

"implicit" is exact, and the cheapest, wherever the equilibrium is what is wanted. Through a trajectory choose
"backprop" for speed and "checkpoint" for memory; "adjoint" costs the most and serves for comparisons.
"""

from vars_dyn.integration.gradients.modes import (
    MODES,
    Adjoint,
    Backprop,
    Checkpoint,
    Implicit,
    Mode,
    is_wanted,
    mode_for,
    through_time,
)

__all__ = ["MODES", "Adjoint", "Backprop", "Checkpoint", "Implicit", "Mode", "is_wanted", "mode_for", "through_time"]
