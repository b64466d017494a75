"""Attention layers for vision transformers: VARS in its three forms, Performer, softmax, and the subspaces of CRATE."""

from vars_dyn.attention.exporting import export_onnx
from vars_dyn.attention.inspection import LayerView, look_inside, record_layer, upsampled
from vars_dyn.attention.kinds import KINDS, attention_class
from vars_dyn.attention.performer import PerformerAttention
from vars_dyn.attention.replace import Replacement, replace_attention
from vars_dyn.attention.robustness import support_radius
from vars_dyn.attention.softmax import SoftmaxAttention
from vars_dyn.attention.solving import Equilibrium, Ode
from vars_dyn.attention.subspace import SubspaceAttention
from vars_dyn.attention.token_grid import follow_grid
from vars_dyn.attention.variants import Variant
from vars_dyn.attention.vars import VarsAttention

__all__ = [
    "KINDS",
    "Equilibrium",
    "LayerView",
    "Ode",
    "PerformerAttention",
    "Replacement",
    "SoftmaxAttention",
    "SubspaceAttention",
    "Variant",
    "VarsAttention",
    "attention_class",
    "export_onnx",
    "follow_grid",
    "look_inside",
    "record_layer",
    "replace_attention",
    "support_radius",
    "upsampled",
]
