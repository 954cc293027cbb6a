"""Models by name: "torchvision/resnet50", "timm/resnet50.a1_in1k" or a bare name; their weights and preprocessing."""

import math
from pathlib import Path

import torch
from torch import nn

from pcpad.config import PreprocessSettings, nearest
from pcpad.constructors import AUXILIARY, HUB, ModelName, construct
from pcpad.data.batch import EvalTransform
from pcpad.weights import head_keys, load_state, read_file, unwrap

WEIGHT_FILES = (".pt", ".pth", ".bin", ".tar", ".ckpt", ".safetensors")
DEFAULT = ("pretrained", "default", "DEFAULT")
"""Words for the library's own choice of weights."""


def resolve(name: str, any_task: bool = False) -> ModelName:
    """Find a model; a bare name means torchvision where it has it (the paper's networks), else timm.

    ``timm/hf-hub:ORG/NAME`` is a model of the Hugging Face hub, ``timm/local-dir:PATH`` a folder of the same content.

    Args:
        any_task: torchvision's segmentation, detection and optical flow models too.

    Raises:
        ValueError: an unknown library or name; suggests the nearest.
    """
    if name.removeprefix("timm/").startswith(HUB):
        return ModelName("timm", name.removeprefix("timm/"))
    library, _, bare = name.rpartition("/")
    if library not in ("", "torchvision", "timm"):
        raise ValueError(f"unknown model library {library!r} in {name!r}: use torchvision/NAME or timm/NAME")
    if library != "timm" and bare in torchvision_names(any_task):
        return ModelName("torchvision", bare)
    if library != "torchvision":
        import timm

        arch, _, tag = bare.partition(".")
        if timm.is_model(arch):
            tags = [full.partition(".")[2] for full in timm.list_pretrained(f"{arch}.*")]
            if tag and tag not in tags:
                raise ValueError(
                    f"timm has no weights {tag!r} of {arch}: choose from {', '.join(tags)}{nearest(tag, tags)}"
                )
            return ModelName("timm", bare)
        known = [*timm.list_models(), *(torchvision_names(any_task) if not library else [])]
    else:
        known = torchvision_names(any_task)
    reason = "" if library == "timm" else why_not(bare)
    raise ValueError(reason or f"unknown model {name!r}{nearest(bare.partition('.')[0], known)}")


def why_not(bare: str) -> str:
    """Why a model of torchvision is none to resolve to, and what is; empty if torchvision has no such model."""
    from torchvision import models

    if bare in torchvision_names(any_task=True):
        return (
            f"torchvision/{bare} is no classification network, and only those can be trained and evaluated here; "
            "`pcpad inspect` and pcpad.convert take it"
        )
    if bare in models.list_models(module=models.quantization):
        plain = bare.removeprefix("quantized_")
        return f"torchvision/{bare} is quantized, and its convolutions are no Conv2d that pcpad knows: use {plain}"
    if bare in models.list_models(module=models.video):
        return f"torchvision/{bare} is a video network, of three-dimensional convolutions: none is a Conv2d"
    return ""


def torchvision_names(any_task: bool = False) -> list[str]:
    """Torchvision's classification networks; with `any_task` those of segmentation, detection and optical flow too."""
    from torchvision import models

    tasks = [models, models.segmentation, models.detection, models.optical_flow] if any_task else [models]
    return [name for task in tasks for name in models.list_models(module=task)]


def is_flow(name: ModelName) -> bool:
    """Whether a model computes the optical flow between two images."""
    from torchvision import models

    return name.library == "torchvision" and name.name in models.list_models(module=models.optical_flow)


def build(
    name: ModelName,
    num_classes: int,
    weights: str | None = None,
    reset_head: bool = False,
    model_kwargs: dict | None = None,
) -> nn.Module:
    """A model with zero padding and, where asked for, weights.

    Args:
        weights: a file, a name of the library's weights, ``"pretrained"`` (or ``"default"``), or None for random.
        reset_head: keep a new classifier where the weights have another number of classes.
        model_kwargs: what else the library's constructor takes.

    Raises:
        ValueError: weights of another network, another number of classes, a damaged or dangerous file, an unknown
            name. OSError: the file cannot be read or the download failed.
    """
    if weights is None:
        return create(name, num_classes, model_kwargs)
    if Path(weights).is_file():
        model = create(name, num_classes, model_kwargs)
        load_state(model, unwrap(read_file(weights)), weights, reset_head, AUXILIARY.get(name.name, ()))
        scale_input(model, name)
        return model
    if is_path(weights):
        raise ValueError(no_file(weights))
    source = download(name, weights, model_kwargs)
    model = create(name, num_classes, model_kwargs)
    load_state(model, source.state_dict(), f"{name} {weights}", reset_head, AUXILIARY.get(name.name, ()))
    scale_input(model, name)
    return model


