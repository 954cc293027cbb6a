"""Settings of ``pcpad train``."""

from dataclasses import dataclass, field
from typing import Any, Literal

from pcpad.config.adapt import AdaptSettings
from pcpad.config.fields import aside, check, check_size, later
from pcpad.config.images import AugmentSettings, DataSettings, MixSettings, PreprocessSettings


@dataclass(frozen=True)
class OptimSettings:
    """The optimizer: SGD with momentum, or one of timm's."""

    name: str = later("sgd")
    """`sgd` is torch's, with the momentum below; any other is timm's of that name (adamw, lamb, lion, ...)."""
    options: dict[str, Any] = field(default_factory=dict, metadata={"later": True})
    """Further arguments of timm's optimizer: `{"betas": [0.9, 0.95]}`."""
    lr: float = 0.1
    """Peak learning rate, of a batch of any size, or of lr_batch_size."""
    lr_batch_size: int | None = None
    """Where given, the rate is lr * batch_size / lr_batch_size: the linear rule of Goyal et al., arXiv:1706.02677."""
    momentum: float = 0.9
    """Momentum."""
    nesterov: bool = False
    """Nesterov's form of the momentum."""
    weight_decay: float = 1e-4
    """L2 coefficient of SGD; of timm's optimizers as they take it, often decoupled."""
    decay: Literal["all", "weights"] = "all"
    """`all` parameters decay (the paper), or only the `weights` of convolutions and linear layers."""

    def __post_init__(self):
        check(0 < self.lr < float("inf"), "optim.lr", self.lr, "positive and finite")
        batch = self.lr_batch_size
        check(batch is None or batch >= 1, "optim.lr_batch_size", batch, "at least 1")
        check(0 <= self.momentum < 1, "optim.momentum", self.momentum, "in 0..1, 1 excluded")
        check(self.weight_decay >= 0, "optim.weight_decay", self.weight_decay, "at least 0")
        check(not self.nesterov or self.momentum > 0, "optim.nesterov", self.nesterov, "false without momentum")
        check(self.name != "sgd" or not self.options, "optim.options", self.options, "empty for sgd, which is torch's")


@dataclass(frozen=True)
class ScheduleSettings:
    """Learning rate against step: a linear warm-up, then steps, a cosine, or one of timm's schedules."""

    name: Literal["step", "cosine", "poly", "tanh", "multistep", "wsd", "rsqrt", "constant"] = "step"
    """`step` multiplies by gamma every step_epochs; `cosine` falls to min_lr at the last step; others are timm's."""
    options: dict[str, Any] = field(default_factory=dict, metadata={"later": True})
    """Further arguments of timm's schedule: `{"decay_milestones": [30, 60]}`."""
    warmup_epochs: float = 0.0
    """Epochs over which the rate rises linearly to its peak."""
    step_epochs: float = 30.0
    """Epochs between two drops of `step`."""
    gamma: float = 0.1
    """Factor of each drop of `step`."""
    min_lr: float = 0.0
    """Where `cosine` and timm's schedules end."""

    def __post_init__(self):
        check(self.warmup_epochs >= 0, "schedule.warmup_epochs", self.warmup_epochs, "at least 0")
        check(self.step_epochs > 0, "schedule.step_epochs", self.step_epochs, "positive")
        check(0 < self.gamma <= 1, "schedule.gamma", self.gamma, "above 0 and at most 1")
        check(self.min_lr >= 0, "schedule.min_lr", self.min_lr, "at least 0")
        own = self.name in ("step", "cosine")
        check(
            not own or not self.options, "schedule.options", self.options, f"empty for {self.name}, which is not timm's"
        )


