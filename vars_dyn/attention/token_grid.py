"""The token grid of each forward pass, from a model's patch embedding to its attention layers.

A layer sees only a sequence of tokens, and 144 of them may be 12 x 12 or 16 x 9. `follow_grid` therefore hooks a model,
so that the module that embeds the patches tells the grid to the layers of the same pass.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from vars_dyn.attention.dictionaries.tokens import Grid, exact_layout, grid_pair, grid_tokens
from vars_dyn.attention.embedded_grid import embedded_grid, sides

__all__ = ["OnTokenGrid", "TokenGrid", "follow_grid", "grid_of"]


class OnTokenGrid:
    """Base of the attention layers: what a layer knows about its token grid.

    Attributes:
        grid_size: the (H, W) that the layer was made for, or None.
        num_prefix_tokens: class and register tokens ahead of the image tokens, or None.
        token_grid: the grid of each pass, which the surrounding model tells (`follow_grid`); None if no model does.
    """

    grid_size: Grid | None = None
    num_prefix_tokens: int | None = None
    token_grid: TokenGrid | None = None

    def __prepare_scriptable__(self) -> nn.Module:
        """Called by `torch.jit.script`, which cannot compile the layers: raises ValueError."""
        raise ValueError(
            f"{type(self).__name__} cannot be compiled by torch.jit.script; torch.compile or torch.export is wanted"
        )

    def layout(self, tokens: int, grid_size: int | Grid | None = None) -> tuple[int, Grid]:
        """(number of prefix tokens, (H, W)) for a call with this number of `tokens`.

        The grid is `grid_size` if given. Otherwise it is the one that the model's patch embedding made in this pass.
        Outside of a pass, or in a model that does not tell it, it is the layer's own grid, where None stands for a
        square. Raises ValueError if the grid is not known or does not fit the number of tokens.
        """
        followed, prefix = self.token_grid, self.num_prefix_tokens
        if followed is not None and prefix is None:
            prefix = followed.num_prefix_tokens
        if grid_size is not None:
            return exact_layout(tokens, prefix, grid_pair(grid_size) or (0, 0))
        if followed is None:
            return grid_tokens(tokens, prefix, self.grid_size)
        told = followed.present()
        if told is None and followed.in_pass():
            raise ValueError(
                f"{tokens} tokens came in a pass whose patch embedding gave no grid (packed tokens of several images, "
                "as NaFlex has them); a static dictionary wants images on a grid, or take a dynamic dictionary"
            )
        if told is None and self.grid_size is None:
            raise ValueError(
                f"{tokens} tokens came on a grid that nothing says; a static dictionary wants grid_size=(height, "
                "width), or a model whose patch_embed makes the grid in the same forward pass"
            )
        return exact_layout(tokens, prefix, told or self.grid_size or (0, 0))


class TokenGrid:
    """The token grid of one model (or of one stage of it) in the forward pass under way, separate for each thread.

    The patch embedding sets the grid for the pass. But checkpointing recomputes blocks in the backward pass, perhaps in
    another thread and after another forward pass. So the grid is also kept for every tensor that enters or leaves a
    block. The tensor's storage identifies it as long as the storage lives.

    Args:
        num_prefix_tokens: of the model, or None.
    """

    def __init__(self, num_prefix_tokens: int | None = None) -> None:
        self.num_prefix_tokens = num_prefix_tokens
        self._clear()

    def _clear(self) -> None:
        self._pass, self._lock, self._purge_at = threading.local(), threading.Lock(), 64
        self._known: dict[StorageWeakRef, tuple[torch.Size, Grid]] = {}

    def __getstate__(self) -> dict[str, Any]:
        """The state of a copy, which has no pass under way."""
        return {"num_prefix_tokens": self.num_prefix_tokens}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.num_prefix_tokens = state["num_prefix_tokens"]
        self._clear()

    def present(self) -> Grid | None:
        """The grid of the pass under way; None if the grid is unknown or no pass is under way."""
        block: Grid | None = getattr(self._pass, "block", None)
        grid: Grid | None = getattr(self._pass, "grid", None)
        return grid if block is None else block

    def in_pass(self) -> bool:
        """Whether patches were already embedded in the pass under way, on a grid or not."""
        return bool(getattr(self._pass, "embedded", False))

    def _set(self, grid: Grid | None, embedded: bool = True) -> None:
        self._pass.grid, self._pass.block, self._pass.embedded = grid, None, embedded

    # The hooks are bound methods, so that models that have them can be copied and pickled.

    def begin(self, module: nn.Module, args: Any) -> None:
        """Before the whole model: put aside the state of an outer pass, if there is one."""
        state = self._pass
        before = (getattr(state, "grid", None), getattr(state, "block", None), getattr(state, "embedded", False))
        state.around = (*getattr(state, "around", ()), before)
        self._set(None, embedded=False)

    def end(self, module: nn.Module, args: Any, output: Any) -> None:
        """After the whole model, even if it raised an error."""
        state = self._pass
        *around, (grid, block, embedded) = getattr(state, "around", ()) or ((None, None, False),)
        self._set(grid, embedded)
        state.block, state.around = block, tuple(around)

    def embedded(self, module: nn.Module, args: Any, output: Any) -> None:
        """After the patch embedding. A symbolic trace (torch.fx) has no grid to tell."""
        if isinstance(output, Tensor | tuple | list):
            self._set(embedded_grid(module, args, output))

    def entered_stage(self, module: nn.Module, args: Any) -> None:
        """Before a stage that is called with (map, prefix tokens)."""
        self._set_pair(args[0])

    def left_pool(self, module: nn.Module, args: Any, output: Any) -> None:
        """After a module that gives (map, prefix tokens)."""
        self._set_pair(output)

    def _set_pair(self, pair: Any) -> None:
        self._set(sides(pair[0]))
        self.num_prefix_tokens = pair[1].shape[1]

    def entered_mobilevit(self, module: Any, args: Any) -> None:
        """Before a MobileViT block. It cuts its map into patches; equal places in all patches form a sequence."""
        (height, width), (down, across) = sides(args[0]), module.patch_size
        self._set((-(-height // down), -(-width // across)))

    def enter(self, module: nn.Module, args: Any) -> None:
        """Before a module that holds a layer."""
        state = self._pass
        state.block = None
        x: Any = args[0] if args else None
        if not _has_identity(x):
            return
        state.block = self._find(x)
        if state.block is None:
            self._remember(x, getattr(state, "grid", None))

    def leave(self, module: nn.Module, args: Any, output: Any) -> None:
        """After a module that holds a layer, even if it raised an error."""
        if _has_identity(output):
            self._remember(output, self.present())
        self._pass.block = None

    def finish(self, module: nn.Module, args: Any, output: Any) -> None:
        """After the last module that holds a layer: end the pass.

        If the model's methods are called one by one, nothing else ends it.
        """
        self._set(None, embedded=False)

    def _find(self, x: Tensor) -> Grid | None:
        found = self._known.get(StorageWeakRef(x.untyped_storage()))
        return found[1] if found is not None and found[0] == x.shape else None

    def _remember(self, x: Tensor, grid: Grid | None) -> None:
        if grid is None:
            return
        with self._lock:
            # A key keeps the address of its storage reserved, so that no other storage can get the same address.
            self._known[StorageWeakRef(x.untyped_storage())] = (x.shape, grid)
            if len(self._known) > self._purge_at:
                self._known = {key: value for key, value in self._known.items() if not key.expired()}
                self._purge_at = 2 * len(self._known) + 64


def follow_grid(model: nn.Module) -> nn.Module:
    """Let the attention layers of `model` know the token grid of each forward pass; returns the same model.

    `replace_attention` and the models of this project call it themselves. Call it for a model that was built with an
    attention class, such as timm's `VisionTransformer(attn_layer=...)`. The grid comes from the module that embeds the
    patches: `patch_embed`, `embeds` in timm's NaFlexVit, the stages of PiT, the blocks of MobileViT, `conv_proj` of
    torchvision's ViT, or `embeddings.patch_embeddings.projection` of transformers' ViTs. A layer that no
    such module serves uses its own `grid_size`. So does a layer of a model that passes the grid to every call
    (`passes_grid`). Calling the function again is harmless.

    Examples:
        >>> from timm.models.vision_transformer import VisionTransformer
        >>> attn = va.VarsAttention.configured(dictionary="static")
        >>> vit = VisionTransformer(
        ...     img_size=16, patch_size=4, embed_dim=16, depth=1, num_heads=2, attn_layer=attn, dynamic_img_size=True
        ... )
        >>> va.follow_grid(vit)(torch.randn(1, 3, 16, 24)).shape  # 4 x 6 tokens
        torch.Size([1, 1000])
    """
    modules: dict[str, Any] = dict(model.named_modules())
    last: dict[int, tuple[TokenGrid, nn.Module]] = {}
    for name, layer in modules.items():
        if not isinstance(layer, OnTokenGrid):
            continue
        around = [modules[path] for path in _ancestors(name)]
        if any(getattr(each, "passes_grid", False) for each in around):
            continue
        state = next((found for found in (_follow(each, model) for each in around) if found is not None), None)
        if state is None:
            continue
        layer.token_grid = state
        # An interface is called inside a block, with tensors that checkpointing makes anew.
        holder = next(each for each in around if not getattr(each, "is_interface", False))
        if holder.__dict__.get("token_grid") is not state:
            _hook(holder, state, before=TokenGrid.enter, always=TokenGrid.leave)
            last[id(state)] = (state, holder)
    for state, holder in last.values():
        _hook(holder, state, after=TokenGrid.finish)
    return model


def grid_of(model: nn.Module, name: str) -> tuple[Grid | None, int | None]:
    """The (grid, number of prefix tokens) for which the model around the layer `name` is made; None if unknown."""
    for path in _ancestors(name):
        module: Any = model.get_submodule(path)
        grid = getattr(getattr(module, "patch_embed", None), "grid_size", None)
        prefix = _prefix(module)
        if _stage(module) is not None:
            return None, prefix
        if grid is None and _convolution(module) is not None:
            sizes = getattr(getattr(module, "embeddings", None), "patch_embeddings", module)
            height, width = (
                whole // part for whole, part in zip(_pair(sizes.image_size), _pair(sizes.patch_size), strict=True)
            )
            return (height, width), prefix
        if grid is not None or prefix is not None:
            return (None if grid is None else tuple(grid)), prefix
    return None, None


def _convolution(module: Any) -> nn.Module | None:
    """The convolution onto patches of a ViT of torchvision or transformers, whose output is a map."""
    embeddings = getattr(getattr(module, "embeddings", None), "patch_embeddings", None)
    found = getattr(embeddings, "projection", None) if embeddings is not None else getattr(module, "conv_proj", None)
    sizes = module if embeddings is None else embeddings
    known = all(hasattr(sizes, name) for name in ("image_size", "patch_size"))
    return found if known and isinstance(found, nn.Module) else None


def _prefix(module: Any) -> int | None:
    """The number of class and register tokens of a model; None if nothing says."""
    if _convolution(module) is None:
        return getattr(module, "num_prefix_tokens", None)
    holder = getattr(module, "embeddings", module)
    single = ("class_token", "cls_token", "distillation_token")
    registers = getattr(holder, "register_tokens", None)
    return sum(getattr(holder, name, None) is not None for name in single) + (
        0 if registers is None else registers.shape[1]
    )


def _pair(size: Any) -> Grid:
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def _ancestors(name: str) -> Iterator[str]:
    """Names of the modules around `name`, from the nearest outwards."""
    while name:
        name = name.rpartition(".")[0]
        yield name


def _stage(module: Any) -> str | None:
    """The family, "pit" or "mobilevit", of a stage that has its own grid; None for any other module."""
    if not isinstance(module, nn.Module):
        return None
    if all(hasattr(module, name) for name in ("conv_kxk", "transformer", "patch_size", "patch_area")):
        return "mobilevit"
    if type(module).__module__ == "timm.models.pit" and hasattr(module, "pool") and hasattr(module, "blocks"):
        return "pit"
    return None


def _follow(module: Any, root: nn.Module) -> TokenGrid | None:
    """The `TokenGrid` of `module`, hooked to the part that makes the grid; None if no part makes one."""
    stage = _stage(module)
    embed = getattr(module, "patch_embed", None)
    if not isinstance(embed, nn.Module):
        embed = getattr(module, "embeds", None) or _convolution(module)
    if stage is None and not isinstance(embed, nn.Module):
        return None
    state: TokenGrid | None = module.__dict__.get("token_grid")
    if state is None:
        prefix = 0 if stage == "mobilevit" else _prefix(module)
        state = module.token_grid = TokenGrid(prefix)
    for each in (module, root):
        _hook(each, state, before=TokenGrid.begin, always=TokenGrid.end)
    if stage == "mobilevit":
        _hook(module, state, before=TokenGrid.entered_mobilevit)
    elif stage == "pit" and module.pool is not None:
        _hook(module.pool, state, after=TokenGrid.left_pool)
    elif stage == "pit":
        _hook(module, state, before=TokenGrid.entered_stage)
    else:
        _hook(embed, state, after=TokenGrid.embedded)
    return state


def _hook(module: Any, state: TokenGrid, before: Any = None, after: Any = None, always: Any = None) -> None:
    """Register methods of `state` as hooks of `module`, each of them once."""
    for method in (before, after, always):
        kept = module._forward_pre_hooks if method is before else module._forward_hooks
        if method is None or any(hook == method.__get__(state) for hook in kept.values()):
            continue
        if method is before:
            module.register_forward_pre_hook(method.__get__(state))
        else:
            module.register_forward_hook(method.__get__(state), always_call=method is always)


def _has_identity(x: Any) -> bool:
    """Whether `x` is a tensor that its storage identifies. It is one in eager mode and under no transform."""
    return (
        not torch.compiler.is_compiling()
        and type(x) in (Tensor, nn.Parameter)
        and x.layout == torch.strided
        and torch._C._get_tracing_state() is None
        and not torch._C._are_functorch_transforms_active()
    )
