"""The six fields of the paper, each with its equilibrium problem, its Lyapunov function and its stiffness."""

from vars_dyn.dynamics.base import Field, State
from vars_dyn.dynamics.linear import Attention, FeedForward, Recurrent
from vars_dyn.dynamics.sparse import EncoderDecoder, Reduced, SparseRecurrent

__all__ = ["Attention", "EncoderDecoder", "FeedForward", "Field", "Recurrent", "Reduced", "SparseRecurrent", "State"]
