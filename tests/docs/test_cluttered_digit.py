"""The documentation's example of the paper's Fig. 2 does what its page says."""

from __future__ import annotations

import runpy

import numpy as np


def test_the_digit_emerges_and_the_clutter_fades() -> None:
    example = runpy.run_path("docs/examples/cluttered_digit.py", run_name="example")
    figure, run = example["simulate"]("3")
    assert float(run.relative_gap_end.max()) <= 1e-6
    share = example["contrast"](figure, run)
    assert share[0] > 0.9  # the lines of clutter are as dark as the digit
    assert share[-1] < 0.7
    assert (np.diff(share) < 1e-3).all()
    explained = run.code_end.dot(run.dictionary, dim="atom").to_numpy()[0]
    assert np.corrcoef(explained, figure.ravel())[0, 1] > 0.95
    assert np.corrcoef(run.signals.to_numpy()[0], figure.ravel())[0, 1] < 0.8
    assert {ax.get_ylabel() for ax in example["picture"](figure, run).findobj(lambda a: hasattr(a, "get_ylabel"))} >= {
        "neurons z",
        "explained, P a",
    }
