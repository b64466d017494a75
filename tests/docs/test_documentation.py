"""The documentation's Python runs, and the API reference names everything that is public."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

import vars_dyn as vd
from tests.moving import grating, write_movie

ROOT = Path(__file__).parents[2]


def python_of(page: str) -> str:
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(), re.DOTALL | re.MULTILINE)
    assert blocks, f"{page} shows no Python"
    return "\n".join(blocks)


def test_the_readme_runs_as_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(python_of("README.md"), names)
    assert (names["solution"].relative_gap <= 1e-8).all()
    assert (names["trajectory"].relative_gap <= 1e-6).all()
    assert bool((names["run"].relative_gap.isel(time=-1) <= 1e-6).all())


def test_the_quick_start_runs_and_settles() -> None:
    names: dict[str, object] = {}
    exec(python_of("docs/quickstart.md"), names)
    assert (names["trajectory"].relative_gap <= 1e-6).all()
    assert names["solution"].converged.all()
    assert "no stable equilibrium" in names["runaway"].instability()


def test_the_guides_to_recording_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(python_of("docs/howto/record.md") + python_of("docs/howto/read.md"), names)
    assert dict(names["small"].sizes)["time"] == 21
    assert names["run"].equilibrium
    assert float(names["decay"][-1]) <= 1e-6


def test_the_guide_to_notebooks_runs() -> None:
    names: dict[str, Any] = {}
    exec(python_of("docs/howto/notebooks.md"), names)
    assert repr(names["field"]).startswith("SparseRecurrent(lam=0.5, alpha=1, beta=2, tau_z=1, tau_u=1, gamma=2, ")
    assert repr(names["trajectory"]).startswith(
        "Trajectory(field=SparseRecurrent, times=81 from 0 to 40, z=(81, 3, 16)"
    )
    assert all(ax.has_data() for ax in names["figure"].axes)
    code = vd.solve(names["problem"]).code
    torch.testing.assert_close(code, torch.tensor([[0.5, 0.0, -1.5]], dtype=torch.float64))
    names["plt"].close(names["figure"])


def test_the_guide_to_interventions_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(python_of("docs/howto/interventions.md"), names)
    assert float(abs(names["silent"]).max()) == 0
    assert len(names["noisy"].times) == 41
    assert "a potential of" in names["watched"].stopped


def test_the_guide_to_stimuli_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_movie(Path("clip.mp4"), grating())
    names: dict[str, object] = {}
    exec(python_of("docs/howto/stimuli.md"), names)
    assert names["tuning"].shape == (4, 8, 8)
    assert all(float(g.abs().max()) > 0 for g in names["values"].grad[:2])


def test_the_measurements_of_integration_run() -> None:
    names: dict[str, object] = {}
    exec(python_of("docs/integration.md"), names)
    free, capped = (names["stall"](1e-3, cap, times=(0.0, 20.0)) for cap in (False, True))
    assert free[1].evaluations < capped[1].evaluations
    assert names["settle"]("rkc", 1e-3, gap=1e-2) < names["settle"]("rkc", 1e-3, gap=1e-3)


def test_the_page_on_learning_runs() -> None:
    names: dict[str, object] = {}
    exec(python_of("docs/learning.md"), names)
    assert names["learned"].history.sizes["step"] == 20
    assert bool((names["local"].dictionary.tensors()[0] >= 0).all())


def test_the_page_for_users_of_lca_pytorch_runs() -> None:
    names: dict[str, object] = {}
    exec(python_of("docs/howto/lca_pytorch.md"), names)
    assert names["found"].converged.all()
    assert names["acts"].requires_grad


def test_the_contributors_dictionary_is_one() -> None:
    names: dict[str, object] = {}
    exec(python_of("CONTRIBUTING.md"), names)
    P = names["DiagonalDictionary"](torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64))
    x = torch.tensor([[3.0, 1.0, -1.0]], dtype=torch.float64)
    # The problem separates into one problem for each atom, and a_i = soft(s_i x_i, lam) / s_i^2.
    code = vd.solve(vd.SparseProblem(P, x, lam=0.2)).code
    torch.testing.assert_close(code, torch.tensor([[2.8, -0.45, -1.2]], dtype=torch.float64))


def test_the_api_reference_names_everything_public() -> None:
    pages = "\n".join(page.read_text() for page in (ROOT / "docs/api").glob("*.md"))
    documented = set(re.findall(r"automodule:: (\S+)", pages))
    for name in vd.__all__:
        home = getattr(vd, name).__module__
        assert {home, home.rpartition(".")[0]} & documented, f"no page of docs/api documents {home}, home of {name}"


@pytest.mark.parametrize("page", ["README.md", "docs/quickstart.md"])
def test_the_set_up_commands_are_the_ones_that_are_run(page: str) -> None:
    assert "pip install -e . && python -m vars_dyn.simulate" in (ROOT / page).read_text()
