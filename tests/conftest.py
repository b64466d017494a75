"""Configuration shared by all tests: threads, hypothesis profiles, the gpu marker."""

from __future__ import annotations

import os
import signal

# One thread per worker, here and in every process that a test starts. This must be set before torch is imported.
for _variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_variable] = "1"
os.environ.setdefault("MPLBACKEND", "agg")
# A shell's background job ignores SIGINT by inheritance, but the tests of interrupts must work there too.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

import hypothesis
import pytest
import torch

import tests.typechecking  # noqa: F401  # the import hook finds it as an attribute of `tests`

torch.set_num_threads(1)

# CI and the default run are deterministic; `HYPOTHESIS_PROFILE=explore` looks for new examples.
hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None, max_examples=12, print_blob=True)
hypothesis.settings.register_profile("explore", deadline=None, max_examples=300, print_blob=True)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests marked `gpu` where there is no CUDA device."""
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="no CUDA device")
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(skip)
