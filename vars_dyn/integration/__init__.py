"""Integration of fields by this package's methods and torchdiffeq's, restarted at known times.

A run counts its work, watches for failures, and lets signals leave once they have settled. The files build on each
other in this order: results and scale, steppers, plan, times, segment, live, run, streaming, gradients, integrate.
"""

from vars_dyn.integration.plan import Options
from vars_dyn.integration.results import IntegrationError, Monitor, Snapshot, Statistics, Trajectory, start_of
from vars_dyn.integration.steppers import METHODS, Method, method_for
from vars_dyn.integration.streaming import stream

__all__ = [
    "METHODS",
    "IntegrationError",
    "Method",
    "Monitor",
    "Options",
    "Snapshot",
    "Statistics",
    "Trajectory",
    "method_for",
    "start_of",
    "stream",
]
