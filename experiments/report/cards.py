"""Model cards: what a published model is, how to load it, what was measured, and where the numbers come from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from experiments.options.plain_data import as_plain
from experiments.report.summaries import columns_of, over_seeds
from experiments.settings import Settings

__all__ = ["card"]

_USE = """```python
import timm
import models  # from a clone of vars_dyn: registers its models with timm

model = timm.create_model("hf-hub:USER/NAME", pretrained=True)  # or local-dir:FOLDER
transform = timm.data.create_transform(**timm.data.resolve_data_config(model=model))
```"""

_ATTENTION = {
    "vars_s": "attention by sparse reconstruction from learned templates (VARS-S)",
    "vars_d": "attention by sparse reconstruction from features of its own tokens (VARS-D)",
    "vars_sd": "attention by sparse reconstruction from templates and features of its tokens (VARS-SD)",
    "performer": "Performer attention",
    "softmax": "softmax attention",
    "global_filter": "global filters",
    None: "its own attention",
}


def card(
    title: str,
    settings: Settings,
    state: Mapping[str, Any],
    found: Sequence[Mapping[str, Any]],
    license: str,  # noqa: A002
) -> str:
    """The model card as Markdown with the hub's YAML header.

    `state` is the checkpoint's, and `found` has the records of its evaluation; without any, the card says so.
    """
    head = {
        "tags": ["image-classification", "timm", "vars"],
        "pipeline_tag": "image-classification",
        "library_name": "timm",
        "license": license,
    }
    data, model = settings.data, settings.model
    parts = [
        f"---\n{yaml.safe_dump(head, sort_keys=False)}---",
        f"# {title}",
        f"`{model.name}` with {_ATTENTION.get(model.attention.kind, model.attention.kind)}, for images of "
        f"{data.image_size} x {data.image_size} pixels and {len(state['classes'])} classes. It was trained for "
        f"{state['epoch']} of {settings.epochs} epochs with seed {settings.seed}"
        + (f", starting from `{settings.finetune}`." if settings.finetune else "."),
        f"## Use\n\n{_USE}",
        f"## Measured\n\n{_measured(found)}",
        f"## Training\n\nAll settings:\n\n```json\n{json.dumps(as_plain(settings), indent=1)}\n```",
        "The method is that of Shi, Song, Joshi, Darrell and Wang, Visual Attention Emerges from Recurrent Sparse "
        "Reconstruction, ICML 2022 ([arXiv 2204.10962](https://arxiv.org/abs/2204.10962)). This is another "
        "implementation, with its own weights.",
    ]
    return "\n\n".join(parts) + "\n"


def _measured(found: Sequence[Mapping[str, Any]]) -> str:
    if not found:
        return "Nothing was measured. `python -m experiments.evaluate RUN` does, before a model is published."
    told = {name: sorted({str(record[name]) for record in found if name in record}) for name in _TOLD}
    origin = "; ".join(f"{what} {', '.join(told[name])}" for name, what in _TOLD.items() if told[name])
    return f"{over_seeds(found, columns_of(found))}\n\nThese numbers come from {origin}."


#: What the records say of their origin, and its name in the card.
_TOLD = {"commit": "commit", "torch_version": "torch", "command": "the command", "date": "the dates"}
