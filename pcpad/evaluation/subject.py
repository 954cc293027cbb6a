"""What is evaluated: the model of a run, or a model with weights."""

from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from pcpad import models, weights
from pcpad.config import EvalSettings, PreprocessSettings
from pcpad.origin import origin_of
from pcpad.progress import say
from pcpad.training import checkpoint


@dataclass
class Subject:
    """What is evaluated, with the facts that its records state.

    Attributes:
        name: resolved model name. model: with its weights and zero padding.
        classes: folder names of the outputs, where they are known.
        preprocess: overrides of the model's own. data: name of the data set, ``auto`` if nothing was said.
        native: whether it was trained on images of their own aspect ratio.
        kwargs: arguments of its constructor.
        facts: record fields that are the same for every cell.
    """

    name: models.ModelName
    model: nn.Module
    num_classes: int
    classes: tuple[str, ...] | None
    preprocess: PreprocessSettings
    weights: str | None
    data: str
    size: int | None
    native: bool
    padding: str
    power: float
    on_small: str
    kwargs: dict
    facts: dict


def options(subject: Subject, padding: str) -> dict:
    """Options of convert for one padding mode."""
    extra = {"on_small": subject.on_small}
    return extra | ({"power": subject.power} if padding == "partial" else {})


def subject_of_run(settings: EvalSettings) -> Subject:
    """The model of a run, from its checkpoint."""
    from pcpad.training.runfolder import read_run

    folder = Path(settings.run)
    run = read_run(folder)
    trained = run["settings"]
    path = folder / checkpoint.FOLDER / f"{settings.checkpoint}.pt"
    content = checkpoint.load(path)
    ema = content["ema"] is not None if settings.ema is None else settings.ema
    if ema and content["ema"] is None:
        raise ValueError(f"{folder} has no averaged weights: it was trained without --ema")
    state = content["ema"] if ema else content["model"]
    name = models.resolve(trained["model"])
    model = models.create(name, len(run["classes"]), trained.get("model_kwargs"))
    if trained["weights"]:
        models.scale_input(model, name)
    weights.load_state(model, weights.unwrap(state), str(path))
    preprocess = PreprocessSettings(**trained["preprocess"])
    ramped = content.get("power", trained["power"])  # of a ramp that is under way; of another mode its own
    power = ramped if trained["padding"] == "partial" else trained["power"]
    return Subject(
        name=name,
        model=model,
        num_classes=len(run["classes"]),
        classes=tuple(run["classes"]),
        preprocess=merge(preprocess, settings.preprocess),
        weights=trained["weights"],
        data=trained["data"]["name"] if settings.data.name == "auto" else settings.data.name,
        size=trained["size"],
        native=trained["data"].get("native", False),
        padding=trained["padding"],
        power=power if settings.power is None else settings.power,
        on_small=settings.on_small or trained["on_small"],
        kwargs=trained.get("model_kwargs", {}),
        facts={
            "run": run["id"],
            "run_digest": run["settings_digest"],
            "weights_digest": run["weights_digest"],
            "checkpoint": settings.checkpoint,
            "step": content["step"],
            "ema": ema,
            "seed": trained["seed"],
            "excluded": run.get("excluded", 0),
            "padding_trained": trained["padding"],
            "augmented_by": run.get("augmented_by"),
        },
    )


def subject_of_model(settings: EvalSettings) -> Subject:
    """A model by name with weights from a file or from its library.

    A file that pcpad wrote says what it was trained with, which is then what is not stated otherwise.
    """
    name = models.resolve(settings.model)
    is_file = Path(settings.weights).is_file()
    known = origin_of(settings.weights)
    model = models.build_as_published(name, settings.weights, settings.model_kwargs)
    num_classes = weights.num_outputs(model)
    if known:
        say(f"{settings.weights} was trained with {known.padding} padding and evaluated at {known.size} pixels")
    return Subject(
        name=name,
        model=model,
        num_classes=num_classes,
        classes=None,
        preprocess=merge(known.preprocess, settings.preprocess) if known else settings.preprocess,
        weights=known.weights if known else settings.weights,
        data=settings.data.name,
        size=known.size if known else None,
        native=False,
        padding=known.padding if known else "zeros",
        power=(known.power if known else 1.0) if settings.power is None else settings.power,
        on_small=settings.on_small or "raise",
        kwargs=settings.model_kwargs,
        facts={
            "weights_digest": weights.file_digest(settings.weights) if is_file else settings.weights,
            "checkpoint": Path(settings.weights).name if is_file else settings.weights,
            "ema": False,
            # Every library's own weights were trained with the network's own padding; of most files nobody knows.
            "padding_trained": (known.padding if known else None) if is_file else "zeros",
        },
    )


def merge(base: PreprocessSettings, over: PreprocessSettings) -> PreprocessSettings:
    """`base` with what `over` states."""
    return replace(base, **{k: v for k, v in vars(over).items() if v is not None})