@dataclass(frozen=True)
class ProgressiveSettings:
    """Training at sizes that rise with the epochs, after Howard's progressive resizing; evaluation stays at `size`."""

    start: int | None = None
    """Side in pixels in the first epoch; `size` in all of them if not given."""
    end: int | None = None
    """Side at the end; `size` if not given."""
    from_epoch: float = 0.0
    """The side rises from here on, counted from 0,"""
    to_epoch: float = 0.0
    """linearly up to here, in multiples of 32 pixels; at once if both are the same."""

    def __post_init__(self):
        check_size(self.start, "progressive.start")
        check_size(self.end, "progressive.end")
        check(self.from_epoch >= 0, "progressive.from_epoch", self.from_epoch, "at least 0")
        check(self.to_epoch >= self.from_epoch, "progressive.to_epoch", self.to_epoch, "at least from_epoch")
        if self.start is None and (self.end is not None or self.to_epoch):
            raise ValueError("progressive.end and its epochs need progressive.start")


@dataclass(frozen=True)
class SaveSettings:
    """Checkpoints: one after every epoch, and these."""

    every_minutes: float = 15.0
    """Also inside an epoch, this long after the last one."""
    every_steps: int | None = None
    """Also inside an epoch, after so many optimizer steps."""
    keep: int = 2
    """How many of the newest stay, beside the best and the last epoch's."""

    def __post_init__(self):
        check(self.every_minutes > 0, "save.every_minutes", self.every_minutes, "above 0")
        steps = self.every_steps
        check(steps is None or steps >= 1, "save.every_steps", steps, "at least 1")
        check(self.keep >= 1, "save.keep", self.keep, "at least 1")


