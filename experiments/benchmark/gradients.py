"""Error, time and memory of every way to differentiate the VARS neurons, and of torchdiffeq's own adjoint.

`python -m experiments.benchmark.gradients [--out FOLDER]` prints a table and writes it to FOLDER/table.md. All numbers,
the machine and the versions go to FOLDER/benchmark.json. The loss is a random linear function of the code at time T. An
error is that of the gradient relative to the flow's own (`experiments.benchmark.exact`), or to the equilibrium's for
the implicit mode. It is the larger of the errors for P and for x. Every measurement runs in a process of its own, on
one thread. Seconds are those of the fastest repeat, in processor time (on a GPU, by the clock). Memory is the growth of
the resident set (on a GPU, of what is allocated) at its peak.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torchdiffeq
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import vars_dyn as vd
from experiments import cli
from experiments.benchmark.exact import exact_flow
from experiments.benchmark.gradient_tables import TITLES, ratios, shown, table
from experiments.benchmark.machine import machine, peak_bytes, reset_peak, resident_bytes
from experiments.report import tables

__all__ = ["MODES", "Setting", "main", "measure", "plain_adjoint"]

PLAIN = "odeint_adjoint"
MODES = ("backprop", "checkpoint", "adjoint", PLAIN, "implicit")


@dataclass(frozen=True)
class Setting:
    """The neurons that are differentiated."""

    signals: int = 64
    neurons: int = 64
    atoms: int = 128
    lam: float = 0.1
    rtol: float = 1e-6
    seed: int = 0
    device: str = "cpu"

    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        """P with atoms of norm 1, x of norm 1, and the weights of the loss, all float64."""
        generator = torch.Generator().manual_seed(self.seed)

        def draw(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, dtype=torch.float64)

        weight, x = draw(self.neurons, self.atoms), draw(self.signals, self.neurons)
        loss = draw(self.signals, self.atoms)
        parts = (weight / weight.norm(dim=0), x / x.norm(dim=1, keepdim=True), loss)
        return tuple(part.to(self.device) for part in parts)  # type: ignore[return-value]

    def field(self, weight: Tensor, x: Tensor) -> vd.SparseRecurrent:
        return vd.SparseRecurrent(vd.DenseDictionary(weight), x, lam=self.lam)


class Neurons(nn.Module):
    """The same field as a module, written as in torchdiffeq's documentation."""

    def __init__(self, weight: Tensor, x: Tensor, lam: float) -> None:
        super().__init__()
        self.weight, self.x, self.theta = nn.Parameter(weight), nn.Parameter(x), lam / 2

    def code(self, u: Tensor) -> Tensor:
        return u.sign() * torch.relu(u.abs() - self.theta)

    def forward(self, t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        z, u = state
        a = self.code(u)
        image = a @ self.weight.mT
        return image + self.x - z, (z - 2 * image) @ self.weight + 2 * a - 2 * u


class Found(NamedTuple):
    """The gradients with respect to P and x, and the seconds of each pass. `failure` says why there are none."""

    weight: Tensor | None
    x: Tensor | None
    forward: float
    backward: float
    failure: str = ""


def plain_adjoint(setting: Setting, horizon: float) -> Found:
    """`torchdiffeq.odeint_adjoint(module, state, times)`, with tolerances and no other options."""
    weight, x, loss = setting.tensors()
    module = Neurons(weight, x, setting.lam)
    start = (module.x, torch.zeros_like(loss))
    times = torch.tensor([0.0, horizon], dtype=torch.float64, device=x.device)
    clock = _Clock(setting)
    rtol, atol = setting.rtol, setting.rtol / 100
    _, u = torchdiffeq.odeint_adjoint(module, start, times, rtol=rtol, atol=atol, method="dopri5")
    value, forward = (loss * module.code(u[-1])).sum(), clock()
    try:
        value.backward()
    except AssertionError as error:
        return Found(None, None, forward, clock() - forward, str(error).partition(":")[0])
    return Found(module.weight.grad, module.x.grad, forward, clock() - forward)


def by_mode(setting: Setting, mode: str, horizon: float) -> Found:
    """One of this package's modes. "implicit" ignores the horizon."""
    weight, x, loss = setting.tensors()
    weight.requires_grad_()
    x.requires_grad_()
    clock = _Clock(setting)
    field = setting.field(weight, x)
    if mode == "implicit":
        code = vd.equilibrium(field).code
    else:
        times = torch.tensor([0.0, horizon], dtype=torch.float64)
        rtol = setting.rtol
        path = vd.integrate(field, field.initial_state(), times, rtol=rtol, atol=rtol / 100, gradient=mode)
        code = field.code(tuple(part[-1] for part in path.states))
    value, forward = (loss * code).sum(), clock()
    for_weight, for_x = torch.autograd.grad(value, (weight, x))
    return Found(for_weight, for_x, forward, clock() - forward)


class _Clock:
    """Seconds since it was made."""

    def __init__(self, setting: Setting) -> None:
        self.gpu = setting.device.startswith("cuda")
        self.began = self._now()

    def _now(self) -> float:
        if self.gpu:
            torch.cuda.synchronize()
            return time.perf_counter()
        return time.process_time()

    def __call__(self) -> float:
        return self._now() - self.began


def run_once(setting: Setting, mode: str, horizon: float) -> Found:
    return plain_adjoint(setting, horizon) if mode == PLAIN else by_mode(setting, mode, horizon)


def flow_gradient(setting: Setting, horizon: float) -> tuple[Tensor, Tensor]:
    """The gradient of the loss at the horizon, through the flow itself."""
    weight, x, loss = (t.cpu() for t in setting.tensors())
    field = setting.field(weight.requires_grad_(), x.requires_grad_())
    flow = exact_flow(field, horizon)
    for_weight, for_x = torch.autograd.grad((loss * field.code((flow.z, flow.u))).sum(), (weight, x))
    return for_weight, for_x


def rest_gradient(setting: Setting) -> tuple[Tensor, Tensor]:
    """The gradient of the loss at the equilibrium, by its formula.

    With y = G_A^-1 w_A it is P_A y for x_i. For P it is r y^T - (P_A y) a^T on the columns of the support, summed over
    signals.
    """
    weight, x, loss = (t.cpu() for t in setting.tensors())
    code = vd.equilibrium(setting.field(weight, x)).code.numpy()
    for_weight, for_x = np.zeros(weight.shape), np.zeros(x.shape)
    for i, (a, w, signal) in enumerate(zip(code, loss.numpy(), x.numpy(), strict=True)):
        support = a != 0
        P = weight.numpy()[:, support]
        y = np.linalg.solve(P.T @ P, w[support])
        for_x[i] = P @ y
        for_weight[:, support] += np.outer(signal - P @ a[support], y) - np.outer(P @ y, a[support])
    return torch.from_numpy(for_weight), torch.from_numpy(for_x)


def measure(setting: Setting, mode: str, horizon: float, repeats: int) -> dict[str, Any]:
    """Run a mode in this process, and return seconds, peak memory, and the gradients under "weight" and "x"."""
    run_once(setting, mode, 0.01)
    memory = _Memory(setting)
    runs = [run_once(setting, mode, horizon)]
    peak = memory.peak_mib()
    runs += [run_once(setting, mode, horizon) for _ in range(repeats - 1)]
    best = min(runs, key=lambda run: run.forward + run.backward)
    tensors = {} if best.weight is None or best.x is None else {"weight": best.weight, "x": best.x}
    seconds = {"forward": best.forward, "backward": best.backward}
    return {**seconds, "peak_mib": peak, "failure": best.failure, "tensors": tensors}


class _Memory:
    """How far memory grows from where it is when this object is made."""

    def __init__(self, setting: Setting) -> None:
        self.gpu = setting.device.startswith("cuda")
        if self.gpu:
            torch.cuda.reset_peak_memory_stats()
            self.before = torch.cuda.memory_allocated()
        else:
            reset_peak()
            self.before = resident_bytes()

    def peak_mib(self) -> float:
        peak = torch.cuda.max_memory_allocated() if self.gpu else peak_bytes()
        return (peak - self.before) / (1 << 20)


def measured_apart(setting: Setting, mode: str, horizon: float, repeats: int, patience: float) -> dict[str, Any]:
    """`measure` in two processes: one for the time, and one for the memory, whose allocator gives freed memory back.

    torchdiffeq's own adjoint can take a thousand times longer than the rest. For it one process measures both, and is
    stopped after `patience` seconds.
    """
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for what in ("memory",) if mode == PLAIN else ("time", "memory"):
            order = {"setting": asdict(setting), "mode": mode, "horizon": horizon, "folder": folder}
            order["repeats"] = repeats if what == "time" else 1
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            if what == "memory":
                environment["MALLOC_MMAP_THRESHOLD_"] = "65536"
            command = [sys.executable, "-m", "experiments.benchmark.gradients", "--measure", json.dumps(order)]
            try:
                done = subprocess.run(
                    command, capture_output=True, text=True, env=environment, check=False, timeout=patience
                )
            except subprocess.TimeoutExpired:
                failure = f"not done within {patience:g} s"
                none = {"forward": math.nan, "backward": math.nan, "peak_mib": math.nan}
                return {**none, "failure": failure, "tensors": {}}
            if done.returncode:
                raise RuntimeError(f"{mode} to T = {horizon} failed: {done.stderr.strip().splitlines()[-1:]}")
            result = json.loads(done.stdout.splitlines()[-1])
            found = {
                **result,
                **({name: found[name] for name in ("forward", "backward")} if found else {}),
            }
        path = Path(folder) / "gradient.safetensors"
        found["tensors"] = load_file(path) if path.exists() else {}
    return found


def _measure_here(order: dict[str, Any]) -> None:
    """What a process of `measured_apart` does."""
    torch.set_num_threads(1)
    found = measure(Setting(**order["setting"]), order["mode"], order["horizon"], order["repeats"])
    tensors = found.pop("tensors")
    if tensors:
        save_file(
            {name: t.cpu().contiguous() for name, t in tensors.items()}, Path(order["folder"]) / "gradient.safetensors"
        )
    print(json.dumps(found))


def error_of(tensors: dict[str, Tensor], exact: tuple[Tensor, Tensor]) -> float:
    """The larger of the relative errors for P and for x. It is infinite if there is no finite gradient."""
    if not tensors or not all(bool(torch.isfinite(t).all()) for t in tensors.values()):
        return math.inf
    pairs = zip((tensors["weight"], tensors["x"]), exact, strict=True)
    return max(float((a.cpu() - b).norm() / b.norm()) for a, b in pairs)


def benchmark(setting: Setting, horizons: Sequence[float], repeats: int, patience: float) -> list[dict[str, Any]]:
    """One row for every mode and horizon. "implicit" has a single row, whose horizon is None."""
    rows = []
    for horizon in (*horizons, None):
        exact = rest_gradient(setting) if horizon is None else flow_gradient(setting, horizon)
        for mode in MODES[-1:] if horizon is None else MODES[:-1]:
            found = measured_apart(setting, mode, horizon or 0.0, repeats, patience)
            error = error_of(found.pop("tensors"), exact)
            rows.append({"mode": mode, "horizon": horizon, "error": error, **found})
            print(tables.row(shown(rows[-1])), flush=True)
    return rows


def _finite_or_none(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["--measure"]:
        _measure_here(json.loads(given[1]))
        return 0
    parser = cli.parser_for("benchmark.gradients", "Error, time and memory of every gradient mode.")
    parser.add_argument("--horizons", type=list[float], default=[5.0, 20.0, 80.0], help="times T, increasing")
    parser.add_argument("--repeats", type=int, default=3, help="runs of which the fastest counts")
    parser.add_argument("--patience", type=float, default=600.0, help="seconds until a measurement is given up")
    parser.add_argument("--out", type=str, default=None, help="folder for table.md and benchmark.json")
    parser.add_class_arguments(Setting, "setting")

    def command(values: Any) -> None:
        if (
            not values.horizons
            or values.repeats < 1
            or not values.patience > 0
            or not all(0 < t < math.inf for t in values.horizons)
        ):
            raise ValueError("horizons, repeats and patience are wanted above zero")
        setting = Setting(**vars(values.setting))
        print("\n".join(tables.head(TITLES)))
        rows = benchmark(setting, values.horizons, values.repeats, values.patience)
        found = ratios(rows)
        print("\n" + "\n".join(f"{name}: {value:.3g}" for name, value in found.items()))
        if values.out:
            folder = Path(values.out)
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "table.md").write_text(table(rows))
            line = "python -m experiments.benchmark.gradients " + " ".join(given)
            record = {"command": line.strip(), "setting": asdict(setting), "machine": machine(setting.device)}
            rows = [{name: _finite_or_none(value) for name, value in row.items()} for row in rows]
            text = json.dumps({**record, "rows": rows, "ratios": found}, indent=2)
            (folder / "benchmark.json").write_text(text + "\n")

    return cli.run(parser, command, given)


if __name__ == "__main__":
    sys.exit(main())
