"""Pictures of a recorded trajectory: potentials, convergence, activity, reconstruction and atoms over time.

Every function takes a dataset as `vars_dyn.recording` makes it, opened from its store or in memory, and nothing else of
the run. It draws into matplotlib axes that the caller gives. `summary` makes a figure of all of them. Nothing here
touches pyplot's global state.
"""

from vars_dyn.plotting.figure import summary
from vars_dyn.plotting.panels import (
    plot_active,
    plot_atoms,
    plot_convergence,
    plot_encoders,
    plot_input,
    plot_neurons,
    plot_reconstruction,
    plot_residual,
)

__all__ = [
    "plot_active",
    "plot_atoms",
    "plot_convergence",
    "plot_encoders",
    "plot_input",
    "plot_neurons",
    "plot_reconstruction",
    "plot_residual",
    "summary",
]
