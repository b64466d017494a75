"""`python -m experiments.certify RUN`: the radius within which no support changes, at the layers of a trained model.

For each VARS layer, solved to its equilibrium at the tokens that validation images give it, it computes a certified
radius per image, head and channel (`vars_dyn.attention.support_radius`). It compares them with what a change of the
pixels does to these tokens: random signs, and one step against the gradient (FGSM), both of 1/255 in every pixel. One
table, one figure, and one sentence that says whether the radius says anything there.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jsonargparse import Namespace
from torch import Tensor, nn

from experiments import cli
from experiments.data.images import as_images, evaluation_images
from experiments.evaluation.trained import trained
from experiments.report import plots
from experiments.report.outputs import refuse_foreign
from experiments.report.records import provenance
from vars_dyn import _files
from vars_dyn.attention import VarsAttention, support_radius
from vars_dyn.attention.inspection import layer_inputs

__all__ = ["certified", "main"]

_WRITTEN = ("certified.json", "certified.png")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    parser = cli.parser_for("certify", "Certify within which radius no support of a trained model's codes changes.")
    cli.add_model(parser)
    parser.add_option("images", int, default=8, help="how many validation images are taken, evenly over classes")
    parser.add_option("radius", float, default=1.0, help="change of each pixel that is compared, in 1/255")
    parser.add_option("seed", int, default=0, help="seed of the random signs")
    parser.add_option("out", str | None, default=None, help="folder of the results; default: RUN/evaluation")
    parser.add_flag("overwrite", "replace results of other measurements in the folder")
    return cli.run(parser, lambda values: _main(parser.instantiate(values)), arguments, None)


def _main(values: Namespace) -> None:
    if values.images < 1 or not values.radius > 0:
        raise ValueError(f"images is {values.images} and radius {values.radius}; numbers above 0 are wanted")
    found = trained(
        values.checkpoint, values.weights, validation=values.validation, attention=values.attention,
        root=Path(values.data) if values.data else None,
    )  # fmt: skip
    out = Path(values.out) if values.out else found.out
    refuse_foreign((out / name for name in _WRITTEN), values.overwrite, out / "certified.json")
    images = found.images
    if images is None:
        raise ValueError(f"{values.checkpoint} has no validation images; a run on a data set is wanted")
    pixels, _ = evaluation_images(images.subset(min(values.images, len(images)), "images"), found.settings.data)
    layers = certified(found.model.eval(), as_images(pixels), values.radius / 255, values.seed)
    said = _verdict(layers, values.radius)
    content = {
        "metric": "support_radius",
        "verdict": said,
        "radius": values.radius,
        "layers": layers,
        **found.about(),
        **provenance(),
    }
    out.mkdir(parents=True, exist_ok=True)
    _files.write_bytes(out / "certified.json", f"{json.dumps(content)}\n".encode())
    plots.certified(layers, out / "certified.png")
    print(_table(layers))
    print(said)


def certified(model: nn.Module, images: Tensor, size: float, seed: int = 0) -> dict[str, dict[str, list[float]]]:
    """For each VARS layer, by name: the radii, and what a change of each pixel by `size` does to the layer's tokens.

    All are relative to the Frobenius norm of an image's tokens: `radii` for each image, head and channel, `noise` and
    `fgsm` for each image. `images` (B, 3, H, W) are in [0, 1]. Raises ValueError if the model has no VARS layers.
    """
    generator = torch.Generator().manual_seed(seed)
    signs = torch.randint(0, 2, images.shape, generator=generator).to(images) * 2 - 1
    moving = images.clone().requires_grad_()
    logits = model(moving)
    (slope,) = torch.autograd.grad(F.cross_entropy(logits, logits.argmax(-1)), moving)
    changed = {"noise": images + size * signs, "fgsm": images + size * slope.sign()}
    seen = {name: each for name, each in layer_inputs(model, images).items() if isinstance(each.layer, VarsAttention)}
    if not seen:
        raise ValueError("the model has no VARS layers; --attention.kind gives it some")
    after = {how: layer_inputs(model, each.clamp(0, 1)) for how, each in changed.items()}
    found = {}
    for name, each in seen.items():
        norm = each.x.double().flatten(1).norm(dim=1)
        radii = support_radius(each.layer, each.x, each.grid) / norm[:, None, None]
        moved = {how: (others[name].x - each.x).double().flatten(1).norm(dim=1) / norm for how, others in after.items()}
        found[name] = {"radii": radii.flatten().tolist(), **{how: value.tolist() for how, value in moved.items()}}
    return found


def _shares(layer: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """The shares of codes with a radius above the median change by noise and by FGSM."""
    radii = np.asarray(layer["radii"])
    return {how: float((radii > np.median(layer[how])).mean()) for how in ("noise", "fgsm")}


def _table(layers: Mapping[str, Any]) -> str:
    lines = [
        "| layer | codes | median radius | largest | noise moves | share certified | FGSM moves | share certified |"
    ]
    lines += ["|---|--:|--:|--:|--:|--:|--:|--:|"]
    for name, layer in layers.items():
        radii, shares = np.asarray(layer["radii"]), _shares(layer)
        numbers = [f"{np.median(radii):.2g}", f"{radii.max():.2g}"]
        for how in ("noise", "fgsm"):
            numbers += [f"{np.median(layer[how]):.2g}", f"{100 * shares[how]:.1f} %"]
        lines.append(f"| {name} | {len(radii)} | {' | '.join(numbers)} |")
    return "\n".join(lines)


def _verdict(layers: Mapping[str, Any], radius: float) -> str:
    shares = [_shares(layer) for layer in layers.values()]
    noise, fgsm = (float(np.mean([each[how] for each in shares])) for how in ("noise", "fgsm"))
    if max(noise, fgsm) < 0.01:
        return (
            f"Vacuous: where each pixel changes by {radius:g}/255, the tokens move further than the radius of nearly "
            f"every code (certified: {100 * noise:.1f} % under noise, {100 * fgsm:.1f} % under FGSM)."
        )
    return (
        f"Where each pixel changes by {radius:g}/255, {100 * noise:.1f} % of the codes keep their support for certain "
        f"under noise, and {100 * fgsm:.1f} % under FGSM; of the others nothing is proved."
    )


if __name__ == "__main__":
    sys.exit(main())
