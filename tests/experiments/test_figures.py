"""Figures show what they claim. The tests compare the pictures on the panels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from experiments import figures as command
from experiments.data.images import as_images
from experiments.evaluation.corruptions import corrupt_all
from experiments.evaluation.measures.maps import attention_map, view
from experiments.evaluation.measures.saliency import nss
from experiments.evaluation.suites.mit1003 import Gaze, fixations_of, gaze_files, subjects_of
from experiments.evaluation.trained import load
from experiments.report import pictures
from experiments.settings import Attention, Settings
from experiments.training.loop import train
from tests.experiments.test_map_suites import write_mit1003
from vars_dyn.attention import upsampled


@pytest.fixture
def runs(settings: Callable[..., Settings], tmp_path: Path) -> dict[str, str]:
    """One run of softmax attention and one of VARS-D."""
    made = {}
    for kind in ("softmax", "vars_d"):
        base = settings(epochs=1, out=str(tmp_path / kind))
        train(replace(base, model=replace(base.model, attention=Attention(kind))))
        made[kind] = str(tmp_path / kind)
    return made


@pytest.fixture
def panels(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Keeps the figures that are saved, each as rows of panels."""
    kept: list[Any] = []
    real = pictures.save

    def save(figure: Any, path: Path) -> None:
        kept.append(np.array(figure.axes).reshape(-1, figure.axes[0].get_gridspec().ncols))
        real(figure, path)

    monkeypatch.setattr(pictures, "save", save)
    return kept


@pytest.fixture
def image(images: Path) -> tuple[str, np.ndarray]:
    file = images / "val" / "disc" / "00004.png"
    return str(file), np.array(Image.open(file))


def _shown(axis: Any) -> np.ndarray:
    return np.asarray(axis.images[0].get_array())


def _map(run: str, pixels: np.ndarray) -> np.ndarray:
    model, *_ = load(run)
    with torch.no_grad():
        return upsampled(attention_map(model.eval(), as_images(pixels[None])), (16, 16))[0].numpy()


def test_maps_under_corruption(
    runs: dict[str, str], image: tuple[str, np.ndarray], panels: list[Any], tmp_path: Path
) -> None:
    file, pixels = image
    out = tmp_path / "figure.png"
    models = f"[{runs['softmax']}, mine={runs['vars_d']}]"
    arguments = ["corruption", "--models", models, "--images", f"[{file}, {file}]", "--out", str(out)]
    assert command.main([*arguments, "--corruptions", "[snow-4]"]) == 0
    assert out.stat().st_size > 10_000
    (axes,) = panels
    assert axes.shape == (2 * 3, 2)
    snowy = corrupt_all(np.stack([pixels, pixels]), "snow", 4)
    for i in range(2):  # the noise of the snow differs between two equal images
        assert np.array_equal(_shown(axes[3 * i, 0]), pixels)
        assert np.array_equal(_shown(axes[3 * i, 1]), snowy[i])
        for row, kind in enumerate(runs, 1):
            assert np.allclose(_shown(axes[3 * i + row, 0]), _map(runs[kind], pixels), atol=1e-5)
            assert np.allclose(_shown(axes[3 * i + row, 1]), _map(runs[kind], snowy[i]), atol=1e-5)
    assert [axes[row, 0].get_ylabel() for row in range(3)] == ["", "softmax", "mine"]


def test_maps_after_each_update(
    runs: dict[str, str], image: tuple[str, np.ndarray], panels: list[Any], tmp_path: Path
) -> None:
    file, pixels = image
    moving = tmp_path / "figure.gif"
    arguments = [
        "updates",
        "--models",
        f"[{runs['vars_d']}]",
        "--images",
        f"[{file}]",
        "--out",
        str(tmp_path / "f.png"),
    ]
    assert command.main([*arguments, "--num_steps", "5", "--animation", str(moving)]) == 0
    (axes,) = panels
    assert axes.shape == (1, 1 + 6)
    model, *_ = load(runs["vars_d"])
    # The model was trained with k = 3, so its own map appears after three updates. Further updates change the map.
    assert np.allclose(_shown(axes[0, 1 + 3]), _map(runs["vars_d"], pixels), atol=1e-5)
    assert not np.allclose(_shown(axes[0, 1 + 5]), _map(runs["vars_d"], pixels), atol=1e-5)
    start = view(model.eval(), as_images(pixels[None])).maps[0].mean(1)
    assert np.allclose(_shown(axes[0, 1]), upsampled(start, (16, 16))[0].detach(), atol=1e-5)
    with Image.open(moving) as gif:
        assert gif.n_frames == 6  # type: ignore[attr-defined]
        first = np.asarray(gif.convert("RGB"))
        gif.seek(5)
        assert not np.array_equal(first, np.asarray(gif.convert("RGB")))
    assert command.main(arguments) == 0
    assert panels[1].shape == (1, 1 + 4)


