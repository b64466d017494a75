"""test_export.py runs this in a process without the tests' run-time checks of shapes, because torch cannot trace them.

Prints one JSON object: for each attention, what differs between the model and its compiled and ONNX forms.
"""

from __future__ import annotations

import json
import tempfile
import warnings
from pathlib import Path

import onnxruntime
import timm
import torch
from torch import Tensor, nn

import models  # noqa: F401
from vars_dyn.attention import KINDS, Variant, VarsAttention, attention_class, replace_attention


def tiny(kind: str) -> nn.Module:
    torch.manual_seed(0)
    # ONNX has no singular values, so L is the row-sum bound.
    options = {"variant": Variant(bound="row_sum")} if kind.startswith("vars") else {}
    sizes = {"embed_dim": 8, "depth": 1, "num_heads": 2, "img_size": 16, "num_classes": 3}
    return timm.create_model("vars_deit_micro", attention=attention_class(kind, **options), **sizes).eval()


def replaced(height: int, width: int) -> tuple[nn.Module, Tensor]:
    """timm's ViT with VARS-S attention, and images of the given size."""
    torch.manual_seed(0)
    sizes = {"embed_dim": 8, "depth": 1, "num_heads": 2, "img_size": 16, "patch_size": 4, "num_classes": 3}
    model = timm.create_model("vit_tiny_patch16_224", dynamic_img_size=True, **sizes)
    return replace_attention(model, "vars_s").eval(), torch.randn(2, 3, height, width)


def difference(a: Tensor, b: Tensor) -> float:
    return float((a - b).detach().norm() / b.detach().norm())


def compiled(module: nn.Module, x: Tensor) -> dict[str, float]:
    """Compile the whole module as one graph, forward and backward."""
    whole = torch.compile(module, fullgraph=True, backend="aot_eager")
    errors = {"output": difference(whole(x), module(x))}
    grads = []
    for each in (whole, module):
        module.zero_grad()
        each(x).square().sum().backward()
        grads.append(torch.cat([p.grad.flatten() for p in module.parameters()]))
    torch._dynamo.reset()
    return {**errors, "gradient": difference(*grads)}


def exported(module: nn.Module, folder: Path) -> dict[str, float]:
    """Export to ONNX with a free batch size, and run it with onnxruntime."""
    batch = ({0: torch.export.Dim("batch")},)
    program = torch.onnx.export(module, (torch.randn(2, 3, 16, 16),), dynamo=True, dynamic_shapes=batch, verbose=False)
    program.save(folder / "model.onnx")
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    errors = {}
    for count in (2, 3):
        images = torch.randn(count, 3, 16, 16)
        (output,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
        errors[f"batch of {count}"] = difference(torch.from_numpy(output), module(images))
    return errors


def main() -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    results: dict[str, dict[str, dict[str, float]]] = {"compile": {}, "onnx": {}}
    results["compile"]["vars_d, exact L"] = compiled(VarsAttention(8, 2), torch.randn(1, 9, 8))
    results["compile"]["vars_s, 16 x 9 tokens"] = compiled(*replaced(64, 36))
    results["compile"]["vars_s, 9 x 16 tokens"] = compiled(*replaced(36, 64))
    for kind in KINDS:
        model = tiny(kind)
        results["compile"][kind] = compiled(model, torch.randn(2, 3, 16, 16))
        with tempfile.TemporaryDirectory() as folder:
            results["onnx"][kind] = exported(model, Path(folder))
    print(json.dumps(results))


if __name__ == "__main__":
    main()
