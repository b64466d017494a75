"""`learn`: a dictionary from signals, step by step, with progress, checkpoints and a labelled result."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor
from tqdm import tqdm

from vars_dyn import _checks
from vars_dyn.dictionaries import Dictionary
from vars_dyn.learning import group
from vars_dyn.learning.atoms import Atoms
from vars_dyn.learning.checkpoints import Store, read_checkpoint
from vars_dyn.learning.coding import Codes
from vars_dyn.learning.learner import Learner, Step
from vars_dyn.learning.results import Learned, course, dictionary_facts
from vars_dyn.learning.rules import Rule
from vars_dyn.learning.sources import Source, as_tensor, source_for
from vars_dyn.recording.provenance import command_line, digest, now, versions

__all__ = ["StoreOptions", "learn"]


@dataclass(frozen=True)
class StoreOptions:
    """Where and how often a run is stored.

    Attributes:
        path: the folder. It gets checkpoint.safetensors and, at the end, dictionary.safetensors, dictionary.json and
            history.zarr.
        every: steps between checkpoints. A killed run loses at most so many.
        origin: more facts to keep, as plain data, such as the files of the signals.
    """

    path: str | os.PathLike[str]
    every: int = 100
    origin: Mapping[str, Any] | None = None


def learn(
    dictionary: Dictionary,
    signals: Any,
    lam: float | Sequence[float],
    *,
    method: str | Rule = "online",
    codes: str | Codes = "solve",
    steps: int = 1000,
    batch_size: int = 256,
    seed: int = 0,
    atoms: Atoms | None = None,
    store: str | os.PathLike[str] | StoreOptions | None = None,
    resume: bool = False,
) -> Learned:
    """Learn the atoms of a dictionary: minimise the mean of 1/2 |x - P a|^2 + lam |a|_1 over signals x and codes a.

    Args:
        dictionary: where to start: dense, convolutional or Fourier, or a `HierarchyDictionary` of these, whose layers
            learn together on their joint energy. Signals are cast to its dtype and device.
            `vars_dyn.learning.random_dictionary(dictionary, seed)` starts anywhere.
        signals: an array, tensor or zarr array (n, *signal_shape), of which batches are drawn at random with
            replacement; an iterable of signals, or a function that returns one; or a source, such as
            `vars_dyn.learning.Patches` of image files.
        lam: weight of |a|_1, above zero; for a hierarchy a sequence of one for each layer.
        method: how the dictionary changes: "online" (sufficient statistics and block-coordinate descent; Mairal et al.
            2009), "hebbian" (residual times code) or "gradient" (Adam); or a rule with its settings, from
            `vars_dyn.learning`: `Online`, `Hebbian`, `Gradient` (any torch optimizer).
        codes: how codes are found: "solve" (certified), "equilibrium" (certified and differentiable) or "integrate"
            (the neurons at a fixed time); or a way with its settings: `Solve`, `Equilibrium`, `Integrate`.
        steps: batches in all, counting those before a resume.
        batch_size: signals in a batch.
        seed: of the batches. The same seed gives the same bits, on the same machine with the same number of threads.
        atoms: what the atoms must satisfy, and when they are dead, as `vars_dyn.learning.Atoms`; by default norm 1.
        store: a folder for checkpoints and results, or `StoreOptions` with their interval; None stores nothing.
        resume: go on from the store's last checkpoint; the result has the same bits as that of a run without a break.

    Returns:
        A `Learned`: the dictionary, its history over the steps, and the facts of the run.

    Raises:
        ValueError: for arguments that do not fit, and signals that hold NaN or infinity (a source can skip them).
        StoreError: for a store that exists, or that cannot be resumed with these arguments.

    In a group of processes, which `torchrun` or Lightning Fabric's `launch` makes, every process calls this with the
    same arguments. Each codes its part of every batch, all end with the same dictionary, and the first alone writes.
    The result is that of one process to rounding. All processes must be able to read the store of a resumed run.

    A progress bar shows the objective, the largest gap, the share of active neurons, and the dead atoms. It is off
    where standard error is no terminal. SIGKILL at any moment leaves the last checkpoint whole.

    Examples:
        >>> signals = torch.randn(200, 8, dtype=torch.float64)
        >>> start = vd.DenseDictionary(torch.eye(8, dtype=torch.float64))
        >>> learned = vd.learn(start, signals, lam=0.5, steps=3, batch_size=16, seed=1)
        >>> learned.history["objective"].dims
        ('step',)
    """
    _checks.count("steps", steps)
    _checks.count("batch_size", batch_size)
    _checks.count("seed", seed, least=0)
    if resume and store is None:
        raise ValueError("resume is True and store is None; the store to go on with is wanted")
    learner = Learner(dictionary, lam, method, codes, atoms)
    source = source_for(signals, learner.signal_shape)
    options = StoreOptions(store) if store is not None and not isinstance(store, StoreOptions) else store
    settings = _settings(learner, source, batch_size, seed)
    facts = {"settings": settings, "command": command_line(), "date": now(), **versions()}
    if options is None:
        done = _steps(learner, source, settings, steps, [], None)
        return Learned(learner.dictionary, course(done, learner.dictionary, _flat(facts)), _flat(facts))
    _checks.count("every", options.every)
    place = Path(options.path)
    kept = _opened(place, resume, learner.dictionary.tensors()[0])
    try:
        facts["origin"] = dict(options.origin or {})
        before: list[Step] = []
        if resume:
            checkpoint = read_checkpoint(place, settings)
            learner.restore(checkpoint.state)
            before, facts = checkpoint.steps, checkpoint.facts
            if len(before) > steps:
                raise ValueError(f"steps is {steps}, but {place} has taken {len(before)} already; as many are wanted")

        def save(so_far: list[Step]) -> None:
            if kept is not None:
                kept.write(learner.state(), so_far, facts)

        save(before)
        done = _steps(learner, source, settings, steps, before, _Saving(save, options.every))
        flat = _flat(facts)
        learned = Learned(learner.dictionary, course(done, learner.dictionary, flat), flat, place)
        if kept is not None:
            learned.save(place)
        return learned
    finally:
        if kept is not None:
            kept.close()


def _opened(place: Path, resume: bool, like: Tensor) -> Store | None:
    """The store, held by the first process of a group; the others have none. If the first one cannot, all stop."""
    if group.rank() > 0:
        group.together(None, like)
        return None
    try:
        kept = Store(place, resume=resume)
    except Exception as error:
        group.together(str(error), like)
        raise
    group.together(None, like)
    return kept


class _Saving(NamedTuple):
    """How a checkpoint is written, and after how many steps."""

    write: Callable[[list[Step]], None]
    every: int


def _steps(
    learner: Learner,
    source: Source,
    settings: Mapping[str, Any],
    steps: int,
    before: list[Step],
    saving: _Saving | None,
) -> list[Step]:
    """All steps of the run; fewer than `steps` where the signals end before."""
    done = list(before)
    weight = learner.dictionary.tensors()[0]
    quiet = True if group.rank() > 0 else None
    with tqdm(total=steps, initial=len(done), desc=settings["method"], disable=quiet, leave=False) as bar:
        while len(done) < steps:
            batch = source.batch(len(done), settings["batch_size"], settings["seed"])
            if batch is None:
                warnings.warn(f"the signals ended after {len(done)} of {steps} batches", stacklevel=3)
                break
            done.append(learner.step(as_tensor(batch, weight)))
            if saving is not None and len(done) % saving.every == 0:
                saving.write(done)
            with suppress(OSError):  # the run goes on if the terminal is closed
                bar.set_postfix_str(_told(done[-1]), refresh=False)
                bar.update()
    if saving is not None:
        saving.write(done)
    return done


def _told(step: Step) -> str:
    return (
        f"objective {step.objective:.4g}, gap {step.relative_gap:.1e}, active {100 * step.active_fraction:.1f} %, "
        f"dead {step.dead}"
    )


def _settings(learner: Learner, source: Source, batch_size: int, seed: int) -> dict[str, Any]:
    """All that decides the bits of the result, by name and as plain data."""
    codes = learner.codes
    ways = asdict(codes) if hasattr(codes, "__dataclass_fields__") else {}  # type: ignore[call-overload]
    return {
        **learner.rule.facts(),
        "codes": type(codes).__name__.lower(),
        **{f"codes_{name}": value for name, value in ways.items()},
        **{f"atoms_{name}": value for name, value in asdict(learner.atoms).items()},
        "lam": learner.lam,
        "batch_size": batch_size,
        "seed": seed,
        **dictionary_facts(learner.dictionary),
        "dtype": str(learner.dictionary.dtype).removeprefix("torch."),
        "start_sha256": digest(learner.dictionary.tensors()),
        **source.facts(),
    }


def _flat(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The facts with the settings among them, for the results."""
    rest = {name: value for name, value in facts.items() if name not in ("settings", "origin")}
    return {**facts["settings"], **facts.get("origin", {}), **rest}
