"""test_export.py runs this in a process without the tests' run-time checks of shapes, because torch cannot trace them.

Prints one JSON object: for each attention, what differs between the model and its compiled and ONNX forms.
"""

from __future__ import annotations

import json
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnxruntime
import timm
import torch
from torch import Tensor, nn
from torch._dynamo.backends.debugging import aot_eager

import models  # noqa: F401
from vars_dyn.attention import KINDS, Variant, VarsAttention, export_onnx, replace_attention
from vars_dyn.attention.reconstruct import triton as kernels
from vars_dyn.attention.reconstruct.triton import operator

OTHERS = {
    "gfnet": {"embed_dim": 8, "depth": 1, "num_heads": 2},
    "rvt": {"base_dims": (4, 4), "depth": (1, 1), "heads": (2, 4)},
}


def tiny(kind: str) -> nn.Module:
    torch.manual_seed(0)
    sizes = {"embed_dim": 8, "depth": 1, "num_heads": 2, "img_size": 16, "num_classes": 3}
    return timm.create_model("vars_deit_micro", attention=kind, **sizes).eval()


def replaced(height: int, width: int) -> tuple[nn.Module, Tensor]:
    """timm's ViT with VARS-S attention, and images of the given size."""
    torch.manual_seed(0)
    sizes = {"embed_dim": 8, "depth": 1, "num_heads": 2, "img_size": 16, "patch_size": 4, "num_classes": 3}
    model = timm.create_model("vit_tiny_patch16_224", dynamic_img_size=True, **sizes)
    return replace_attention(model, "vars_s").eval(), torch.randn(2, 3, height, width)


def difference(a: Tensor, b: Tensor) -> float:
    return float((a - b).detach().norm() / b.detach().norm())


def compiled(module: nn.Module, x: Tensor, backend: Any = "aot_eager") -> dict[str, float]:
    """Compile the whole module as one graph, forward and backward."""
    whole = torch.compile(module, fullgraph=True, backend=backend)
    errors = {"output": difference(whole(x), module(x))}
    grads = []
    for each in (whole, module):
        module.zero_grad()
        each(x).square().sum().backward()
        grads.append(torch.cat([p.grad.flatten() for p in module.parameters()]))
    torch._dynamo.reset()
    return {**errors, "gradient": difference(*grads)}


def exported(module: nn.Module, folder: Path, bound: str = "power_iteration") -> dict[str, float]:
    """Export to ONNX with a free batch size, and run it with onnxruntime."""
    said = export_onnx(module, torch.randn(2, 3, 16, 16), folder / "model.onnx", bound, verbose=False)
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    layers = [layer for layer in module.modules() if isinstance(layer, VarsAttention)]
    kept = session.get_modelmeta().custom_metadata_map["vars_dyn.bound"]
    assert kept == (bound if layers else "none")
    assert said.endswith(kept)
    assert all(layer.variant.bound == "spectral" for layer in layers)
    for layer in layers if bound == "row_sum" else ():
        layer.variant = Variant(bound="row_sum")
    errors = {}
    for count in (2, 3):
        images = torch.randn(count, 3, 16, 16)
        (output,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
        errors[f"batch of {count}"] = difference(torch.from_numpy(output), module(images))
    return errors


def by_operator() -> dict[str, float]:
    """A compiled layer for which the GPU's operator is taken on the CPU, where it computes the plain form."""
    seen = []

    def keep(graph: torch.fx.GraphModule, example: list[Tensor]) -> Callable[..., Any]:
        seen.extend(str(node.target) for node in graph.graph.nodes)
        return aot_eager(graph, example)

    kernels._DEVICE, operator.widest = "cpu", lambda device: (0, 0)
    layer, x = VarsAttention(8, 2), torch.randn(1, 9, 8)
    errors = compiled(layer, x, keep)
    kernels._DEVICE = "cuda"
    assert any("reconstruct_features" in name for name in seen), seen
    return errors


def main() -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    results: dict[str, dict[str, dict[str, float]]] = {"compile": {}, "onnx": {}}
    results["compile"]["vars_d, exact L"] = compiled(VarsAttention(8, 2), torch.randn(1, 9, 8))
    results["compile"]["vars_s, 16 x 9 tokens"] = compiled(*replaced(64, 36))
    results["compile"]["vars_s, 9 x 16 tokens"] = compiled(*replaced(36, 64))
    results["compile"]["the GPU's operator"] = by_operator()
    for family, sizes in OTHERS.items():
        torch.manual_seed(0)
        model = timm.create_model(f"vars_{family}_micro", attention="vars_sd", num_classes=3, img_size=16, **sizes)
        results["compile"][family] = compiled(model.eval(), torch.randn(2, 3, 16, 16))
    with tempfile.TemporaryDirectory() as folder:
        results["onnx"]["vars_d, row sums"] = exported(tiny("vars_d"), Path(folder), "row_sum")
    for kind in KINDS:
        model = tiny(kind)
        results["compile"][kind] = compiled(model, torch.randn(2, 3, 16, 16))
        with tempfile.TemporaryDirectory() as folder:
            results["onnx"][kind] = exported(model, Path(folder))
    print(json.dumps(results))


if __name__ == "__main__":
    main()
