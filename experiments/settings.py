"""The options of a training run, in groups. A YAML file uses the same names."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

from experiments.options.limits import ACCELERATORS, PRECISIONS, between, checked_sizes, one_of, whole
from vars_dyn.attention import solving

__all__ = ["Attention", "Augmentation", "Data", "Distillation", "Model", "Ode", "Optimization", "Settings"]

Size = bool | int | float | str | list[int]


@dataclass
class Ode:
    """How attention with solver ode integrates its neurons: see `vars_dyn.attention.solving.Ode`.

    Attributes:
        field: which field: sparse_recurrent or reduced.
        horizon: time up to which it integrates, in membrane time constants.
        method: the method of the integrator.
        rtol: the relative tolerance of the integrator.
        atol: the absolute tolerance of the integrator.
    """

    field: Literal["sparse_recurrent", "reduced"] = "sparse_recurrent"
    horizon: float = 10.0
    method: str = "dopri5"
    rtol: float = 1e-4
    atol: float = 1e-6

    def __post_init__(self) -> None:
        for name in ("horizon", "rtol"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"ode.{name} is {getattr(self, name)}; a finite number above 0 is wanted")
        between("ode.atol", self.atol, 0)


@dataclass
class Attention:
    """Which attention the model gets. None means the layer's own default.

    Attributes:
        kind: softmax, performer, crate, vars_s, vars_d or vars_sd (for GFNet also global_filter); None: the model's.
        lam: weight of the sparsity penalty.
        num_steps: how many iterations k an unrolled solver takes.
        solver: ista, fista, ode or equilibrium.
        ode: settings of solver ode.
        variant: the definition of the layer: paper or released.
        gradient: how gradients pass the solver.
    """

    kind: str | None = None
    lam: float | None = None
    num_steps: int | None = None
    solver: str | None = None
    ode: Ode | None = None
    variant: str | None = None
    gradient: str | None = None

    def __post_init__(self) -> None:
        between("model.attention.lam", self.lam, 0)
        whole("model.attention.num_steps", self.num_steps, 1, 100_000)

    def options(self) -> dict[str, Any]:
        """The options that are given, as arguments of the attention class."""
        given = {name: value for name, value in vars(self).items() if name != "kind" and value is not None}
        ode = given.pop("ode", None)
        if ode is not None:
            if self.solver != "ode":
                raise ValueError(f"model.attention.ode is given, but solver is {self.solver!r}; solver ode is wanted")
            given["solver"] = solving.Ode(**vars(ode))
        return given


@dataclass
class Model:
    """The network.

    Attributes:
        name: any model of timm; vars_rvt_*, vars_deit_* and vars_gfnet_* are this project's.
        attention: the attention of this project's models; in other models of timm it replaces theirs.
        sizes: further arguments of the model's constructor, such as depth: [2]; see
            `experiments.options.limits.SIZES`.
    """

    name: str = "vars_rvt_micro"
    attention: Attention = field(default_factory=Attention)
    sizes: dict[str, Size] = field(default_factory=dict)

    def __post_init__(self) -> None:
        checked_sizes(self.sizes)


@dataclass
class Data:
    """Images and labels.

    Attributes:
        source: folder (one folder of images per class), or a data set that torchvision reads.
        root: the folder of the images.
        train: folders of training images below root, if source is folder; several are joined.
        val: the same for validation.
        image_size: side in pixels of the images that the model sees.
        crop: share of the resized image's shorter side that validation crops; 1: the largest square.
        mean: the mean of each colour, which normalisation subtracts.
        std: the standard deviation of each colour, by which normalisation divides.
        train_images: train on a fixed subset of this many images, evenly over classes; None: on all.
        val_images: validate on a fixed subset of this many images; None: on all.
        in_memory: keep decoded images in memory.
        workers: processes that load images; 0: the main process does.
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

    def __post_init__(self) -> None:
        whole("data.image_size", self.image_size, 1, 8192)
        whole("data.workers", self.workers, 0, 1024)
        for name in ("train_images", "val_images"):
            whole(f"data.{name}", getattr(self, name), 1)
        if not 0 < self.crop <= 1:
            raise ValueError(f"data.crop is {self.crop}; a number above 0, up to 1, is wanted")
        for name, positive in (("mean", False), ("std", True)):
            value = getattr(self, name)
            if len(value) != 3 or not all(math.isfinite(each) and (each > 0 or not positive) for each in value):
                what = "finite numbers above 0" if positive else "finite numbers"
                raise ValueError(f"data.{name} is {value}; three {what}, of red, green and blue, are wanted")


