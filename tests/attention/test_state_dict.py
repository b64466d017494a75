"""The names and shapes of a VARS layer's entries, by which checkpoints are read."""

from __future__ import annotations

import pytest
import torch

from vars_dyn.attention import Variant, VarsAttention

PROJ = {"proj.weight": (8, 8), "proj.bias": (8,)}
VALUES = {**PROJ, "v.weight": (8, 8), "v.bias": (8,)}
QUERIES_VALUES = {**PROJ, "qkv.weight": (16, 8), "qkv.bias": (16,), "rand_matrix": (2, 4, 8)}
NORM = {f"norm1.bn.{name}": (8,) for name in ("weight", "bias", "running_mean", "running_var")}

#: The entries by dictionary and variant, without the rows of prefix tokens.
ENTRIES = {
    ("dynamic", "paper"): QUERIES_VALUES,
    ("dynamic", "full"): QUERIES_VALUES,
    ("dynamic", "released"): {**QUERIES_VALUES, "learned_k": (8, 8), "learned_lam": (1,), "learned_L": (1,)},
    ("static", "paper"): {**VALUES, "kernel": (8, 3, 5, 5)},
    ("static", "full"): {**VALUES, "kernel": (8, 3, 1, 3, 3, 2)},
    ("static", "released"): {
        **VALUES,
        **NORM,
        "norm1.bn.num_batches_tracked": (),
        "kernel": (8, 3, 1, 3, 3, 2),
        "kernel2": (8, 1, 1, 3, 3, 2),
        "L": (8,),
    },
    ("static+dynamic", "paper"): {**QUERIES_VALUES, "kernel": (8, 3, 5, 5)},
    ("static+dynamic", "full"): {**QUERIES_VALUES, "kernel": (1, 2, 12, 8)},
    ("static+dynamic", "released"): {
        **QUERIES_VALUES,
        "kernel": (1, 2, 12, 8),
        "learned_k": (16, 16),
        "learned_lam": (1,),
        "learned_L": (1,),
    },
}


DRAWN = {"rand_matrix", "kernel", "kernel2", "rows", "L"}


@pytest.mark.parametrize("prefix", [None, 0, 2])
@pytest.mark.parametrize(("dictionary", "variant"), ENTRIES)
def test_entries_are_called_and_shaped_as_checkpoints_have_them(
    dictionary: str, variant: str, prefix: int | None
) -> None:
    form = Variant(static="full") if variant == "full" else variant
    sizes = {"grid_size": (3, 4), "templates": 3, "kernel_size": 5, "num_prefix_tokens": prefix}
    layer = VarsAttention(8, 2, qkv_bias=True, dictionary=dictionary, variant=form, **sizes)
    wanted, rows = dict(ENTRIES[dictionary, variant]), 1 if prefix is None else prefix
    if dictionary == "static+dynamic" and variant != "paper":
        wanted["kernel"] = (1, 2, 12 + rows, 8)
    elif dictionary != "dynamic" and rows:
        wanted["rows"] = (8, rows, 3)
    assert {name: tuple(value.shape) for name, value in layer.state_dict().items()} == wanted
    drawn = {"rand_matrix", "L", *(name for name in wanted if "running" in name or "tracked" in name)}
    assert {name for name, _ in layer.named_parameters()} == wanted.keys() - drawn


@pytest.mark.parametrize(("dictionary", "variant"), ENTRIES)
def test_a_reset_draws_everything_anew(dictionary: str, variant: str) -> None:
    form = Variant(static="full") if variant == "full" else variant
    layer = VarsAttention(8, 2, dictionary=dictionary, variant=form, grid_size=(3, 4))
    torch.manual_seed(3)
    layer.reset_parameters()
    own = {name: value.clone() for name, value in layer.state_dict().items() if name in DRAWN}
    assert own
    for seed in (4, 3):
        torch.manual_seed(seed)
        layer.reset_parameters()
        for name, first in own.items():
            assert torch.equal(layer.state_dict()[name], first) is (seed == 3)
