"""The VARS authors' released weights (github.com/bfshi/VARS, commit 651eb51) in this project's modules.

Parameters keep their released names and shapes, except in VARS-S. There the attention entries of the block (v, proj,
kernel, kernel2, L, norm1) belong to the submodule `attn`. `renamed` is the whole mapping.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from models.rvt import Block, RobustVisionTransformer
from vars_dyn.attention import KINDS, Variant, attention_class
from vars_dyn.attention.base import TokenMixer

__all__ = ["attention", "load", "model", "renamed"]

Weights = Mapping[str, Tensor]

#: Entries that the released code stores but never reads.
_UNREAD = re.compile(r"(^|\.)kernel_norm$|(^|\.)attn\.L$|^L$")
_STATIC_ATTENTION = re.compile(r"^(v\.|proj\.|kernel|L$|norm1\.)")


def renamed(name: str, kind: str) -> str | None:
    """This project's name for the released entry `name` in a model with attention of `kind`; None if it is not read."""
    if kind != "vars_s":
        return None if _UNREAD.search(name) else name
    if name.endswith("kernel_norm"):
        return None
    head, dot, tail = name.rpartition("blocks.")
    number, _, entry = tail.partition(".") if dot else ("", "", tail)
    prefix = f"{head}{dot}{number}." if dot else ""
    return f"{prefix}attn.{entry}" if _STATIC_ATTENTION.match(entry) else name


def attention(meta: Mapping[str, Any], state_dict: Weights) -> nn.Module:
    """The attention module of a reference file, (B, N, C) -> (B, N, C), with its weights, in evaluation mode.

    `meta` is the file's JSON entry: kind, dim, num_heads, grid, lam, num_steps. For kind "vars_s" it is the whole
    block. Raises ValueError for an unknown kind or weights that do not fit.
    """
    cls = _attention_class(meta, state_dict, "")
    dim, heads, grid = meta["dim"], meta["num_heads"], (meta["grid"], meta["grid"])
    if meta["kind"] != "vars_s":
        return _filled(cls.on_grid(grid, 0)(dim, heads, qkv_bias="qkv.bias" in state_dict), meta["kind"], state_dict)
    fc1 = state_dict["mlp.fc1.weight"]
    block = Block(dim, heads, cls.on_grid(grid, 0), fc1.shape[0] / dim, conv_mlp=fc1.ndim == 4, grid_size=grid)
    return _filled(block, "vars_s", state_dict)


def model(meta: Mapping[str, Any], state_dict: Weights) -> RobustVisionTransformer:
    """The RVT network of a reference file, (B, 3, H, W) -> (B, num_classes), with its weights, in evaluation mode.

    `meta` is the file's JSON entry: kind, image_size, base_dims, depth, heads, num_classes, lam, num_steps. The other
    sizes follow from the weights. Raises ValueError for an unknown kind or weights that do not fit.
    """
    first = "transformers.0.blocks.0."
    network = RobustVisionTransformer(
        img_size=meta["image_size"],
        patch_size=4 * state_dict["patch_embed.proj.3.weight"].shape[-1],
        in_chans=state_dict["patch_embed.proj.0.weight"].shape[1],
        num_classes=meta["num_classes"],
        base_dims=meta["base_dims"],
        depth=meta["depth"],
        heads=meta["heads"],
        mlp_ratio=_mlp_ratio(state_dict),
        attention=_attention_class(meta, state_dict, first if meta["kind"] == "vars_s" else first + "attn."),
    )
    return _filled(network, meta["kind"], state_dict)