@dataclass
class Augmentation:
    """What training does to images and labels.

    Attributes:
        crop: resized (a random share of the image is resized), padded (the image is shifted by up to an eighth, which
            suits small images), or none.
        scale: smallest share of the area that a resized crop takes.
        flip: probability of a horizontal flip.
        color_jitter: strength of the colour jitter; 0: none.
        auto_augment: a policy of timm, such as rand-m9-mstd0.5-inc1.
        erasing: probability of random erasing.
        mixup: alpha of mixup; 0: none.
        cutmix: alpha of cutmix; 0: none.
        smoothing: label smoothing; 0: none.
        repeats: how often an epoch, whose length stays, uses each drawn image (repeated augmentation).
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

    def __post_init__(self) -> None:
        if not 0 < self.scale <= 1:
            raise ValueError(f"augmentation.scale is {self.scale}; a number above 0, up to 1, is wanted")
        for name in ("flip", "erasing", "cutmix", "mixup", "color_jitter"):
            most = 1 if name in ("flip", "erasing") else 100
            between(f"augmentation.{name}", getattr(self, name), 0, most)
        between("augmentation.smoothing", self.smoothing, 0, 1, open_above=True)
        whole("augmentation.repeats", self.repeats, 1)


@dataclass
class Optimization:
    """The optimizer and its steps.

    Attributes:
        optimizer: any of timm's.
        lr: peak learning rate.
        weight_decay: weight decay of matrices; biases and norms have none.
        batch_size: images of one step, over all processes.
        accumulate: in how many parts, one after another, a step's images pass the network, to save memory.
        schedule: any of timm's, stepped every update.
        warmup_epochs: epochs of linear warm-up from nearly zero.
        min_lr: learning rate at the end.
        clip: largest norm of the gradient; 0: no limit.
        loss: ce (cross-entropy) or bce (binary cross-entropy per class).
        ema: decay of the moving average of the weights; 0: none.
        drop_path: rate of stochastic depth.
        layer_decay: factor on the learning rate from each layer to the one before it; 1: the same rate for all.
        attention_epochs: epochs at the start in which only attention layers and the classifier learn.
    """

    optimizer: str = "adamw"
    lr: float = 1e-3
    weight_decay: float = 0.05
    batch_size: int = 128
    accumulate: int = 1
    schedule: str = "cosine"
    warmup_epochs: float = 0.0
    min_lr: float = 1e-6
    clip: float = 1.0
    loss: Literal["ce", "bce"] = "ce"
    ema: float = 0.0
    drop_path: float = 0.0
    layer_decay: float = 1.0
    attention_epochs: int = 0

    def __post_init__(self) -> None:
        for name in ("lr", "weight_decay", "warmup_epochs", "min_lr", "clip"):
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                raise ValueError(f"optimization.{name} is {value}; a finite number of at least 0 is wanted")
        for name in ("ema", "drop_path"):
            between(f"optimization.{name}", getattr(self, name), 0, 1, open_above=True)
        for name, least in (("batch_size", 1), ("accumulate", 1), ("attention_epochs", 0)):
            whole(f"optimization.{name}", getattr(self, name), least)
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"optimization.accumulate is {self.accumulate}; a divisor of batch_size, {self.batch_size}, is wanted"
            )
        if not 0 < self.layer_decay <= 1:
            raise ValueError(f"optimization.layer_decay is {self.layer_decay}; a number above 0, up to 1, is wanted")


@dataclass
class Distillation:
    """Learning from the logits of another model, such as the softmax original of a model with another attention.

    The loss is (1 - share) times that of the labels plus share times T^2 KL(teacher || model) of the logits over T
    (Hinton et al., 2015).

    Attributes:
        teacher: a checkpoint or run of the same classes and image size, which is not trained; None: no distillation.
        share: weight of the teacher's part in the loss.
        temperature: T.
    """

    teacher: str | None = None
    share: float = 0.5
    temperature: float = 2.0

    def __post_init__(self) -> None:
        between("distillation.share", self.share, 0, 1)
        if not 0 < self.temperature < math.inf:
            raise ValueError(f"distillation.temperature is {self.temperature}; a finite number above 0 is wanted")


@dataclass
class Settings:
    """A training run.

    Attributes:
        out: folder of the run: checkpoints, log, trajectories.
        epochs: passes over the training images.
        seed: the seed of weights, order and augmentation.
        resume: continue the run in `out` from its last checkpoint.
        stop_after: stop once this many epochs are done, to be resumed; None: run to the end.
        finetune: a checkpoint (or run), or a safetensors file of the model's weights, that training starts from. Its
            head is dropped if classes differ. If it has another attention, that is replaced, and what carries over is
            kept.
        devices: how many processes run on this machine, each on a GPU of its own or on the CPU.
        nodes: how many machines.
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
    distillation: Distillation = field(default_factory=Distillation)
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
        for name, most in (("epochs", 1_000_000), ("devices", 1024), ("nodes", 65536)):
            whole(name, getattr(self, name), 1, most)
        if not self.out.strip():
            raise ValueError("out is empty; a folder is wanted")
        whole("stop_after", self.stop_after, 1)
        whole("probe_images", self.probe_images, 0)
        whole("seed", self.seed, 0, 2**32 - 1 - 65536)  # NumPy's and Fabric's limit, with room for every process
        one_of("accelerator", self.accelerator, ACCELERATORS)
        one_of("precision", self.precision, PRECISIONS)

    def check(self) -> None:
        """Raise ValueError for a value that was set later and that the constructors would have refused."""
        groups = (
            self.model.attention,
            self.model,
            self.data,
            self.augmentation,
            self.optimization,
            self.distillation,
            self,
        )
        for group in groups if self.model.attention.ode is None else (self.model.attention.ode, *groups):
            group.__post_init__()
