"""The documentation's figure of the plain adjoint: going backwards, the error grows at the rate of the stiffness."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from types import ModuleType

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "examples" / "naive_adjoint.py"


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("naive_adjoint", PAGE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_way_back_leaves_the_trajectory(example: ModuleType) -> None:
    back = example.there_and_back(end=3.0)
    early, late = float(back.distance[0]), float(back.distance[-20])
    rate = math.log(early / late) / float(back.times[-20] - back.times[0])
    assert 0.5 * back.stiffness < rate <= 1.05 * back.stiffness


def test_only_the_plain_adjoint_is_lost(example: ModuleType) -> None:
    found = {mode: values[0] for mode, values in example.errors(horizons=(3.0,)).items()}
    assert found.pop("odeint_adjoint") > 0.05
    assert max(found.values()) < 1e-2
