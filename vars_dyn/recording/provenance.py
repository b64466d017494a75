"""Where a result comes from: parameters, hashes, versions, command and date."""

from __future__ import annotations

import datetime as dt
import hashlib
import platform
import shlex
import sys
from collections.abc import Iterable, Mapping
from importlib import metadata
from typing import Any

import torch
from torch import Tensor

from vars_dyn._version import __version__
from vars_dyn.dynamics.base import Field, State
from vars_dyn.problems import SparseProblem
from vars_dyn.recording.json_facts import Facts
from vars_dyn.stimuli.base import Stimulus

__all__ = [
    "atoms_of",
    "command_line",
    "digest",
    "facts_of_field",
    "facts_of_making",
    "first_difference",
    "meaning_of_tolerances",
    "now",
    "versions",
]

#: The times at which stimuli are compared, in no ratio to their periods.
_LOOKS = (0.618, 3.1416, 27.183)
_PACKAGES = ("torch", "torchdiffeq", "numpy", "xarray", "zarr")


def facts_of_field(field: Field, state: State) -> Facts:
    """What defines the field and its start: parameters, dictionary, dtype, device, and SHA-256 of the tensors."""
    dictionary = field.dictionary
    layout = {name: getattr(dictionary, name) for name in ("stride", "padding", "groups") if hasattr(dictionary, name)}
    dilation = getattr(dictionary, "dilation", 1)
    if dilation != 1:  # older stores do not have it, and can be resumed
        layout["dilation"] = dilation
    return {
        **field.parameters(),
        **_uniform(field),
        "dictionary_type": type(dictionary).__name__,
        **{f"dictionary_{name}": value for name, value in layout.items()},
        "signal_batch": list(field.signal_batch),
        "signal_shape": list(dictionary.signal_shape),
        "code_shape": list(dictionary.code_shape),
        "dtype": str(field.dtype).removeprefix("torch."),
        "device": field.device.type,
        "dictionary_sha256": digest(dictionary.tensors()),
        "signals_sha256": digest([field.x] if field.stimulus is None else _shown(field.stimulus)),
        **({} if field.shown is None else {"stimulus": field.shown}),
        **({} if field.tau_ms is None else {"tau_ms": field.tau_ms}),
        "lam_sha256": digest([field.lam]),
        **{f"{name}_sha256": digest([value]) for name, value in atoms_of(field).items()},
        "start_sha256": digest(state),
    }


def atoms_of(field: Field) -> dict[str, Tensor]:
    """The weights, the bias and the constants of single units or signals of a field, by name, where it has them."""
    found = {name: getattr(field, name, None) for name in ("weights", "bias")}
    return {name: value for name, value in found.items() if value is not None} | field.varied


def _shown(stimulus: Stimulus) -> list[Tensor]:
    """Tensors that tell a stimulus from another one: what the record stores of it, and x at a few times."""
    return [*stimulus.stored(), *(stimulus(t) for t in (0.0, *_LOOKS, *stimulus.jumps[:1]))]


def _uniform(field: Field) -> dict[str, float]:
    """lam as a parameter, if it is the same for all signals."""
    values = field.lam.unique()
    return {"lam": float(values[0])} if len(values) == 1 and "u" in field.state_names else {}


def _described(field: Field, problem: SparseProblem | None) -> str:
    """What the equilibrium minimises, in one line, or why it minimises nothing that is known.

    See docs/mathematics.md, "What an equilibrium solves".
    """
    if problem is None:
        return field.instability() or "a quadratic form too large to be written out, or not shared by the signals"
    parameters = field.parameters()
    if "threshold" not in parameters:
        return "least squares: alpha/2 |z|^2 - 1/2 z.A z - x.z"
    if not {"alpha", "beta", "gamma"} <= parameters.keys():
        return _with_varied(field, problem)
    alpha, beta, gamma = (float(parameters[name]) for name in ("alpha", "beta", "gamma"))
    c, ridge = gamma - 1 / alpha, beta - gamma
    sign = ", a >= 0" if problem.nonnegative else ""
    l1 = "sum_i w_i |a_i|" if problem.weights is not None else "|a|_1"
    linear = "" if "bias" not in atoms_of(field) else " - q.a" if c == 1 or c <= 0 or ridge < 0 else f" - q.a / {c:g}"
    if c <= 0 or ridge < 0:
        return f"{c / 2:g} |P a|^2 - {1 / alpha:g} x.P a + {ridge / 2:g} |a|^2 + lam {l1}{linear}{sign}"
    name = f"{'non-negative ' if sign else ''}{'elastic net' if ridge else 'LASSO'}"
    target = "x" if alpha * c == 1 else f"x / {alpha * c:g}"
    penalty = (f"lam {l1}" if c == 1 else f"lam / {c:g} {l1}") + linear
    square = f" + {ridge / c / 2:g} |a|^2" if ridge else ""
    return f"{name}: 1/2 |P a - {target}|^2 + {penalty}{square}{sign}"


def _with_varied(field: Field, problem: SparseProblem) -> str:
    """What is minimised where signals or units have constants of their own; sums run over neurons j and atoms i."""
    inner = "sum_j ((gamma - 1/alpha_j)/2 (P a)_j^2 - x_j (P a)_j / alpha_j) + sum_i (beta_i - gamma)/2 a_i^2"
    l1 = "sum_i w_i |a_i|" if problem.weights is not None else "|a|_1"
    linear = " - q.a" if "bias" in atoms_of(field) else ""
    own = [name for name in ("alpha", "beta", "gamma") if name in field.varied]
    return f"{inner} + lam {l1}{linear}{', a >= 0' if problem.nonnegative else ''}, with the stored {', '.join(own)}"


def facts_of_making(field: Field, problem: SparseProblem | None) -> Facts:
    """Facts of a new run: its parameters' names, its problem, the command, the date, versions, threads and machine."""
    device = field.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {
        "parameters": [*field.parameters()],
        "problem": _described(field, problem),
        "command": command_line(),
        "date": now(),
        **versions(),
        "device_name": name,
        "platform": platform.platform(),
        "torch_threads": torch.get_num_threads(),
    }


def meaning_of_tolerances() -> dict[str, str]:
    """The fact that marks a run whose `atol` is relative. Older runs, whose `atol` was absolute, do not have it."""
    return {"atol_relative_to": "the size of each signal: max |x|, or lam where x is zero"}


def versions() -> dict[str, str]:
    """The versions that results may depend on."""
    found = {"vars_dyn_version": __version__, "python_version": platform.python_version()}
    return found | {f"{package}_version": _version(package) for package in _PACKAGES}


def _version(package: str) -> str:
    try:
        return torch.__version__ if package == "torch" else metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def command_line() -> str:
    """The command that started this process, quoted for a shell."""
    started = getattr(sys, "orig_argv", None) or [sys.executable, *sys.argv]
    return shlex.join(started)


def digest(tensors: Iterable[Tensor]) -> str:
    """SHA-256 of the tensors' dtypes, shapes and numbers."""
    total = hashlib.sha256()
    for tensor in tensors:
        total.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
        plain = tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        total.update(plain.reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def first_difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[str, Any, Any] | None:
    """The first name whose values differ, with the old and the new value; None if all agree. NaN equals NaN."""
    for name in [*new, *(k for k in old if k not in new)]:
        before, after = old.get(name), new.get(name)
        if before != after and not (_is_nan(before) and _is_nan(after)):
            return name, before, after
    return None


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and value != value


def now() -> str:
    """The date and time, UTC, to the second."""
    return dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
