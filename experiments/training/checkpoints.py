"""Checkpoints. Each is a folder of safetensors and JSON, without pickles, and appears whole or not at all.

    checkpoints/epoch-0003/model.safetensors    weights and buffers
                           ema.safetensors      their moving average, where there is one
                           optimizer.safetensors  the optimizer's tensors
                           state.json           configuration, epoch, best score, RNG states, the rest of the
                                                optimizer, and the SHA-256 of each of the other files

`write` gives a checkpoint another name at first, flushes it to the disk and renames it. Only then does it remove older
ones. `read` refuses a file that differs from its SHA-256. Earlier versions stored none, and `read` takes their
checkpoints without the check.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

__all__ = [
    "Checkpoint",
    "find",
    "get_random_state",
    "last",
    "load_weights",
    "read",
    "read_state",
    "read_tensors",
    "set_random_state",
    "write",
]

_NAME = "epoch-{:04d}"
#: The names of checkpoints, whole and partial. A file or folder of another name is never removed.
_WHOLE, _OWN = re.compile(r"epoch-\d{4,6}"), re.compile(r"epoch-\d{4,6}|\.epoch-\d{4,6}\.partial")
_TENSOR = "__tensor__"
#: The field of state.json with the digests of the other files.
_DIGESTS = "sha256"

#: The most bytes of a state.json. The states of generators and the optimizer's numbers take some hundred kilobytes.
_LARGEST = 1 << 28


@dataclass
class Checkpoint:
    """A training run after `epoch` epochs.

    Attributes:
        model, ema: weights by name.
        optimizer: the optimizer's state_dict.
        state: the plain data: config, classes, epoch, updates, best, random (RNG states per process).
        path: the folder that the checkpoint was read from.
    """

    model: dict[str, Tensor]
    state: dict[str, Any]
    ema: dict[str, Tensor] | None = None
    optimizer: dict[str, Any] = field(default_factory=dict)
    path: Path | None = None

    @property
    def weights(self) -> dict[str, Tensor]:
        """The weights that evaluation uses: the moving average where there is one."""
        return self.model if self.ema is None else self.ema


def write(folder: Path, checkpoint: Checkpoint, keep: tuple[int, ...] = ()) -> Path:
    """Write the checkpoint of epoch `state["epoch"]` into `folder`. Of the others, keep those of epochs `keep` only."""
    final = folder / _NAME.format(checkpoint.state["epoch"])
    partial = folder / f".{final.name}.partial"
    folder.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        _write_files(partial, checkpoint)
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)
    except Exception:  # such as a full disk, which a partial checkpoint would keep full
        shutil.rmtree(partial, ignore_errors=True)
        raise
    _flush(folder)
    kept = {_NAME.format(epoch) for epoch in keep} | {final.name}
    for path in folder.iterdir():
        if path.name not in kept and _OWN.fullmatch(path.name) and path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
    return final


def _write_files(folder: Path, checkpoint: Checkpoint) -> None:
    tensors: dict[str, Tensor] = {}
    optimizer = _split(checkpoint.optimizer, tensors, "optimizer")
    files = {"model": checkpoint.model, "ema": checkpoint.ema, "optimizer": tensors}
    for name, content in files.items():
        if content is not None:
            plain = {key: value.detach().cpu().contiguous() for key, value in content.items()}
            save_file(plain, folder / f"{name}.safetensors")
    digests = {file.name: _digest(file) for file in sorted(folder.iterdir())}
    state = {**checkpoint.state, "optimizer": optimizer, _DIGESTS: digests}
    (folder / "state.json").write_text(json.dumps(state, indent=1))
    for path in [*folder.iterdir(), folder]:
        _flush(path)


def last(run: Path) -> Path | None:
    """The last complete checkpoint of a run; None if it has none."""
    found = [path for path in (run / "checkpoints").glob("epoch-*") if _WHOLE.fullmatch(path.name)]
    whole = [path for path in found if (path / "state.json").is_file()]
    return max(whole, key=lambda path: int(path.name.removeprefix("epoch-")), default=None)


def find(path: str | Path) -> Path:
    """The checkpoint folder that `path` means. It is `path` itself, or the best checkpoint if `path` is a run.

    Raises ValueError if `path` is neither.
    """
    path = Path(path)
    if (path / "state.json").is_file():
        return path
    newest = last(path) if path.is_dir() else None
    if newest is not None:
        best = read_state(newest).get("best") or {"epoch": None}
        named = newest if best["epoch"] is None else newest.with_name(_NAME.format(best["epoch"]))
        return named if (named / "state.json").is_file() else newest
    if path.is_file():
        raise ValueError(
            f"{path} is a file; a folder with model.safetensors and state.json is wanted (pickles are never loaded)"
        )
    raise ValueError(f"{path} is no checkpoint; a folder with model.safetensors and state.json, or a run's, is wanted")


def read(path: Path, weights_only: bool = False) -> Checkpoint:
    """The checkpoint in the folder `path`, on the CPU. Raises ValueError if it is incomplete or damaged."""
    state = read_state(path)
    digests = state.pop(_DIGESTS, None)
    averaged = (path / "ema.safetensors").exists() or (digests is not None and "ema.safetensors" in digests)
    model = _read_whole(path / "model.safetensors", digests)
    ema = _read_whole(path / "ema.safetensors", digests) if averaged else None
    tensors = {} if weights_only else _read_whole(path / "optimizer.safetensors", digests)
    optimizer = state.pop("optimizer", None)
    if weights_only:
        return Checkpoint(model, state, ema, {}, path)
    try:
        joined = _join(optimizer, tensors)
        if not isinstance(joined, dict):
            raise TypeError
    except (KeyError, TypeError, ValueError, RecursionError):
        raise ValueError(f"{path} is no readable checkpoint (state.json has no whole optimizer)") from None
    return Checkpoint(model, state, ema, joined, path)


def read_state(path: Path) -> dict[str, Any]:
    """The data in a checkpoint's state.json. Raises ValueError where a field is missing or has an impossible value."""
    file = path / "state.json"
    try:
        if not file.is_file() or file.stat().st_size > _LARGEST:
            raise ValueError(f"no regular file, or one above {_LARGEST} bytes")
        state = json.loads(file.read_text(encoding="utf-8"), parse_constant=_refused)
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no readable checkpoint (state.json: {' '.join(str(error).split())})") from None
    wrong = _wrong(state)
    if wrong is not None:
        raise ValueError(f"{path} is no readable checkpoint (state.json {wrong})")
    return state