def no_file(weights: str) -> str:
    """What is wrong with the path of weights that is none of a file."""
    if not Path(weights).is_dir():
        return f"weights {weights!r}: no such file"
    found = [path for path in ("checkpoints/last.pt", "model.safetensors") if (Path(weights) / path).is_file()]
    of_run = ", or the run itself with --run" if found == ["checkpoints/last.pt"] else ""
    return f"weights {weights!r} is a folder: " + (f"name its {found[0]}{of_run}" if found else "name a file")


def is_path(weights: str) -> bool:
    """Whether weights are named as a file, which may be gone since, and not as a library's weights."""
    return Path(weights).is_file() or "/" in weights or weights.endswith(WEIGHT_FILES)


def scale_input(model: nn.Module, name: ModelName) -> None:
    """Let torchvision's GoogLeNet and Inception rescale their input, as they do with the weights published for them."""
    if name.library == "torchvision" and name.name in AUXILIARY:
        model.transform_input = True


def zero_init_residual(model: nn.Module) -> None:
    """Set the last norm weight of every residual block of a torchvision ResNet to 0, so that it starts as identity.

    Source: Goyal et al., arXiv:1706.02677, section 5.1; the same as torchvision's ``zero_init_residual=True``.
    """
    from torchvision.models.resnet import BasicBlock, Bottleneck

    for module in model.modules():
        if isinstance(module, Bottleneck):
            nn.init.zeros_(module.bn3.weight)
        elif isinstance(module, BasicBlock):
            nn.init.zeros_(module.bn2.weight)


def sync_batch_norm(model: nn.Module, name: ModelName) -> nn.Module:
    """The model with batch statistics over all processes, by its library's own conversion; GPUs only."""
    if name.library == "timm":
        from timm.layers import convert_sync_batchnorm

        return convert_sync_batchnorm(model)
    return nn.SyncBatchNorm.convert_sync_batchnorm(model)


def build_as_published(name: ModelName, weights: str, model_kwargs: dict | None = None) -> nn.Module:
    """A model with weights and as many classes as they have; raises like `build`."""
    if not Path(weights).is_file() and is_path(weights):
        raise ValueError(no_file(weights))
    if not Path(weights).is_file():
        return download(name, weights, model_kwargs)
    state = unwrap(read_file(weights))
    standard = create(name, 1000, model_kwargs)
    keys = [key for key in standard.state_dict() if key in head_keys(standard) and key in state]
    num_classes = state[keys[-1]].shape[0] if keys else 1000
    model = standard if num_classes == 1000 else create(name, num_classes, model_kwargs)
    load_state(model, state, weights, ignore=AUXILIARY.get(name.name, ()))
    scale_input(model, name)
    return model


def create(name: ModelName, num_classes: int, model_kwargs: dict | None = None) -> nn.Module:
    """A model with random weights, from the library's own constructor; raises like `construct`."""
    if name.library == "timm":
        return construct(name, model_kwargs or {}, pretrained=False, num_classes=num_classes)
    extra = {"aux_logits": False, "init_weights": True} if name.name in AUXILIARY else {}
    return construct(name, model_kwargs or {}, weights=None, num_classes=num_classes, **extra)


def build_on_meta(name: ModelName, model_kwargs: dict | None = None) -> nn.Module:
    """A model of any task without memory for its weights, in eval mode: for shapes only."""
    extra = {}
    if name.library == "torchvision":
        if is_flow(name):
            extra = {}
        elif name.name not in torchvision_names():
            extra = {"weights_backbone": None}
        elif name.name in AUXILIARY:
            extra = {"aux_logits": False, "init_weights": False}

    own = {"pretrained": False} if name.library == "timm" else {"weights": None} | extra
    try:
        with torch.device("meta"):
            return construct(name, model_kwargs or {}, **own).eval()
    except NotImplementedError:  # torchvision's RegNets compute their widths with tensors
        return construct(name, model_kwargs or {}, **own).to("meta").eval()


