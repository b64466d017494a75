"""The machine that measures, its versions, and the memory of this process."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path

import torch

__all__ = ["machine", "peak_bytes", "reset_peak", "resident_bytes"]


def machine(device: str) -> dict[str, str]:
    """The processor (and the GPU, if `device` is one), the system and the versions, which every measurement names."""
    processor = platform.processor() or platform.machine()
    information = Path("/proc/cpuinfo")
    if information.exists():
        names = [
            line.partition(":")[2] for line in information.read_text().splitlines() if line.startswith("model name")
        ]
        processor = names[0].strip() if names else processor
    gpu = {"gpu": torch.cuda.get_device_name(device)} if device.startswith("cuda") else {}
    versions = {name: version(name) for name in ("torch", "torchdiffeq", "vars_dyn")}
    where = {"processor": processor, "cores": str(os.cpu_count()), "system": platform.platform(), **gpu}
    return {**where, "python": platform.python_version(), **versions}


def resident_bytes() -> int:
    """The resident set of this process, as Linux reports it. Raises RuntimeError on other systems."""
    return _of_status("VmRSS")


def peak_bytes() -> int:
    """The largest resident set of this process since it began, or since `reset_peak`."""
    return _of_status("VmHWM")


def reset_peak() -> None:
    """Make the present resident set the largest so far."""
    Path("/proc/self/clear_refs").write_text("5")


def _of_status(name: str) -> int:
    status = Path("/proc/self/status")
    for line in status.read_text().splitlines() if status.exists() else ():
        if line.startswith(name + ":"):
            return 1024 * int(line.split()[1])
    raise RuntimeError(f"there is no {name} in {status}; memory is measured on Linux")
