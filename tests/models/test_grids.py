"""Images that are not square, end to end."""

from __future__ import annotations

import copy
import pickle

import pytest
import timm
import torch
from torch import Tensor, nn

import models  # noqa: F401
from models.rvt import Block
from vars_dyn.attention import KINDS, VarsAttention, attention_class, look_inside
from vars_dyn.attention.token_grid import OnTokenGrid

FAMILIES = {
    "deit": {"embed_dim": 8, "depth": 2, "num_heads": 2, "dynamic_img_size": True},
    "gfnet": {"embed_dim": 8, "depth": 2, "num_heads": 2},
    "rvt": {"base_dims": (4, 4), "depth": (1, 1), "heads": (2, 4)},
}
#: 16 x 9 and 9 x 16 tokens, as many as 12 x 12.
TALL, WIDE = (64, 36), (36, 64)
CASES = [(family, kind) for family in FAMILIES for kind in (*KINDS, *(["global_filter"] if family == "gfnet" else []))]


def create(family: str, attention: str | type[nn.Module], **options: object) -> nn.Module:
    torch.manual_seed(0)
    sizes = {**FAMILIES[family], "num_classes": 3, "patch_size": 4, "img_size": TALL, **options}
    return timm.create_model(f"vars_{family}_micro", attention=attention, **sizes).double().eval()


def images(size: tuple[int, int]) -> Tensor:
    return torch.randn(2, 3, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("family", "kind"), CASES)
def test_the_layers_compute_what_layers_built_for_the_grid_do(family: str, kind: str) -> None:
    model = create(family, kind)
    seen: list[tuple[OnTokenGrid, Tensor, Tensor, dict]] = []

    def keep(module: nn.Module, args: tuple, kwargs: dict, output: Tensor) -> None:
        seen.append((module, args[0], output, kwargs))

    hooks = [
        module.register_forward_hook(keep, with_kwargs=True)
        for module in model.modules()
        if isinstance(module, OnTokenGrid)
    ]
    for size in (TALL, WIDE):
        seen.clear()
        model(images(size))
        grids = [(size[0] // 4, size[1] // 4)] * len(seen)
        if family == "rvt":
            grids[1] = (-(-grids[0][0] // 2), -(-grids[0][1] // 2))
        for (layer, x, output, _), grid in zip(list(seen), grids, strict=True):
            if kind == "global_filter" and size == WIDE:
                continue  # the filter is interpolated here, which other tests cover
            alone = copy.deepcopy(layer)
            alone.token_grid, alone.grid_size = None, grid
            prefix = 1 if family == "deit" else 0
            if isinstance(alone, VarsAttention) and alone.dictionary != "dynamic":
                assert alone.layout(x.shape[1]) == (prefix, grid)
                assert not torch.allclose(alone(x), alone(x, grid_size=grid[::-1]))
            torch.testing.assert_close(alone(x), output, rtol=0, atol=0)
    for hook in hooks:
        hook.remove()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", ["vars_s", "vars_sd"])
@pytest.mark.parametrize("variant", ["paper", "released"])
def test_a_model_built_for_a_grid_agrees_with_one_that_is_shown_it(family: str, kind: str, variant: str) -> None:
    if variant == "released" and kind == "vars_sd":
        pytest.skip("its free matrix is as large as the grid that it was built for")
    built = create(family, attention_class(kind, variant=variant, lam=0.05))
    other = create(family, attention_class(kind, variant="paper", lam=0.05), img_size=(48, 48))
    for size in (TALL, WIDE):
        assert all(view.maps.shape[-1] != view.maps.shape[-2] for view in look_inside(built, images(size)).values())
    if variant == "paper":
        state = built.state_dict()
        if family != "rvt":
            state.pop("pos_embed")
            other.pos_embed.data.zero_()
            built.pos_embed.data.zero_()
        assert not other.load_state_dict(state, strict=False).unexpected_keys
        torch.testing.assert_close(other(images(TALL)), built(images(TALL)), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("family", "kind"), CASES)
def test_models_pickle_and_checkpoint_on_any_grid(family: str, kind: str) -> None:
    model = create(family, kind)
    twin = pickle.loads(pickle.dumps(model))  # noqa: S301
    torch.testing.assert_close(twin(images(WIDE)), model(images(WIDE)), rtol=0, atol=0)
    slopes = []
    for each, checkpointing in ((model, False), (twin, True)):
        each.set_grad_checkpointing(checkpointing)
        sum(each(images(size)).square().sum() for size in (TALL, WIDE)).backward()
        slopes.append(torch.cat([p.grad.flatten() for p in each.parameters()]))
    torch.testing.assert_close(slopes[1], slopes[0], rtol=1e-9, atol=1e-13)


def test_a_block_alone_goes_by_the_grid_it_was_made_for() -> None:
    block = Block(8, 2, attention_class("vars_s"), grid_size=(2, 8)).eval()
    x = torch.randn(1, 16, 8)
    torch.testing.assert_close(block(x), block(x, (2, 8)), rtol=0, atol=0)
    assert not torch.allclose(block(x), block(x, (4, 4)))
    with pytest.raises(ValueError, match="9 tokens came"):
        block(x[:, :9])
    with pytest.raises(ValueError, match="grid_size is None for 16 tokens"):
        Block(8, 2, attention_class("vars_s"))(x)
