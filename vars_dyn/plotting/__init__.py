"""Pictures of a recorded trajectory: potentials, convergence, activity, reconstruction and atoms over time.

Every function needs only a dataset of `vars_dyn.recording`, opened from a store or made in memory. It draws into
matplotlib axes that the caller passes. `summary` makes one figure of all panels, and `animate` shows the run in motion,
as a GIF or a movie. Nothing here touches pyplot's global
state.
"""

from vars_dyn.plotting.animation import animate
from vars_dyn.plotting.course import plot_rebuilt_course, plot_stimulus_course
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
from vars_dyn.plotting.spikes import spike_summary

__all__ = [
    "animate",
    "plot_active",
    "plot_atoms",
    "plot_convergence",
    "plot_encoders",
    "plot_input",
    "plot_neurons",
    "plot_rebuilt_course",
    "plot_reconstruction",
    "plot_residual",
    "plot_stimulus_course",
    "spike_summary",
    "summary",
]
