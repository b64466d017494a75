"""Fields to states: own integrators and torchdiffeq's, restarted at known times.

Stopped at equilibrium, counted and watched.
"""

from vars_dyn.integration.plan import Options
from vars_dyn.integration.results import IntegrationError, Snapshot, Statistics, Trajectory, start_of
from vars_dyn.integration.steppers import METHODS, Method, method_for
from vars_dyn.integration.streaming import stream

__all__ = [
    "METHODS",
    "IntegrationError",
    "Method",
    "Options",
    "Snapshot",
    "Statistics",
    "Trajectory",
    "method_for",
    "start_of",
    "stream",
]
