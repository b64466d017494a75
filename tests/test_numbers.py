"""Arrays and lists in place of tensors: the same results, in the dtype of the array, and float64 for lists."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import vars_dyn as vd
from vars_dyn import _checks

DTYPES = st.sampled_from([np.float16, np.float32, np.float64, np.int32, np.int64])
SHAPES = hnp.array_shapes(min_dims=1, max_dims=3, max_side=4)


@given(st.data())
def test_arrays_keep_their_dtype_and_numbers(data: st.DataObject) -> None:
    dtype = np.dtype(data.draw(DTYPES))
    array = data.draw(hnp.arrays(dtype, SHAPES, elements=st.integers(-99, 99)))
    turned = data.draw(st.sampled_from([array, array.T, array[::-1], array.astype(dtype.newbyteorder(">"))]))
    before = turned.copy()
    found = _checks.tensor("x", turned)
    assert str(found.dtype) == f"torch.{dtype.name}"
    np.testing.assert_array_equal(found.numpy(), turned)
    found += 1
    np.testing.assert_array_equal(turned, before)  # it is a copy


@given(hnp.arrays(np.float64, SHAPES, elements=st.floats(-9, 9)))
def test_lists_become_float64(array: Any) -> None:
    found = _checks.tensor("x", array.tolist())
    assert found.dtype == torch.float64
    np.testing.assert_array_equal(found.numpy(), array)


@pytest.mark.parametrize("value", ["abc", None, {1: 2}, [[1.0], [1.0, 2.0]], [1.0, "a"], np.array(["a"]), [None], 3.0])
def test_anything_else_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match=r"x is a .*wanted"):
        _checks.tensor("x", value)


@pytest.mark.parametrize("form", [np.asarray, lambda a: a.tolist()])
def test_every_entry_takes_them(form: Any) -> None:
    rng = np.random.default_rng(0)
    weight, x, weights = rng.normal(size=(6, 9)), rng.normal(size=(3, 6)), rng.uniform(0.5, 2, 9)
    lam, bias, times, a = np.array([0.3, 0.4, 0.5]), 0.1 * rng.normal(size=9), np.linspace(0, 2, 5), rng.normal(size=9)

    def results(f: Any) -> list[torch.Tensor]:
        P = vd.DenseDictionary(f(weight))
        problem = vd.SparseProblem(P, f(x), f(lam), weights=f(weights), bias=f(bias))
        field = vd.SparseRecurrent(P, f(x), lam=f(lam), weights=f(weights), bias=f(bias))
        moving = vd.SparseRecurrent(P, vd.stimuli.Sampled(f(np.stack([x, 2 * x])), f(times[:2])), lam=0.3)
        trajectories = [vd.integrate(each, each.initial_state(), f(times)) for each in (field, moving)]
        kernel, image = weight[:4, :9].reshape(4, 1, 3, 3), np.resize(x, (1, 8, 8))
        whole = vd.SparseProblem(vd.ConvDictionary(f(kernel), (1, 8, 8)), f(image), 0.5)
        layers = vd.hierarchy_problem(f(x), [P], lam=[0.3], coupling=[])
        waves = vd.FourierDictionary(f(np.resize(kernel, (2, 1, 8, 8))))
        return [vd.solve(problem).code, *(part for t in trajectories for part in t.states), P.encode(f(x)),
                P.decode(f(a)), whole.critical_lam(), layers.critical_lam(), waves.encode(f(image))]  # fmt: skip

    for one, other in zip(results(form), results(torch.from_numpy), strict=True):
        assert one.dtype == torch.float64
        assert torch.equal(one, other)


def test_kinds_are_not_mixed_in_silence() -> None:
    P = vd.DenseDictionary(np.eye(3, dtype=np.float32))
    with pytest.raises(ValueError, match=r"x is torch.float64 but the dictionary is torch.float32"):
        vd.SparseProblem(P, [1.0, 2.0, 3.0], 0.1)
    with pytest.raises(ValueError, match="a real floating-point dtype is wanted"):
        vd.SparseProblem(P, np.array([1, 2, 3]), 0.1)
