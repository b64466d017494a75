"""The stability limits of the methods, by kind and name."""

from vars_dyn.integration.steppers import REGISTRY

FIXED_METHODS = {name: method.limit for name, method in REGISTRY.items() if not method.adaptive}
STABILISED_METHODS = tuple(name for name, method in REGISTRY.items() if method.stabilised)
ADAPTIVE_METHODS = {
    name: method.limit for name, method in REGISTRY.items() if method.adaptive and not method.stabilised
}
