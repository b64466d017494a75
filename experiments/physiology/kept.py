"""What a run has measured so far, in a folder beside its store, so that a run that was killed can go on."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from vars_dyn._files import lock, write_bytes
from vars_dyn.recording.provenance import first_difference

__all__ = ["Kept"]

Array = NDArray[np.float64]

_FACTS = "facts.json"


class Kept:
    """Arrays that depend on their inputs alone, each computed once.

    Without a folder nothing is kept. With one, every array is a file that appears whole or not at all, and an array
    that is there already is read instead of computed, with the same bits.

    Attributes:
        facts: what the run depends on besides the inputs; of a resumed run those of its beginning, date included.
    """

    def __init__(self) -> None:
        self.folder: Path | None = None
        self.facts: dict[str, Any] = {}
        self._lock: int | None = None

    @classmethod
    def beside(cls, store: Path, settings: Mapping[str, Any], about: Mapping[str, Any], *, resume: bool) -> Self:
        """What is kept for a run that will write `store`.

        Args:
            store: where the run's results will be.
            settings: what every kept array depends on; a resumed run must have the same.
            about: facts that a resumed run takes over as they are, such as the date.
            resume: whether to go on with what an interrupted run has left. Without it that is thrown away.

        Raises ValueError where a resumed run has other settings, or where there is nothing to resume, and if another
        process is at work there.
        """
        kept, folder = cls(), store.with_name(f"{store.name}.unfinished")
        plain = json.loads(json.dumps(settings))
        kept.facts = {**plain, **about}
        begun = (folder / _FACTS).is_file() and not folder.is_symlink()
        if resume:
            if not begun:
                raise ValueError(f"{store} has no unfinished run; there is nothing to resume")
            old = json.loads((folder / _FACTS).read_text())
            difference = first_difference(old["settings"], plain)
            if difference is not None:
                name, before, now = difference
                raise ValueError(f"{store} cannot be resumed with another {name}: it has {before}, this run has {now}")
            kept.facts = {**plain, **old["about"]}
        elif os.path.lexists(folder) and not begun:
            raise ValueError(f"{folder} exists, and this command did not make it; another --out is wanted")
        folder.mkdir(parents=True, exist_ok=True)
        kept._lock = lock(folder)
        kept.folder = folder
        if not resume:
            for file in folder.glob("*.npy"):
                file.unlink()
            write_bytes(folder / _FACTS, json.dumps({"settings": plain, "about": dict(about)}).encode())
        return kept

    def array(self, name: str, given: Array, compute: Callable[[], Array]) -> Array:
        """`compute()`, which depends on `given` and the settings alone."""
        if self.folder is None:
            return compute()
        words = hashlib.sha256(f"{given.dtype.str} {given.shape} ".encode() + np.ascontiguousarray(given).tobytes())
        file = self.folder / f"{name}-{words.hexdigest()[:32]}.npy"
        if file.is_file():
            return np.asarray(np.load(file, allow_pickle=False))
        found, content = compute(), io.BytesIO()
        np.save(content, found, allow_pickle=False)
        write_bytes(file, content.getvalue())
        return found

    def close(self, *, finished: bool) -> None:
        """Let other processes in; remove the folder of a run that is finished."""
        if self._lock is not None:
            if finished and self.folder is not None:
                shutil.rmtree(self.folder)
            with suppress(OSError):
                os.close(self._lock)
            self._lock = None