def _refused(name: str) -> Any:
    raise ValueError(f"it holds {name}; numbers are wanted")


def _wrong(state: Any) -> str | None:
    """What is wrong with a state, or None if nothing is."""
    if not isinstance(state, dict):
        return "holds no object"
    classes, epoch, best = state.get("classes"), state.get("epoch"), state.get("best")
    if type(epoch) is not int or not 0 <= epoch < 10**6:
        return f"has the epoch {epoch!r:.40}; an integer of at least 0 is wanted"
    if "classes" in state and not (isinstance(classes, list) and classes and all(isinstance(c, str) for c in classes)):
        return "has no list of classes' names in classes"
    if "config" in state and not isinstance(state["config"], dict):
        return "has no settings in config"
    if best is not None and not (
        isinstance(best, dict)
        and type(best.get("epoch")) is int
        and 0 <= best["epoch"] <= epoch
        and isinstance(best.get("accuracy", 0), int | float)
        and 0 <= best.get("accuracy", 0) <= 1
    ):
        return "has no epoch and accuracy in best"
    if type(state.get("updates", 0)) is not int or state.get("updates", 0) < 0:
        return f"has {state['updates']!r:.40} updates; an integer of at least 0 is wanted"
    if not isinstance(state.get("random", []), list):
        return "has no list of generators' states in random"
    if _DIGESTS in state and not isinstance(state[_DIGESTS], dict):
        return f"has no digests of files in {_DIGESTS}"
    return None


def _read_whole(file: Path, digests: Mapping[str, str] | None) -> dict[str, Tensor]:
    """The tensors of a file of a checkpoint, after a check of its digest if the checkpoint has any."""
    if digests is not None and file.is_file() and _digest(file) != digests.get(file.name):
        raise ValueError(
            f"{file.parent} is no readable checkpoint ({file.name} differs from its {_DIGESTS} in state.json; "
            "it was damaged or replaced)"
        )
    return read_tensors(file)


