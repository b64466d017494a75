"""The choices in which the paper and its authors' released code differ. The defaults are the paper's."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

from vars_dyn import _checks

__all__ = ["DICTIONARIES", "Variant", "variant_of"]

#: What a VARS layer reconstructs with: features of its tokens (VARS-D), learned templates (VARS-S), or both (VARS-SD).
DICTIONARIES = ("dynamic", "static", "static+dynamic")

_OPTIONS = {
    "threshold": ("soft", "gelu"),
    "start": ("encode", "threshold"),
    "bound": ("spectral", "power_iteration", "row_sum", "row_sum_plus_one", "stored"),
    "static": ("conv", "full"),
}


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One way to build a VARS layer. The defaults are the paper's. `Variant.released` gives those of the released code.

    Attributes:
        threshold: the gate. "soft" is Eq. 9's; "gelu" is sgn(u) gelu(|u| - theta), which belongs to no penalty.
        start: where the iteration starts. "encode": at P^T x (Sec. 3.3); "threshold": at its threshold.
        bound: L of the step 1/L. "spectral": the largest eigenvalue of P^T P (Eq. 12; for a convolution, a tight bound
            on it); "power_iteration": the same by 32 power iterations, which can be exported; "row_sum":
            max_i sum_j |G_ij|, which needs no eigenvalues; "row_sum_plus_one": that plus 1; "stored": a buffer,
            refreshed by `VarsAttention.update_bound`.
        differentiate_bound: whether gradients flow through L.
        learned_metric: learned scalars on lam and L, and a learned matrix K in K G K, as in LISTA.
        static: the learned dictionary. "conv": a convolution with small kernels; "full": templates as large as the
            token grid, applied by FFT if the dictionary stands alone, or as a matrix per head beside a dynamic one.
        output_filter: a second learned global filter and batch norm between the reconstruction and the projection.
        half_spectrum_gram: multiply by K conj(K) of the half-spectra as stored. In the DC and Nyquist columns this
            differs from P^T P.
        normalize_atoms: L2-normalise atoms (features and free matrices over tokens, small kernels over their pixels).
        lam: weight of the penalty, for a layer that is given none.
        num_steps: number of iterations, for a layer that is given none.

    Raises ValueError for names that it does not know.

    Examples:
        >>> portable = va.Variant(bound="row_sum")
        >>> va.VarsAttention(16, 2, variant=portable)(torch.randn(1, 9, 16)).shape
        torch.Size([1, 9, 16])
    """

    threshold: Literal["soft", "gelu"] = "soft"
    start: Literal["encode", "threshold"] = "encode"
    bound: Literal["spectral", "power_iteration", "row_sum", "row_sum_plus_one", "stored"] = "spectral"
    differentiate_bound: bool = True
    learned_metric: bool = False
    static: Literal["conv", "full"] = "conv"
    output_filter: bool = False
    half_spectrum_gram: bool = False
    normalize_atoms: bool = True
    lam: float = 0.3
    num_steps: int = 3

    def __post_init__(self) -> None:
        for name, options in _OPTIONS.items():
            _checks.choice(f"variant.{name}", getattr(self, name), options)
        _checks.number("variant.lam", self.lam, nonnegative=True)
        _checks.count("variant.num_steps", self.num_steps)

    @classmethod
    def released(cls, dictionary: str) -> Variant:
        """The released code's form for `dictionary` (github.com/bfshi/VARS, commit 651eb51)."""
        if dictionary == "static":
            return cls(
                start="threshold",
                bound="stored",
                differentiate_bound=False,
                static="full",
                output_filter=True,
                half_spectrum_gram=True,
                normalize_atoms=False,
                lam=3.5,
            )
        return cls(
            threshold="gelu",
            start="threshold",
            bound="row_sum_plus_one",
            differentiate_bound=False,
            learned_metric=True,
            static="full",
            num_steps=5,
        )

    @property
    def has_paper_steps(self) -> bool:
        """Whether the iteration and its atoms are the paper's. lam, num_steps and the static part may differ."""
        return dataclasses.replace(self, static="conv", lam=0.3, num_steps=3) == Variant()

    @property
    def solves_problem(self) -> bool:
        """Whether fixed points of the iteration solve a sparse reconstruction, so that there is a certificate."""
        return self.threshold == "soft" and not self.learned_metric

    def check_problem(self) -> None:
        """Raise ValueError, with the reason, unless the variant solves a problem."""
        if not self.solves_problem:
            raise ValueError(
                f"variant.threshold is {self.threshold!r} and variant.learned_metric {self.learned_metric}; only a "
                "soft threshold with the plain Gram matrix solves a problem"
            )

    def fitting(self, dictionary: str) -> Variant:
        """The variant itself if it can be built for `dictionary`. Otherwise raises ValueError with the reason."""
        fourier = dictionary == "static" and self.static == "full"
        for name, wanted in (("output_filter", True), ("half_spectrum_gram", True), ("bound", "stored")):
            if getattr(self, name) == wanted and not fourier:
                raise ValueError(
                    f"variant.{name} is {wanted!r} with dictionary={dictionary!r} and variant.static={self.static!r}; "
                    "it is made for dictionary='static' with variant.static='full'"
                )
        if self.learned_metric and (dictionary == "static" or (dictionary != "dynamic" and self.static == "conv")):
            raise ValueError(
                f"variant.learned_metric is True with dictionary={dictionary!r} and variant.static={self.static!r}; "
                "a learned d' x d' matrix needs codes whose number does not depend on the grid: a dynamic dictionary, "
                "or static+dynamic with variant.static='full'"
            )
        return self


def variant_of(variant: str | Variant, dictionary: str) -> Variant:
    """The Variant for "paper", "released" or a Variant, checked against `dictionary`."""
    if isinstance(variant, Variant):
        return dataclasses.replace(variant).fitting(dictionary)
    _checks.choice("variant", variant, ("paper", "released"))
    return Variant() if variant == "paper" else Variant.released(dictionary)