def tagged(name: ModelName, weights: str | None) -> ModelName:
    """The name with the timm tag that `weights` asks for; the name itself where that is no tag.

    Raises:
        ValueError: timm has no such weights.
    """
    if name.library != "timm" or weights in (None, *DEFAULT) or is_path(weights):
        return name
    if name.on_hub:
        raise ValueError(f"{name} has one set of weights: --weights pretrained, not {weights!r}")
    return resolve(f"timm/{name.name.partition('.')[0]}.{weights}")


def download(name: ModelName, weights: str, model_kwargs: dict | None = None) -> nn.Module:
    """The library's model with the library's weights, through the library's own loader."""
    default = weights in DEFAULT
    try:
        if name.library == "timm":
            import timm

            arch, _, tag = name.name.partition(".")
            name = tagged(name, weights)
            if default and not tag and not name.on_hub and not timm.list_pretrained(f"{arch}.*"):
                raise ValueError(f"timm has no weights for {arch}")
            return construct(name, model_kwargs or {}, pretrained=True)
        from torchvision import models

        known = models.get_model_weights(name.name)
        choices = [w.name for w in known]
        if not default and weights not in choices:
            raise ValueError(
                f"torchvision has no weights {weights!r} of {name.name} and there is no such file: "
                f"choose from {', '.join(choices)}, pretrained{nearest(weights, choices)}"
            )
        chosen = known.DEFAULT if default else known[weights]
        return construct(name, model_kwargs or {}, weights=chosen)
    except (OSError, RuntimeError) as error:  # RuntimeError: a hub's checksum mismatch
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(
            f"the weights {weights!r} of {name} could not be downloaded ({first}); "
            "without a network give a file: --weights FILE"
        ) from error


def eval_transform(
    name: ModelName, settings: PreprocessSettings, size: int | None = None, weights: str | None = None
) -> EvalTransform:
    """Evaluation preprocessing: the library's for the model, with `settings` where they say otherwise.

    timm's comes from its pretrained_cfg. Torchvision's comes from the named weights, or from the first ones it
    published for the network (IMAGENET1K_V1) where weights come from a file or are random.

    Args:
        size: side in pixels; the model's own if None.

    Raises:
        ValueError: the model wants a preprocessing that pcpad does not have.
    """
    own = (
        timm_preprocessing(tagged(name, weights))
        if name.library == "timm"
        else torchvision_preprocessing(name, weights)
    )
    own |= {k: v for k, v in vars(settings).items() if v is not None}
    own["size"] = size or own["size"]
    if own["interpolation"] not in ("bilinear", "bicubic") or own["crop_mode"] not in ("center", "squash"):
        raise ValueError(
            f"{name} was evaluated with interpolation {own['interpolation']!r} and crop_mode {own['crop_mode']!r}; "
            "pcpad has bilinear or bicubic, and center or squash: choose by --preprocess.interpolation and "
            "--preprocess.crop_mode"
        )
    return EvalTransform(**own)


def timm_preprocessing(name: ModelName) -> dict:
    """What timm's pretrained_cfg says of a model."""
    import timm
    from timm.models import PretrainedCfg

    if name.on_hub:
        stated = build_on_meta(name).pretrained_cfg
        cfg = PretrainedCfg(**{key: value for key, value in stated.items() if key in vars(PretrainedCfg())})
    else:
        cfg = timm.get_pretrained_cfg(name.name) or PretrainedCfg()
    return {
        "size": cfg.input_size[-1],
        "mean": tuple(cfg.mean),
        "std": tuple(cfg.std),
        "interpolation": cfg.interpolation,
        "crop_pct": cfg.crop_pct,
        "crop_mode": cfg.crop_mode,
    }


def torchvision_preprocessing(name: ModelName, weights: str | None) -> dict:
    """What torchvision's weights say of a model."""
    from torchvision import models

    known = models.get_model_weights(name.name)
    if weights in DEFAULT:
        chosen = known.DEFAULT
    else:
        chosen = known[weights] if weights in known.__members__ else next(iter(known), None)
    if chosen is None:  # published without weights
        preset = models.ResNet50_Weights.IMAGENET1K_V1.transforms()
    else:
        preset = chosen.transforms()
    size, resize = preset.crop_size[0], preset.resize_size[0]
    crop_pct = size / resize
    if math.floor(size / crop_pct) != resize:  # the quotient of the rounded quotient may fall just below
        crop_pct = math.nextafter(crop_pct, 0)
    return {
        "size": size,
        "mean": tuple(preset.mean),
        "std": tuple(preset.std),
        "interpolation": preset.interpolation.value,
        "crop_pct": crop_pct,
        "crop_mode": "center",
    }
