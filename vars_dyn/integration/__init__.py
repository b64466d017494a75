"""Fields to states: own integrators and torchdiffeq's, restarted at known times.

Stopped at equilibrium, counted and watched.
"""

from vars_dyn.integration.plan import ADAPTIVE_METHODS, FIXED_METHODS, METHODS, STABILISED_METHODS
from vars_dyn.integration.results import IntegrationError, Snapshot, Statistics, Trajectory, start_of

__all__ = [
    "ADAPTIVE_METHODS",
    "FIXED_METHODS",
    "METHODS",
    "STABILISED_METHODS",
    "IntegrationError",
    "Snapshot",
    "Statistics",
    "Trajectory",
    "start_of",
]