def load(
    path: str | Path,
    attention: str | None = None,
    lam: float | None = None,
    num_steps: int | None = None,
    heads: Sequence[int] | None = None,
) -> RobustVisionTransformer:
    """The RVT network in a checkpoint file of the authors' training code, in evaluation mode.

    Only tensors, plain containers and argparse.Namespace are unpickled. The weights do not show `lam` and `num_steps`.
    If not given, these come from the training arguments in the file or, without those, from the released code's
    defaults. Softmax weights do not show `heads`; if not given, it comes from the sizes of RVT. The kind of `attention`
    follows from the weights.

    Raises ValueError for a file that holds no RVT weights, or weights of another kind than `attention`.
    """
    with torch.serialization.safe_globals([argparse.Namespace]):
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    state_dict = checkpoint.get("model", checkpoint) if isinstance(checkpoint, dict) else {}
    if "patch_embed.proj.0.weight" not in state_dict:
        raise ValueError(f"path is {str(path)!r}, which holds no RVT weights (patch_embed.proj.0.weight is missing)")
    kind = _kind(state_dict)
    if attention not in (None, kind):
        raise ValueError(f"attention is {attention!r}, but the weights in {str(path)!r} are those of {kind!r}")
    trained = vars(checkpoint["args"]) if isinstance(checkpoint.get("args"), argparse.Namespace) else {}
    form = Variant.released("static" if kind == "vars_s" else "dynamic")
    if kind in ("vars_d", "vars_sd"):
        trained_form = {"lam": trained.get("lam", form.lam), "num_steps": trained.get("num_step", form.num_steps)}
        form = dataclasses.replace(form, **trained_form)
    meta = _measured(kind, state_dict)
    meta["heads"] = list(heads or meta["heads"] or _known_heads(meta["widths"]))
    meta["base_dims"] = [width // count for width, count in zip(meta["widths"], meta["heads"], strict=True)]
    meta["lam"] = form.lam if lam is None else lam
    meta["num_steps"] = form.num_steps if num_steps is None else num_steps
    return model(meta, state_dict)


def _mlp_ratio(state_dict: Weights) -> float:
    hidden, width = state_dict["transformers.0.blocks.0.mlp.fc1.weight"].shape[:2]
    return hidden / width


def _filled(module: nn.Module, kind: str, state_dict: Weights) -> Any:
    names = {name: renamed(name, kind) for name in state_dict}
    weights = {ours: state_dict[name] for name, ours in names.items() if ours is not None}
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f"state_dict does not fit a {kind!r} network with these sizes: {error}") from error
    return module.eval()


def _attention_class(meta: Mapping[str, Any], state_dict: Weights, prefix: str) -> type[TokenMixer]:
    """The released form of a kind of attention, with the sizes of its weights, whose names start with `prefix`."""
    kind = meta["kind"]
    released = [each for each in KINDS if each != "crate"]
    if kind not in released:
        raise ValueError(f"meta['kind'] is {kind!r}; one of {', '.join(released)} is wanted")
    if kind == "softmax":
        return attention_class(kind)
    if kind == "vars_s":
        options: dict[str, Any] = {"templates": state_dict[prefix + "kernel"].shape[1]}
    else:
        random = state_dict[prefix + "rand_matrix"]
        options = {"feature_ratio": random.shape[2] / random.shape[1]}
    if kind == "performer":
        return attention_class(kind, **options)
    variant = Variant.released("static" if kind == "vars_s" else "dynamic")
    if kind != "vars_s" and prefix + "learned_k" not in state_dict:
        # Before commit 651eb51 the released code had a soft threshold and no learned metric.
        variant = dataclasses.replace(variant, threshold="soft", learned_metric=False)
    return attention_class(kind, variant=variant, lam=meta["lam"], num_steps=meta["num_steps"], **options)


def _kind(state_dict: Weights) -> str:
    block = "transformers.0.blocks.0."
    if block + "kernel" in state_dict:
        return "vars_s"
    if block + "attn.kernel" in state_dict:
        return "vars_sd"
    if block + "attn.rand_matrix" not in state_dict:
        return "softmax"
    queries_keys_values = state_dict[block + "attn.qkv.weight"]
    return "performer" if queries_keys_values.shape[0] == 3 * queries_keys_values.shape[1] else "vars_d"


def _measured(kind: str, state_dict: Weights) -> dict[str, Any]:
    """The construction arguments that follow from the weights, as in a reference file's meta."""
    first = "transformers.0.blocks.0."
    depth: list[int] = []
    heads: list[int] = []
    widths: list[int] = []
    while (stage := f"transformers.{len(depth)}.blocks.") + "0.mlp.fc1.weight" in state_dict:
        depth.append(len({name.split(".")[3] for name in state_dict if name.startswith(stage)}))
        widths.append(state_dict[stage + "0.mlp.fc1.weight"].shape[1])
        if kind == "vars_s":
            heads.append(1)  # a depth-wise dictionary computes the same with any number of heads
        elif stage + "0.attn.rand_matrix" in state_dict:
            heads.append(state_dict[stage + "0.attn.rand_matrix"].shape[0])
    grid = 14
    if kind == "vars_s":
        grid = state_dict[first + "kernel"].shape[3]
    if kind == "vars_sd":
        grid = math.isqrt(state_dict[first + "attn.kernel"].shape[2])
    num_classes = state_dict["head.weight"].shape[0] if "head.weight" in state_dict else 0
    sizes = {"kind": kind, "image_size": 16 * grid, "num_classes": num_classes}
    return {**sizes, "depth": depth, "heads": heads, "widths": widths}


def _known_heads(widths: Sequence[int]) -> Sequence[int]:
    """The heads of RVT-Ti, -S or -B with these widths, because softmax weights do not show them."""
    known = {(192, 384): (6, 12), (384,): (6,), (768,): (12,)}
    if tuple(widths) not in known:
        raise ValueError(f"heads is None, and weights of softmax attention with widths {list(widths)} do not show them")
    return known[tuple(widths)]