def _digest(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def read_tensors(file: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file. Raises ValueError if it is none, or has a number that is not finite."""
    try:
        if not file.is_file():
            raise OSError(f"{file.name} is no regular file")
        tensors: dict[str, Tensor] = load_file(file)
    except (OSError, SafetensorError, ValueError, KeyError, RuntimeError, MemoryError) as error:
        raise ValueError(f"{file.parent} is no readable checkpoint ({' '.join(str(error).split())})") from None
    for name, value in tensors.items():
        if (value.is_floating_point() or value.is_complex()) and not bool(torch.isfinite(value).all()):
            raise ValueError(f"{file} holds numbers that are not finite in {name}; finite weights are wanted")
    return tensors


def load_weights(
    model: nn.Module, weights: Mapping[str, Tensor], source: str, new_head: str | None = None
) -> list[str]:
    """Load `weights` into `model`, and return the names of the weights that were left as they were.

    `new_head` is the name of the classifier. Where it is given, the classifier's weights are loaded only if their
    shapes agree. Raises ValueError if the weights are another model's.
    """
    own = model.state_dict()
    head = {name for name in own if new_head is not None and name.startswith(f"{new_head}.")}
    misfits = [name for name in own if name not in weights or not _fits(weights[name], own[name])]
    extra = [name for name in weights if name not in own and not (new_head and name.startswith(f"{new_head}."))]
    wrong = [name for name in misfits if name not in head] + extra
    if wrong:
        what = wrong[0]
        have = f"has {_form(weights[what])}" if what in weights else "is missing"
        want = f"{_form(own[what])} is wanted" if what in own else "the model has no such weight"
        raise ValueError(f"{source} is a checkpoint of another model: {what} {have}, {want}")
    model.load_state_dict({name: weights[name] for name in own if name not in misfits}, strict=False)
    return misfits


def _fits(given: Tensor, own: Tensor) -> bool:
    return given.shape == own.shape and given.is_floating_point() == own.is_floating_point()


def _form(value: Tensor) -> str:
    kind = "" if value.is_floating_point() else f" of {str(value.dtype).removeprefix('torch.')}"
    return f"shape {tuple(value.shape)}{kind}"


def _split(value: Any, tensors: dict[str, Tensor], name: str) -> Any:
    """Move the tensors of `value` to `tensors`, and leave their names in their places.

    A mapping becomes a list of pairs, so that its keys keep their types.
    """
    if isinstance(value, Tensor):
        tensors[name] = value
        return {_TENSOR: name}
    if isinstance(value, Mapping):
        return {"items": [[key, _split(item, tensors, f"{name}.{key}")] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        return [_split(item, tensors, f"{name}.{i}") for i, item in enumerate(value)]
    return value


def _join(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, dict):
        if _TENSOR in value:
            return tensors[value[_TENSOR]]
        return {key: _join(item, tensors) for key, item in value["items"]}
    return [_join(item, tensors) for item in value] if isinstance(value, list) else value


def get_random_state() -> dict[str, Any]:
    """The state of this process's generators: Python's, NumPy's, torch's on the CPU and on its GPU."""
    version, internal, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state()  # noqa: NPY002  # timm's mixup draws from it
    state: dict[str, Any] = {
        "python": [version, list(internal), gauss],
        "numpy": [kind, np.asarray(keys).tolist(), position, has_gauss, cached],
        "torch": torch.get_rng_state().numpy().tobytes().hex(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state().numpy().tobytes().hex()
    return state


def set_random_state(state: Mapping[str, Any]) -> None:
    """Put the generators back where `get_random_state` found them. Raises ValueError for any other state."""
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    try:
        version, internal, gauss = state["python"]
        random.setstate((version, tuple(internal), gauss))
        kind, keys, *rest = state["numpy"]
        if kind != "MT19937" or len(keys) != 624 or not 0 <= int(rest[0]) <= 624:
            raise ValueError("NumPy's is of another generator")  # which it would take, and read beyond its end
        np.random.set_state((kind, np.asarray(keys, dtype=np.uint32), *rest))  # noqa: NPY002
        torch.set_rng_state(_bytes(state["torch"]))
        if "cuda" in state and torch.cuda.is_available():
            torch.cuda.set_rng_state(_bytes(state["cuda"]))
    except (KeyError, TypeError, ValueError, RuntimeError, IndexError, OverflowError, AttributeError) as error:
        random.setstate(before[0])
        np.random.set_state(before[1])  # noqa: NPY002
        torch.set_rng_state(before[2])
        raise ValueError(f"random holds no states of generators ({' '.join(str(error).split())})") from None


def _bytes(text: str) -> Tensor:
    return torch.tensor(list(bytes.fromhex(text)), dtype=torch.uint8)


def _flush(path: Path) -> None:
    """Wait until a file or folder is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
