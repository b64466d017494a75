"""Designs have the members that they should, and refuse what is none."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vars_dyn.sweeping import Grid, LatinHypercube, Listed, Random, Range
from vars_dyn.sweeping.designs import Crossed, as_design

VALUES = st.lists(st.integers(-5, 5), min_size=1, max_size=4)


@given(st.dictionaries(st.sampled_from(["a", "b", "c"]), VALUES, min_size=1))
def test_a_grid_is_the_product_of_its_values(parameters: dict[str, list[int]]) -> None:
    design = Grid(parameters)
    expected = [dict(zip(parameters, point, strict=True)) for point in itertools.product(*parameters.values())]
    assert [design.at(i) for i in range(len(design))] == expected
    assert design.columns() == {name: [point[name] for point in expected] for name in parameters}


@given(st.integers(1, 40), st.integers(0, 2**31))
def test_a_latin_hypercube_has_one_point_in_every_part_of_each_range(members: int, seed: int) -> None:
    design = LatinHypercube({"lam": Range(0.01, 10.0, log=True), "gain": Range(-1.0, 3.0)}, members, seed)
    columns = design.columns()
    shares = np.log(np.array(columns["lam"]) / 0.01) / math.log(1000), (np.array(columns["gain"]) + 1) / 4
    for share in shares:
        assert sorted(np.minimum(np.floor(share * members + 1e-9), members - 1)) == list(range(members))


def test_random_points_lie_in_their_ranges_and_depend_on_the_seed() -> None:
    parameters = {"n": Range(2, 5, whole=True), "k": Range(1, 100, log=True, whole=True), "name": ["x", "y"]}
    columns = Random(parameters, 4000, seed=1).columns()
    shares = [columns["n"].count(n) / 4000 for n in (2, 3, 4, 5)]
    assert shares == pytest.approx([0.25] * 4, abs=0.04)  # the ends count as much as the others
    assert set(columns["name"]) == {"x", "y"}
    assert min(columns["k"]) == 1
    assert max(columns["k"]) <= 100
    assert 6 <= np.median(columns["k"]) <= 8  # evenly in the logarithm, from .5 to 100.5
    assert all(isinstance(n, int) for n in columns["n"])
    assert Random(parameters, 20, seed=1).columns() == Random(parameters, 20, seed=1).columns()
    assert Random(parameters, 20, seed=1).digest() != Random(parameters, 20, seed=2).digest()


def test_a_list_may_have_members_of_different_parameters() -> None:
    design = as_design([{"a": 1}, {"b": "x", "a": 2}])
    assert isinstance(design, Listed)
    assert design.names == ("a", "b")
    assert design.at(0) == {"a": 1}
    assert design.columns() == {"a": [1, 2], "b": [None, "x"]}


def test_seeds_change_fastest() -> None:
    design = Crossed(Grid({"lam": [0.1, 0.2]}), "seed", [5, 6])
    assert [tuple(design.at(i).values()) for i in range(4)] == [(0.1, 5), (0.1, 6), (0.2, 5), (0.2, 6)]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda: Grid({}), "no parameters"),
        (lambda: Grid({"a": []}), "a list of at least one value"),
        (lambda: Grid({"a b": [1]}), "letters, digits"),
        (lambda: Grid({"a": [math.nan]}), "finite"),
        (lambda: Grid({"a": [object()]}), "numbers, text"),
        (lambda: Grid({"a": "text"}), "a list of at least one value"),
        (lambda: Listed([]), "at least one"),
        (lambda: Range(2, 1), "below the upper"),
        (lambda: Range(0, 1, log=True), "above zero"),
        (lambda: Random({"a": Range(0, 1)}, 0), "members is 0"),
        (lambda: Crossed(Grid({"seed": [1]}), "seed", [1]), "already"),
    ],
)
def test_what_is_no_design_is_refused(wrong: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        wrong()
