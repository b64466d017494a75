"""Export to ONNX, with a choice of L that ONNX can compute."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from vars_dyn import _checks
from vars_dyn.attention.vars import VarsAttention

__all__ = ["export_onnx"]

#: The field of an ONNX file that names the bounds of its layers.
_FIELD = "vars_dyn.bound"


def export_onnx(
    model: nn.Module,
    images: Tensor,
    path: str | Path,
    bound: Literal["power_iteration", "row_sum"] = "power_iteration",
    **options: Any,
) -> str:
    """Write `model` as an ONNX file for any number of images, and say which L its VARS layers compute.

    ONNX has no eigenvalues. So layers whose L is the largest eigenvalue (`Variant(bound="spectral")`, the default)
    compute `bound` in the file. "power_iteration" agrees with the model to rounding. "row_sum" is cheaper and larger,
    so its codes take shorter steps than in training. Other layers keep their L. The model stays as it is.

    Args:
        model: in evaluation mode.
        images: an example, (B, C, H, W) with B of at least 2.
        path: the file, which also says its bound in the metadata field "vars_dyn.bound".
        bound: what stands for the largest eigenvalue.
        options: arguments of `torch.onnx.export`.

    Returns:
        One sentence: the file, and the bound of its layers.

    Raises:
        ValueError: the bound is unknown, the model is in training mode, or the example has fewer than two images.

    Examples:
        >>> import timm
        >>> network = timm.create_model("vars_deit_micro", attention="vars_d", depth=1).train()
        >>> va.export_onnx(network, torch.randn(2, 3, 32, 32), "network.onnx")
        Traceback (most recent call last):
        ValueError: model is in training mode; model.eval() is wanted for an export
    """
    _checks.choice("bound", bound, ("power_iteration", "row_sum"))
    if model.training:
        raise ValueError("model is in training mode; model.eval() is wanted for an export")
    if len(images) < 2:
        raise ValueError(f"images has {len(images)} images; at least 2 are wanted, so that their number stays free")
    layers = [layer for layer in model.modules() if isinstance(layer, VarsAttention)]
    with _bounded(layers, bound):
        used = sorted({str(layer.variant.bound) for layer in layers}) or ["none"]
        free = ({0: torch.export.Dim("batch")},)
        options = {"dynamo": True, "dynamic_shapes": free, "verbose": False, **options}
        program: Any = torch.onnx.export(model, (images,), **options)
    program.model.metadata_props[_FIELD] = ",".join(used)
    program.save(str(path))
    return f"{path} has {len(layers)} VARS layers; their L is {' and '.join(used)}"


@contextmanager
def _bounded(layers: list[VarsAttention], bound: Literal["power_iteration", "row_sum"]) -> Iterator[None]:
    before = [layer.variant for layer in layers]
    try:
        for layer in layers:
            if layer.variant.bound == "spectral":
                layer.variant = dataclasses.replace(layer.variant, bound=bound)
        yield
    finally:
        for layer, variant in zip(layers, before, strict=True):
            layer.variant = variant
