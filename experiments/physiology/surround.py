"""Effects from beyond the receptive field and from other orientations: surround suppression, end-stopping,
cross-orientation suppression, completion behind an occluder (Zhu and Rozell, PLoS Comput. Biol. 9, e1003191, 2013).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from experiments.physiology import measures
from experiments.physiology.drawings import Place, bar, disc, grating
from experiments.physiology.population import Population
from experiments.physiology.tables import about, of_cells

__all__ = ["completion", "cross_orientation", "length_tuning", "size_tuning"]

Array = NDArray[np.float64]


def size_tuning(
    cells: Population, chosen: Sequence[int], diameters: Sequence[float], contrast: float = 1.0
) -> xr.Dataset:
    """Responses to discs of the cell's own grating, over their diameter in pixels, with the suppression index."""

    def shown(place: Place, size: float) -> Array:
        return grating(cells.side, place, contrast) * disc(cells.side, place, size)

    return _over_sizes(cells, chosen, "diameter", diameters, "diameter of the grating", shown)


def length_tuning(
    cells: Population, chosen: Sequence[int], lengths: Sequence[float], contrast: float = 1.0
) -> xr.Dataset:
    """Responses to a bar on the cell's strongest stripe, over its length in pixels: end-stopping."""

    def shown(place: Place, size: float) -> Array:
        return bar(cells.side, place, size, contrast)

    return _over_sizes(cells, chosen, "length", lengths, "length of the bar", shown)


def _over_sizes(
    cells: Population,
    chosen: Sequence[int],
    dim: str,
    sizes: Sequence[float],
    text: str,
    shown: Callable[[Place, float], Array],
) -> xr.Dataset:
    at = np.asarray(sizes, dtype=np.float64)
    values = np.array(
        [cells.responses(np.array([shown(cells.place(cell), s) for s in at]))[:, cell] for cell in chosen]
    )
    linear = np.array(
        [[max(float((cells.atoms[c] * shown(cells.place(c), s)).sum()), 0.0) for s in at] for c in chosen]
    )
    index = measures.suppression_index(values)
    return of_cells(
        chosen,
        {
            "response": (("cell", dim), values, about("1", "response")),
            "linear": (("cell", dim), linear, about("1", "the atom's inner product with the stimulus, rectified")),
            "suppression_index": ("cell", index, about("1", "(R_opt - R_large) / R_opt")),
            "linear_index": ("cell", measures.suppression_index(linear), about("1", "the same of the inner product")),
            "preferred": ("cell", at[values.argmax(-1)], about("pixel", f"{text} with the largest response")),
        },
        {dim: (dim, at, about("pixel", text))},
    )


def cross_orientation(
    cells: Population, chosen: Sequence[int], contrasts: Sequence[float], contrast: float = 0.25, phases: int = 8
) -> xr.Dataset:
    """Responses to a grating on the receptive field with an orthogonal mask over it, over the mask's contrast.

    The response is the mean over the mask's phases. `suppression` is 1 - R(masked) / R(alone) for the last contrast,
    `mask_alone` the response to that mask alone.
    """
    levels = np.asarray(contrasts, dtype=np.float64)
    values, alone, bare = [], [], []
    for cell in chosen:
        place = cells.place(cell)
        extent = cells.extent(cell)
        window, own = disc(cells.side, place, extent), grating(cells.side, place, contrast)
        masks = np.array([grating(cells.side, place, 1.0, 90.0, 360.0 * k / phases) for k in range(phases)])
        shown = (own + levels[:, None, None, None] * masks) * window
        values.append(cells.responses(shown)[..., cell].mean(-1))
        bare.append(cells.responses(own * window)[cell])
        alone.append(cells.responses(levels[-1] * masks * window)[..., cell].mean())
    responses, baseline = np.array(values), np.array(bare)
    index = measures.cross_orientation_suppression(baseline, responses[:, -1])
    return of_cells(
        chosen,
        {
            "response": (("cell", "mask_contrast"), responses, about("1", "response to the grating with its mask")),
            "alone": ("cell", baseline, about("1", "response to the grating alone")),
            "mask_alone": ("cell", np.array(alone), about("1", "response to the mask of the last contrast alone")),
            "suppression": ("cell", index, about("1", "1 - R(masked) / R(alone)")),
        },
        {"mask_contrast": ("mask_contrast", levels, about("1", "contrast of the mask"))},
    )


def completion(cells: Population, chosen: Sequence[int], widths: Sequence[float], contrast: float = 1.0) -> xr.Dataset:
    """Responses to a grating over the whole patch, with a grey disc over the receptive field: completion.

    `ratio` is the response over that without the disc; `linear_ratio` is the same of the atom's inner product with the
    stimulus. A ratio above the linear one says that the cell stands for what the surround suggests.
    """
    at = np.asarray(widths, dtype=np.float64)
    values, linear = [], []
    for cell in chosen:
        place = cells.place(cell)
        full = grating(cells.side, place, contrast)
        shown = np.array([full * (1 - disc(cells.side, place, width)) for width in (-2.0, *at)])
        values.append(cells.responses(shown)[:, cell])
        linear.append(np.clip((cells.atoms[cell] * shown).sum((1, 2)), 0.0, None))
    responses, drive = np.array(values), np.array(linear)
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio, expected = responses[:, 1:] / responses[:, :1], drive[:, 1:] / drive[:, :1]
    return of_cells(
        chosen,
        {
            "response": (("cell", "occluder"), responses[:, 1:], about("1", "response behind the occluder")),
            "unoccluded": ("cell", responses[:, 0], about("1", "response without an occluder")),
            "ratio": (
                ("cell", "occluder"),
                np.where(np.isfinite(ratio), ratio, np.nan),
                about("1", "response over that without occluder"),
            ),
            "linear_ratio": (("cell", "occluder"), expected, about("1", "the same of the atom's inner product")),
        },
        {"occluder": ("occluder", at, about("pixel", "diameter of the grey disc"))},
    )
