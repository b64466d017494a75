"""Dictionaries: P as a linear map, with P^T, the Gram map and a bound on its norm. One class per file."""

from vars_dyn.dictionaries.base import Dictionary
from vars_dyn.dictionaries.convolutional import ConvDictionary
from vars_dyn.dictionaries.dense import DenseDictionary
from vars_dyn.dictionaries.fourier import FourierDictionary
from vars_dyn.dictionaries.hierarchy import HierarchyDictionary
from vars_dyn.dictionaries.positive_features import RandomFeatureDictionary, random_features
from vars_dyn.dictionaries.union import UnionDictionary

__all__ = [
    "ConvDictionary",
    "DenseDictionary",
    "Dictionary",
    "FourierDictionary",
    "HierarchyDictionary",
    "RandomFeatureDictionary",
    "UnionDictionary",
    "random_features",
]