def test_atoms_as_masks(runs: dict[str, str], image: tuple[str, np.ndarray], panels: list[Any], tmp_path: Path) -> None:
    file, pixels = image
    arguments = ["atoms", "--models", f"[{runs['vars_d']}]", "--images", f"[{file}]", "--out", str(tmp_path / "f.png")]
    assert command.main([*arguments, "--count", "3", "--head", "1", "--threshold", "0.6"]) == 0
    (axes,) = panels
    model, *_ = load(runs["vars_d"])
    found = view(model.eval(), as_images(pixels[None]))
    used = found.codes[-1][0, 1].abs().sum(0)
    assert [int(axis.get_title().split()[1]) for axis in axes[0, 1:]] == used.topk(3).indices.tolist()
    for axis, atom in zip(axes[0, 1:], used.topk(3).indices, strict=True):
        mask = found.masks(0.6)[0, 1, atom].repeat_interleave(4, 0).repeat_interleave(4, 1).numpy()
        assert np.array_equal(_shown(axis)[mask], pixels[mask])
        assert _shown(axis)[~mask].max() <= 0.2 * 255


def test_maps_beside_fixations(
    runs: dict[str, str], panels: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_mit1003(tmp_path)
    file = tmp_path / "MIT1003" / "ALLSTIMULI" / "one.jpeg"
    arguments = ["fixations", "--models", f"[{runs['softmax']}]", "--out", str(tmp_path / "f.png")]
    arguments += ["--gaze.pixels_per_degree", "2"]
    assert command.main([*arguments, "--images", f"[{file}]"]) == 0
    (axes,) = panels
    gaze = Gaze(pixels_per_degree=2)
    points = fixations_of(gaze_files(file, subjects_of(tmp_path / "MIT1003")), (8, 8), gaze)
    assert axes[0, 0].lines[0].get_xydata().tolist() == points[:, ::-1].tolist() == [[0, 1], [7, 7], [1, 2]]
    score = nss(_shown(axes[0, 2]), points)
    assert axes[0, 2].get_title() == f"softmax\nNSS {score:.2f}"
    other = tmp_path / "MIT1003" / "ALLSTIMULI" / "unseen.jpeg"
    file.rename(other)
    assert command.main([*arguments, "--images", f"[{other}]"]) == 2
    assert "has no fixations" in capsys.readouterr().err


def test_what_cannot_be_drawn(
    runs: dict[str, str], image: tuple[str, np.ndarray], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vars_d, softmax = (["--models", f"[{runs[kind]}]"] for kind in ("vars_d", "softmax"))
    both = ["--models", f"[{', '.join(runs.values())}]"]
    for wrong, words in (
        (["updates", *softmax], "the layer has no iterates"),
        (["updates", *softmax, "--num_steps", "4"], "no VARS attention"),
        (["updates", *both], "2 models came"),
        (["atoms", *softmax], "no dynamic dictionary"),
        (["atoms", *vars_d, "--head", "2"], "head is 2"),
        (["atoms", *vars_d, "--count", "99"], "count is 99"),
        (["corruption", *vars_d, "--corruptions", "[rain-3]"], "corruptions has 'rain-3'"),
        (["corruption", *vars_d, "--layer", "no"], "layer is 'no'"),
        (["corruption", "--models", "[]"], "models is empty"),
    ):
        assert command.main([*wrong, "--images", f"[{image[0]}]", "--out", str(tmp_path / "f.png")]) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()[-1:]
        assert words in line
    assert not (tmp_path / "f.png").exists()
