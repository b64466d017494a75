"""Tiny images and settings shared by the tests of the experiments."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("jsonargparse", reason="the experiments extra is not installed")
pytest.importorskip("lightning_fabric", reason="the experiments extra is not installed")

from experiments.data.drawn import write_images
from experiments.settings import Attention, Augmentation, Data, Model, Optimization, Settings


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders train and val of six classes, 4 and 3 images of 16 pixels each."""
    folder = tmp_path_factory.mktemp("images")
    write_images(folder, train=4, val=3, size=16)
    return folder


@pytest.fixture
def settings(images: Path, tmp_path: Path) -> Callable[..., Settings]:
    """A maker of settings for a transformer of one block without batch norm, trained in a second."""

    def make(**changes: Any) -> Settings:
        made = {
            "out": str(tmp_path / "run"),
            "model": Model(
                "vars_deit_micro",
                Attention("vars_d"),
                {"stem": "patch", "embed_dim": 16, "num_heads": 2, "depth": 1},
            ),
            "data": Data(root=str(images), image_size=16, crop=1),
            "augmentation": Augmentation(crop="padded"),
            "optimization": Optimization(batch_size=8, lr=3e-3),
            "epochs": 2,
            "accelerator": "cpu",
            "probe_images": 0,
            "progress": False,
        }
        return Settings(**{**made, **changes})

    return make
