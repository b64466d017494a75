"""Ensembles: many members of a design, on one process or many, in one store."""

from vars_dyn.sweeping.designs import Design, Grid, LatinHypercube, Listed, Random, Range
from vars_dyn.sweeping.store import open_sweep

__all__ = ["Design", "Grid", "LatinHypercube", "Listed", "Random", "Range", "open_sweep"]
