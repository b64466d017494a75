"""The methods of integration, by name: one file each, and what they share.

To add a method, write one class in one file of this package, and put a value of it into `REGISTRY`. `Method` in
`method.py` says what the value holds. `Stepper` in `base.py` is the shorter way for a one-step method with error
control.
"""

from vars_dyn import _checks
from vars_dyn.integration.steppers import odeint
from vars_dyn.integration.steppers.auto import AUTO
from vars_dyn.integration.steppers.dopri5 import DOPRI5
from vars_dyn.integration.steppers.method import Method
from vars_dyn.integration.steppers.rkc import RKC

__all__ = ["METHODS", "REGISTRY", "Method", "method_for"]

#: Every method by its name.
REGISTRY: dict[str, Method] = {method.name: method for method in (DOPRI5, *odeint.ADAPTIVE, *odeint.FIXED, RKC, AUTO)}
#: The names of all methods.
METHODS = tuple(REGISTRY)


def method_for(name: str) -> Method:
    """The method called `name`; ValueError if there is none."""
    return REGISTRY[_checks.choice("method", name, tuple(REGISTRY))]
