"""The options of a training run, in groups; a YAML file has the same names."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from vars_dyn.attention import solvers

__all__ = ["Attention", "Augmentation", "Data", "Model", "Ode", "Optimization", "Settings"]


@dataclass
class Ode:
    """How attention with solver ode integrates its neurons: see `vars_dyn.attention.solvers.Ode`.

    Attributes:
        field: sparse_recurrent or reduced.
        horizon: time, in membrane time constants.
        method: the integrator's.
        rtol: its relative tolerance.
        atol: its absolute tolerance.
    """

    field: Literal["sparse_recurrent", "reduced"] = "sparse_recurrent"
    horizon: float = 10.0
    method: str = "dopri5"
    rtol: float = 1e-4
    atol: float = 1e-6


@dataclass
class Attention:
    """Which attention the model gets; what is left None is the layer's own default.

    Attributes:
        kind: softmax, performer, vars_s, vars_d or vars_sd (global_filter too, for GFNet); None: the model's own.
        lam: weight of the sparsity penalty.
        num_steps: iterations k of an unrolled solver.
        solver: ista, fista, ode or equilibrium.
        ode: settings of solver ode.
        variant: paper or released.
        gradient: how gradients pass the solver.
    """

    kind: str | None = None
    lam: float | None = None
    num_steps: int | None = None
    solver: str | None = None
    ode: Ode | None = None
    variant: str | None = None
    gradient: str | None = None

    def options(self) -> dict[str, Any]:
        """What is given, as arguments of the attention class."""
        given = {name: value for name, value in vars(self).items() if name != "kind" and value is not None}
        ode = given.pop("ode", None)
        if ode is not None:
            if self.solver != "ode":
                raise ValueError(f"model.attention.ode is given, but solver is {self.solver!r}; solver ode is wanted")
            given["solver"] = solvers.Ode(**vars(ode))
        return given


@dataclass
class Model:
    """The network.

    Attributes:
        name: any model of timm; vars_rvt_*, vars_deit_* and vars_gfnet_* are this project's.
        attention: its attention; in other models of timm it replaces theirs.
        sizes: further arguments of the model's constructor, such as depth: [2].
    """

    name: str = "vars_rvt_micro"
    attention: Attention = field(default_factory=Attention)
    sizes: dict[str, Any] = field(default_factory=dict)


@dataclass
class Data:
    """Images and labels.

    Attributes:
        source: folder (one folder of images per class), or a data set that torchvision reads.
        root: where it lies.
        train: folder of training images below root, of the source folder; several are joined.
        val: the same for validation.
        image_size: side in pixels that the model sees.
        crop: share of the resized image that validation crops; 1 resizes only.
        mean: per colour, of normalisation.
        std: per colour, of normalisation.
        train_images: train on a fixed subset of this many images, evenly over classes; None: on all.
        val_images: validate on a fixed subset of this many.
        in_memory: keep decoded images in memory.
        workers: processes that load images; 0: none.
        download: let torchvision download its data set.
    """

    source: Literal["folder", "cifar10", "cifar100", "fashion_mnist"] = "folder"
    root: str = "data"
    train: list[str] = field(default_factory=lambda: ["train"])
    val: list[str] = field(default_factory=lambda: ["val"])
    image_size: int = 224
    crop: float = 0.875
    mean: list[float] = field(default_factory=lambda: [0.485, 0.456, 0.406])
    std: list[float] = field(default_factory=lambda: [0.229, 0.224, 0.225])
    train_images: int | None = None
    val_images: int | None = None
    in_memory: bool = False
    workers: int = 0
    download: bool = False


@dataclass
class Augmentation:
    """What training does to images and labels.

    Attributes:
        crop: resized (a random share of the image, resized) or padded (shifted by up to an eighth, for small images),
            or none.
        scale: smallest share of the area that a resized crop takes.
        flip: probability of a horizontal flip.
        color_jitter: strength; 0: none.
        auto_augment: a policy of timm, such as rand-m9-mstd0.5-inc1.
        erasing: probability of random erasing.
        mixup: alpha of mixup; 0: none.
        cutmix: alpha of cutmix; 0: none.
        smoothing: label smoothing.
        repeats: times that each drawn image is used in an epoch of unchanged length (repeated augmentation).
    """

    crop: Literal["resized", "padded", "none"] = "resized"
    scale: float = 0.08
    flip: float = 0.5
    color_jitter: float = 0.0
    auto_augment: str | None = None
    erasing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    smoothing: float = 0.0
    repeats: int = 1


@dataclass
class Optimization:
    """Steps.

    Attributes:
        optimizer: any of timm's.
        lr: peak learning rate.
        weight_decay: on matrices; biases and norms have none.
        batch_size: images of one step, over all processes.
        schedule: any of timm's, stepped every update.
        warmup_epochs: of linear warm-up from nearly zero.
        min_lr: at the end.
        clip: largest norm of the gradient; 0: any.
        loss: ce (cross-entropy) or bce (binary cross-entropy per class).
        ema: decay of the moving average of the weights; 0: none.
        drop_path: rate of stochastic depth.
    """

    optimizer: str = "adamw"
    lr: float = 1e-3
    weight_decay: float = 0.05
    batch_size: int = 128
    schedule: str = "cosine"
    warmup_epochs: float = 0.0
    min_lr: float = 1e-6
    clip: float = 1.0
    loss: Literal["ce", "bce"] = "ce"
    ema: float = 0.0
    drop_path: float = 0.0


@dataclass
class Settings:
    """A training run.

    Attributes:
        out: folder of the run: checkpoints, log, trajectories.
        epochs: passes over the training images.
        seed: of weights, order and augmentation.
        resume: continue the run in `out` from its last checkpoint.
        stop_after: stop once this many epochs are done, to be resumed; None: run to the end.
        finetune: a checkpoint (or run) to start the weights from; its head is dropped if classes differ.
        devices: processes on this machine: one per GPU, or on the CPU.
        nodes: machines.
        accelerator: auto, cpu, cuda, mps.
        precision: auto (bf16-mixed on a GPU that has it, else 32-true), or one of Fabric's.
        probe_images: validation images whose layer trajectories every epoch records; 0: none.
        tensorboard: also log for TensorBoard.
        progress: show the progress bar.
    """

    out: str = "runs/train"
    model: Model = field(default_factory=Model)
    data: Data = field(default_factory=Data)
    augmentation: Augmentation = field(default_factory=Augmentation)
    optimization: Optimization = field(default_factory=Optimization)
    epochs: int = 10
    seed: int = 0
    resume: bool = False
    stop_after: int | None = None
    finetune: str | None = None
    devices: int = 1
    nodes: int = 1
    accelerator: str = "auto"
    precision: str = "auto"
    probe_images: int = 8
    tensorboard: bool = False
    progress: bool = True

    def __post_init__(self) -> None:
        for name in ("epochs", "devices", "nodes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; an integer of at least 1 is wanted")
        if self.probe_images < 0:
            raise ValueError(f"probe_images is {self.probe_images}; an integer of at least 0 is wanted")
