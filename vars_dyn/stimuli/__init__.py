"""Signals that change with time: arrays, functions, gratings, bars, noise, moving pictures, and what is made of them.

A field takes a stimulus in place of the tensor x. `stimulus(t)` is the signal at the time t, in membrane time
constants, and `stimulus.jumps` are the times that no step of an integration straddles.
"""

from vars_dyn.stimuli.bars import Bars
from vars_dyn.stimuli.base import Stimulus
from vars_dyn.stimuli.centre_surround import CentreSurround
from vars_dyn.stimuli.constant import Constant
from vars_dyn.stimuli.contrast_sweep import ContrastSweep
from vars_dyn.stimuli.flash import Flash
from vars_dyn.stimuli.frames import Frames
from vars_dyn.stimuli.function import Function
from vars_dyn.stimuli.grating import Grating
from vars_dyn.stimuli.masked import Masked
from vars_dyn.stimuli.movie import Movie
from vars_dyn.stimuli.noise import Noise
from vars_dyn.stimuli.patches import Patches
from vars_dyn.stimuli.plaid import Plaid
from vars_dyn.stimuli.sampled import Sampled
from vars_dyn.stimuli.scaled import Scaled
from vars_dyn.stimuli.screen import Screen
from vars_dyn.stimuli.sequence import Sequence
from vars_dyn.stimuli.stack import Stack
from vars_dyn.stimuli.sum import Sum
from vars_dyn.stimuli.translation import Translation

__all__ = [
    "Bars",
    "CentreSurround",
    "Constant",
    "ContrastSweep",
    "Flash",
    "Frames",
    "Function",
    "Grating",
    "Masked",
    "Movie",
    "Noise",
    "Patches",
    "Plaid",
    "Sampled",
    "Scaled",
    "Screen",
    "Sequence",
    "Stack",
    "Stimulus",
    "Sum",
    "Translation",
]
