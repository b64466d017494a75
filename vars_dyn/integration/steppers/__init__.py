"""The methods of integration, by name: one file each, and what they share.

To add a method, write one class in one file of this package, put a value of it into `REGISTRY`, and its name into
`vars_dyn._names.METHODS`, which options are made of. `Method` in `method.py` says what the value holds. `Stepper` in
`base.py` is the shorter way for a one-step method with error control. A scheme for noisy fields is a `Scheme` in
`stochastic.py`, and has its place in `SCHEMES`.
"""

from vars_dyn import _checks
from vars_dyn._names import METHODS
from vars_dyn.integration.steppers import odeint
from vars_dyn.integration.steppers.auto import AUTO
from vars_dyn.integration.steppers.dopri5 import DOPRI5
from vars_dyn.integration.steppers.euler_maruyama import EULER_MARUYAMA
from vars_dyn.integration.steppers.method import Method
from vars_dyn.integration.steppers.rkc import RKC
from vars_dyn.integration.steppers.stochastic import Scheme
from vars_dyn.integration.steppers.stochastic_heun import STOCHASTIC_HEUN

__all__ = ["METHODS", "REGISTRY", "SCHEMES", "Method", "method_for"]

#: Every method by its name; the names are those of `METHODS`.
REGISTRY: dict[str, Method] = {method.name: method for method in (DOPRI5, *odeint.ADAPTIVE, *odeint.FIXED, RKC, AUTO)}
#: Every scheme for noisy fields by its name, `vars_dyn.Noise.scheme`.
SCHEMES: dict[str, Scheme] = {scheme.name: scheme for scheme in (STOCHASTIC_HEUN, EULER_MARUYAMA)}


def method_for(name: str) -> Method:
    """The method called `name`; ValueError if there is none."""
    return REGISTRY[_checks.choice("method", name, tuple(REGISTRY))]