@dataclass(frozen=True)
class TrainSettings:
    """One run: model, padding, data, recipe, seed."""

    model: str = "resnet50"
    """`torchvision/NAME`, `timm/NAME` or a bare name (torchvision's where it has it, else timm's)."""
    padding: str = "partial"
    """Padding mode: zeros, partial, partial_sqrt, reflect, symmetric, replicate, circular, mean."""
    power: float = 1.0
    """Exponent on the ratio of partial padding; 1 is the paper's."""
    on_small: Literal["raise", "replicate"] = "raise"
    """What reflect, symmetric and circular do where a feature map is smaller than its pad."""
    model_kwargs: dict[str, Any] = field(default_factory=dict, metadata={"later": True})
    """Further arguments of the library's constructor: `--model_kwargs.drop_path_rate 0.1`."""
    weights: str | None = aside(None)
    """Start from a file, from the library's weights of that name, or from `pretrained`; random if not given."""
    reset_head: bool = False
    """Start with a new classifier where the weights have another number of classes."""
    adapt: AdaptSettings = field(default_factory=AdaptSettings, metadata={"later": True})
    """From weights of zero padding to another padding."""
    zero_init: bool = False
    """Start the residual branches of torchvision's ResNets at zero (Goyal et al., arXiv:1706.02677); timm's do."""
    data: DataSettings = field(default_factory=DataSettings)
    """Which images."""
    recipe: str | None = aside(None)
    """A file of configs/ by name, or a path; if not given that of textures, cifar10 or elpv, else `paper`."""
    size: int = 224
    """Side of the square image the network sees, in pixels."""
    preprocess: PreprocessSettings = field(default_factory=PreprocessSettings)
    """How an image becomes a tensor."""
    augment: AugmentSettings = field(default_factory=AugmentSettings)
    """Training augmentation."""
    mix: MixSettings = field(default_factory=MixSettings, metadata={"later": True})
    """Mixup and cutmix."""
    progressive: ProgressiveSettings = field(default_factory=ProgressiveSettings, metadata={"later": True})
    """Progressive resizing."""
    epochs: int = 100
    """Passes over the training images; 0, with adapt.first, only evaluates and recalibrates."""
    batch_size: int = 192
    """Images of one optimizer step, over all processes and all parts."""
    accumulate: int = 1
    """Parts in which a process computes its share of a batch, one after the other, where memory is short."""
    eval_batch_size: int | None = aside(None)
    """Images of one evaluation step of a process; its share of batch_size if not given."""
    label_smoothing: float = 0.0
    """Of the loss."""
    loss: Literal["ce", "bce"] = later("ce")
    """Cross-entropy, or timm's binary cross-entropy of each class by itself (arXiv:2110.00476)."""
    optim: OptimSettings = field(default_factory=OptimSettings)
    """The optimizer."""
    schedule: ScheduleSettings = field(default_factory=ScheduleSettings)
    """The learning rate."""
    ema: float | None = None
    """Decay of an exponential moving average of the weights (timm's), which is then what is evaluated."""
    amp: Literal["off", "bf16", "fp16"] = "off"
    """Mixed precision; fp16 with loss scaling."""
    seed: int = 0
    """Of initial weights, data order and augmentation."""
    channels_last: bool = aside(True)
    """Memory format of images and weights."""
    compile: bool = aside(False)
    """Train through torch.compile."""
    device: Literal["auto", "cuda", "cpu", "mps"] = aside("auto")
    """`auto` is cuda where there is an NVIDIA GPU, else cpu."""
    gpus: int = aside(1)
    """Processes of this machine, one for each GPU; more than one are started by torchrun."""
    nodes: int = aside(1)
    """Machines; the same command is given on each, with the same rendezvous."""
    rendezvous: str | None = aside(None)
    """Where the machines meet: host:port of one of them."""
    sync_bn: bool = False
    """Batch statistics over all processes, on GPUs."""
    deterministic: bool = False
    """Only algorithms that give the same bits every time, and an error where there is none; often slower on a GPU."""
    out: str | None = aside(None)
    """The run's folder; a new one below runs/ if not given."""
    resume: str | None = aside(None)
    """Continue the run in this folder after its last checkpoint, with its settings."""
    save: SaveSettings = field(default_factory=SaveSettings, metadata={"result": False})
    """When checkpoints are written, and how many are kept."""
    log_seconds: float = aside(10.0)
    """Seconds between two log lines where the output is no terminal."""

    def __post_init__(self):
        check_size(self.size)
        check(self.epochs >= (0 if self.adapt.first else 1), "epochs", self.epochs, "at least 1")
        check(self.batch_size >= 1, "batch_size", self.batch_size, "at least 1")
        batch = self.eval_batch_size
        check(batch is None or batch >= 1, "eval_batch_size", batch, "at least 1")
        check(0 <= self.label_smoothing < 1, "label_smoothing", self.label_smoothing, "in 0..1, 1 excluded")
        check(self.ema is None or 0 < self.ema < 1, "ema", self.ema, "between 0 and 1")
        check(0 <= self.power < float("inf"), "power", self.power, "at least 0 and finite")
        check(0 <= self.seed < 2**31, "seed", self.seed, "in 0..2147483647")
        check(self.log_seconds >= 0, "log_seconds", self.log_seconds, "at least 0")
        warmup = self.schedule.warmup_epochs
        if warmup > self.epochs > 0:
            raise ValueError(
                f"schedule.warmup_epochs must be at most epochs ({self.epochs}), not {warmup:g}: more --epochs, or a "
                f"shorter warmup with them: --schedule.warmup_epochs {self.epochs / 10:g}"
            )
        check(self.accumulate >= 1, "accumulate", self.accumulate, "at least 1")
        check(self.gpus >= 1, "gpus", self.gpus, "at least 1")
        check(self.nodes >= 1, "nodes", self.nodes, "at least 1")
        if self.data.native and self.progressive.start is not None:
            raise ValueError("progressive sizes are squares: they go without --data.native")
        if self.data.native and (self.mix.mixup or self.mix.cutmix or self.augment.erase or self.augment.randaugment):
            raise ValueError(
                "mixup, cutmix, erasing and RandAugment take images of one size: they go without --data.native"
            )
        if self.nodes == 1 and self.rendezvous is not None:
            raise ValueError(f"rendezvous={self.rendezvous} is where several nodes meet: --nodes N says how many")
        if self.nodes > 1 and self.rendezvous is None:
            raise ValueError(f"nodes={self.nodes} need --rendezvous host:port, the same on each of them")
