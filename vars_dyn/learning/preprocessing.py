"""Named steps that prepare images and patches for learning. Each can be undone.

A step's `apply` returns the changed array and what it took away; `invert` puts it back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from vars_dyn import _checks

__all__ = ["ZCA", "Centre", "ContrastNormalisation", "OlshausenField", "Preparation", "Prepared"]

Array = NDArray[np.float64]


class Prepared(NamedTuple):
    """The array after a step, and what the step took away, which `invert` needs."""

    values: Array
    kept: dict[str, Array]


@runtime_checkable
class Preparation(Protocol):
    """A step on an image (colour, row, column), or on patches (n, colour, row, column)."""

    def apply(self, values: Array) -> Prepared:
        """The values after the step, and what it took away."""
        ...

    def invert(self, values: Array, kept: dict[str, Array]) -> Array:
        """The values before the step, for values after it (or a reconstruction of them)."""
        ...

    def facts(self) -> dict[str, Any]:
        """The step's name and settings, as plain data."""
        ...


@dataclass(frozen=True)
class OlshausenField:
    """The whitening filter of Olshausen and Field (Vision Research 37, 3311, 1997) for images (colour, row, column).

    The amplitude at the spatial frequency f, in cycles a pixel, is multiplied by  f exp(-(f / cutoff)^4). Natural
    images have amplitudes of about 1/f, so this flattens their spectrum. The low pass takes out the corners of the
    spectrum, where noise and aliasing are. Then the image is divided by its standard deviation. The mean (f = 0) is
    taken away and kept. To undo this multiplies the highest frequencies by up to 2e4, and their rounding errors too.

    Attributes:
        cutoff: in cycles a pixel; the paper's 200 cycles a picture of 512 pixels are 0.4.
    """

    cutoff: float = 0.4

    def __post_init__(self) -> None:
        _checks.number("cutoff", self.cutoff, positive=True)

    def _filter(self, shape: tuple[int, ...]) -> Array:
        down, across = (np.fft.fftfreq(n) for n in shape[-2:])
        frequency = np.hypot(down[:, None], across[None, :])
        return frequency * np.exp(-((frequency / self.cutoff) ** 4))

    def apply(self, values: Float[np.ndarray, "c h w"]) -> Prepared:
        mean = values.mean((-2, -1), keepdims=True)
        # The transform takes the image for periodic, and would see a jump from edge to edge as strong lines. The image
        # with its mirror images is periodic without a jump.
        mirrored = _mirrored(values - mean)
        filtered = np.fft.ifft2(np.fft.fft2(mirrored) * self._filter(mirrored.shape)).real
        found = filtered[..., : values.shape[-2], : values.shape[-1]]
        deviation = np.array(found.std())
        scale = float(deviation) or 1.0
        return Prepared(found / scale, {"mean": mean, "deviation": deviation})

    def invert(self, values: Float[np.ndarray, "c h w"], kept: dict[str, Array]) -> Array:
        response = self._filter(_mirrored(values).shape)
        response[0, 0] = 1.0
        spectrum = np.fft.fft2(_mirrored(values * (float(kept["deviation"]) or 1.0)))
        spectrum[..., 0, 0] = 0.0
        found = np.fft.ifft2(spectrum / response).real
        return found[..., : values.shape[-2], : values.shape[-1]] + kept["mean"]

    def facts(self) -> dict[str, Any]:
        return {"step": "olshausen-field", "cutoff": self.cutoff}


def _mirrored(image: Array) -> Array:
    """The image with its mirror images below and beside it, which is periodic."""
    tall = np.concatenate([image, image[..., ::-1, :]], axis=-2)
    return np.concatenate([tall, tall[..., ::-1]], axis=-1)


@dataclass(frozen=True)
class Centre:
    """Subtracts the mean of every patch (n, ...)."""

    def apply(self, values: Float[np.ndarray, "n ..."]) -> Prepared:
        mean = values.mean(tuple(range(1, values.ndim)), keepdims=True)
        return Prepared(values - mean, {"mean": mean})

    def invert(self, values: Float[np.ndarray, "n ..."], kept: dict[str, Array]) -> Array:
        return values + kept["mean"]

    def facts(self) -> dict[str, Any]:
        return {"step": "centre"}


@dataclass(frozen=True)
class ContrastNormalisation:
    """Divides every patch (n, ...) by sqrt(mean square + floor^2), the divisive normalisation of a single pool.

    Attributes:
        floor: the root mean square at which a patch counts as weak; noise below it is not amplified.
    """

    floor: float = 0.1

    def __post_init__(self) -> None:
        _checks.number("floor", self.floor, positive=True)

    def apply(self, values: Float[np.ndarray, "n ..."]) -> Prepared:
        power = np.square(values).mean(tuple(range(1, values.ndim)), keepdims=True)
        contrast = np.sqrt(power + self.floor**2)
        return Prepared(values / contrast, {"contrast": contrast})

    def invert(self, values: Float[np.ndarray, "n ..."], kept: dict[str, Array]) -> Array:
        return values * kept["contrast"]

    def facts(self) -> dict[str, Any]:
        return {"step": "contrast", "floor": self.floor}


@dataclass(frozen=True)
class ZCA:
    """Zero-phase whitening of patches (n, ...): W = E (D + ridge mean(D))^(-1/2) E^T with the covariance E D E^T.

    Bell and Sejnowski (Vision Research 37, 3327, 1997). `fit` estimates it from patches.

    Attributes:
        mean: the mean patch, flat.
        values, vectors: D and E.
        ridge: relative to the mean eigenvalue, so that weak directions, which are noise, are not amplified.
    """

    mean: Array
    values: Array
    vectors: Array
    ridge: float = 0.1

    @classmethod
    def fit(cls, patches: Float[np.ndarray, "n ..."], ridge: float = 0.1) -> ZCA:
        """Estimate the covariance; ValueError for fewer than two patches, or a ridge that is not above zero."""
        if len(patches) < 2:
            raise ValueError(f"patches has {len(patches)} of them; at least two are wanted for a covariance")
        flat = patches.reshape(len(patches), -1)
        mean = flat.mean(0)
        values, vectors = np.linalg.eigh(np.cov(flat, rowvar=False).reshape(flat.shape[1], -1))
        return cls(mean, values.clip(min=0.0), vectors, float(_checks.number("ridge", ridge, positive=True)))

    def _scales(self) -> Array:
        raised = self.values + self.ridge * (self.values.mean() or 1.0)
        return np.asarray(np.sqrt(raised))

    def apply(self, values: Float[np.ndarray, "n ..."]) -> Prepared:
        flat = values.reshape(len(values), -1) - self.mean
        return Prepared(((flat @ self.vectors) / self._scales() @ self.vectors.T).reshape(values.shape), {})

    def invert(self, values: Float[np.ndarray, "n ..."], kept: dict[str, Array]) -> Array:
        flat = values.reshape(len(values), -1)
        return ((flat @ self.vectors) * self._scales() @ self.vectors.T + self.mean).reshape(values.shape)

    def facts(self) -> dict[str, Any]:
        return {"step": "zca", "ridge": self.ridge}
