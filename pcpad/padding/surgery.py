"""convert: rewrite every Conv2d of a model to a padding mode, in place, and change nothing else."""

import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import nn

from pcpad.padding.coverage import conv_pads, pair
from pcpad.padding.filled import FilledPadding, fill
from pcpad.padding.folding import folded, guard_folding
from pcpad.padding.handlers import behaviour_of, derive, handler_of, original_class, put_class, qualified
from pcpad.padding.modes import PADDING_MODES, canonical, power_of
from pcpad.padding.padders import describe
from pcpad.padding.partial import PartialConv2d, PartialPadding, rescale_border
from pcpad.padding.pools import count_padding, is_average_pool, judge_pool
from pcpad.padding.report import LayerReport, SurgeryReport

WRAPPERS = {
    "torch.nn.parallel.distributed.DistributedDataParallel": "convert model.module, or convert before wrapping",
    "torch.nn.parallel.data_parallel.DataParallel": "convert model.module, or convert before wrapping",
    "torch.distributed.fsdp.fully_sharded_data_parallel.FullyShardedDataParallel": "convert before wrapping",
    "torch._dynamo.eval_frame.OptimizedModule": "convert model._orig_mod, or convert before torch.compile",
}


def convert(
    model: nn.Module,
    mode: str,
    *,
    include: str | Sequence[str] | None = None,
    exclude: str | Sequence[str] | None = None,
    pools: bool = False,
    on_small: str = "raise",
    power: float = 1.0,
) -> SurgeryReport:
    """Rewrite every padded convolution (``nn.Conv2d``) of `model` to a padding mode, in place.

    Parameters, state-dict keys, hooks, train/eval and requires_grad flags stay the objects they were; a module that
    is registered under several names is converted once; `model` may itself be a convolution. Converting again, to
    the same or another mode, is fine, and converting to ``"zeros"`` gives the original outputs bit for bit. On an
    error nothing has been changed.

    timm's subclasses of ``nn.Conv2d`` are known; others are added with `register_conv`. Modules that pad and are no
    Conv2d stay as they are and stand in the report. Methods that fold convolutions into others (``fuse``,
    ``reparameterize``) are refused while a block holds a converted convolution, in all of `model`: so give it the whole
    network and `include`, not a convolution of a block, of which the block would know nothing.

    Args:
        model: any module; not wrapped (DDP, FSDP, DataParallel), compiled, scripted or traced to a graph without its
            convolutions.
        mode: a name of `pcpad.PADDING_MODES`.
        include: glob or globs over qualified module names; only these are converted.
        exclude: glob or globs over qualified module names; these are left as they are.
        pools: also stop average pools from counting their padding, which is partial padding for pooling; only
            with ``"partial"``. A later conversion without it restores them.
        on_small: where a map is too small to be filled (reflect, circular): ``"raise"`` at the forward pass or use
            ``"replicate"`` there.
        power: exponent of the ratio of ``"partial"``: 1 is the paper's, 0.5 keeps the variance, 0 is zero padding.

    Returns:
        What was done to every convolution and every other module that pads, and why; prints as a table.

    Raises:
        TypeError: `model` is not an ``nn.Module``; a glob is no text.
        ValueError: an unknown mode or option; a glob that matches nothing; a wrapped, compiled, scripted or traced
            model; a subclass of ``nn.Conv2d`` that pcpad does not know; a mode other than ``"zeros"`` that would
            change nothing because no convolution pads.

    Warns:
        UserWarning: partial padding of a model whose identity branches were folded into its kernels already.

    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 1))
    >>> print(convert(net, "partial").summary)
    partial padding: 1 of 2 convolutions converted
    """
    mode = canonical(mode)
    PartialConv2d.check_power(power)
    if power != 1 and mode != "partial":
        raise ValueError(f"power={power} has a meaning for mode 'partial' only, not for {mode!r}")
    if pools and mode != "partial":
        raise ValueError(f"pools=True has a meaning for mode 'partial' only, not for {mode!r}")
    if on_small not in ("raise", "replicate"):
        raise ValueError(f"on_small={on_small!r} is not one of 'raise', 'replicate'")
    refuse_wrapped(model)

    names = module_names(model)
    chosen = select(names, include, exclude)
    wanted = Wanted(mode, float(power_of(mode, power)), on_small, pools)
    planned = [(m, layer_report(m, paths, wanted, m in chosen)) for m, paths in names.items()]
    plan = [(module, layer) for module, layer in planned if layer is not None]
    report = SurgeryReport(
        model=type(model).__qualname__,
        mode=mode,
        power=wanted.power,
        on_small=on_small,
        layers=tuple(layer for _, layer in plan),
        folded=tuple(folded(model)),
    )
    if mode != "zeros" and not any(layer.action in ("converted", "kept") for layer in report.layers):
        raise ValueError(f"convert(model, {mode!r}) would change nothing: {report.why_nothing}")
    for module, layer in plan:
        if layer.is_conv and layer.action in ("converted", "kept"):
            derive(PADDING_MODES[mode].behaviour, original_class(module))  # raises now, if a class cannot be derived
    if report.warning:
        warnings.warn(report.warning, stacklevel=2)
    for module, layer in plan:  # nothing raises from here on, so a model is never left half converted
        if layer.action in ("converted", "kept", "restored"):
            if isinstance(module, nn.Conv2d):
                put_mode(module, layer.name, wanted)
            elif layer.action != "kept":
                count_padding(module, layer.action == "restored")
    guard_folding(model)
    return report


def refuse_wrapped(model: nn.Module) -> None:
    """Raise unless `model` is a module that can be changed in place."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"convert takes a torch.nn.Module, not {type(model).__name__}")
    for name, module in model.named_modules():
        where = f"its module {name!r}" if name else "the model"
        kinds = [qualified(base) for base in type(module).__mro__]
        wrapper = next((kind for kind in kinds if kind in WRAPPERS), None)
        fsdp2 = any(base.__name__ == "FSDPModule" for base in type(module).__mro__)
        if isinstance(module, torch.jit.ScriptModule) and convolves(module):
            raise ValueError(
                f"{where} is scripted or traced ({kinds[0]}): convert the model it was made from, then export that"
            )
        if wrapper or fsdp2:
            raise ValueError(f"{where} is wrapped ({kinds[0]}): {WRAPPERS.get(wrapper, 'convert before wrapping')}")
        if call := traced_call(module):
            raise ValueError(
                f"{where} is a graph that was traced or exported, in which a convolution is no module but a call "
                f"({call}): convert the model that it was made from, then trace that"
            )
        if module._compiled_call_impl is not None:
            raise ValueError(f"{where} is compiled: convert first, then call compile()")


def convolves(module: torch.jit.ScriptModule) -> bool:
    """Whether a scripted or traced module convolves, which an activation does not; yes where it cannot be told."""

    def kinds(block) -> Iterator[str]:
        for node in block.nodes():
            yield node.kind()
            for inner in node.blocks():
                yield from kinds(inner)

    try:
        return any("conv" in kind for kind in kinds(module.inlined_graph))
    except (AttributeError, RuntimeError):  # it has no forward of its own
        return True


def traced_call(module: nn.Module) -> str | None:
    """The first function in a module's graph, if it has one, that convolves or pads in the place of a convolution."""
    graph = module.graph if isinstance(module, torch.fx.GraphModule) else vars(module).get("graph")
    for node in graph.nodes if isinstance(graph, torch.fx.Graph) else ():
        if node.op == "call_function":
            name = getattr(node.target, "__name__", "")
            if node.target in (rescale_border, fill) or name.partition(".")[0] in ("conv2d", "convolution"):
                return name
    return None


def module_names(model: nn.Module) -> dict[nn.Module, list[str]]:
    """Every module once, with all the names it is registered under."""
    names: dict[nn.Module, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        names.setdefault(module, []).append(name)
    return names


def select(names: dict[nn.Module, list[str]], include, exclude) -> set[nn.Module]:
    """The modules that `include` and `exclude` leave; raises ValueError for a glob that matches nothing."""

    def matching(globs, option: str) -> set[nn.Module]:
        listed = [globs] if isinstance(globs, str) else list(globs) if isinstance(globs, Iterable) else [None]
        if not all(isinstance(glob, str) for glob in listed):
            raise TypeError(f"{option} must be a glob over module names, or a list of them, not {globs!r}")
        found = set()
        for glob in listed:
            hits = {module for module, paths in names.items() if any(fnmatchcase(path, glob) for path in paths)}
            if not any(isinstance(module, nn.Conv2d) or is_average_pool(module) for module in hits):
                examples = [p[0] for m, p in names.items() if isinstance(m, nn.Conv2d)][:3]
                raise ValueError(
                    f"{option}={glob!r} matches no convolution; names look like {', '.join(map(repr, examples))}"
                )
            found |= hits
        return found

    chosen = set(names) if include is None else matching(include, "include")
    return chosen if exclude is None else chosen - matching(exclude, "exclude")


@dataclass(frozen=True)
class Wanted:
    """What a call of convert asks for; the fields are its arguments."""

    mode: str
    power: float = 1.0
    on_small: str = "raise"
    pools: bool = False


def layer_report(module: nn.Module, paths: list[str], wanted: Wanted, chosen: bool) -> LayerReport | None:
    """What is to be done to one module, and why; None for a module that is no convolution and does not pad."""
    if isinstance(module, nn.Conv2d):
        verdict = judge_conv(module, paths[0], wanted, chosen)
    elif is_average_pool(module):
        verdict = judge_pool(module, chosen, wanted.pools)
    else:
        reason = describe(module)
        verdict = reason and ("left", reason)
    if not verdict:
        return None
    return LayerReport(
        name=paths[0],
        aliases=tuple(paths[1:]),
        kind=original_class(module).__qualname__,
        is_conv=isinstance(module, nn.Conv2d),
        kernel_size=numbers(getattr(module, "kernel_size", None), dimensions(module)),
        stride=numbers(getattr(module, "stride", None), dimensions(module)),
        padding=padding_shown(module),
        action=verdict[0],
        reason=verdict[1],
    )


def judge_conv(conv: nn.Conv2d, name: str, wanted: Wanted, chosen: bool) -> tuple[str, str]:
    """Action and reason for one convolution."""
    original, current = original_class(conv), behaviour_of(conv)
    if not chosen:
        return "left", "not selected"
    if handler_of(original) is None:
        if wanted.mode == "zeros":
            return "left", "not converted by pcpad"
        raise ValueError(unknown_class(name, original))
    if current is None:
        if not may_pad(conv):
            return "left", "pads nothing"
        if conv.padding_mode != "zeros":
            if original is nn.Conv2d:
                return "left", f"pads with {conv.padding_mode!r} by its own design"
            return "left", f"has padding_mode={conv.padding_mode!r}, which {original.__qualname__} does not follow"
        if wanted.mode == "zeros":
            return "left", "has zeros already"
    target = PADDING_MODES[wanted.mode]
    if current is not target.behaviour and {"forward", "_conv_forward"} & set(vars(conv)):
        raise ValueError(
            f"layer {name!r} has a forward of its own, set on the object (as accelerate's hooks do), which would not "
            f"follow: take it off, convert, and put it on again; or leave the layer with exclude={name!r}"
        )
    if current is not target.behaviour or conv.padding_mode != target.padding_mode:
        return "converted", ""
    for option, attribute in (("power", "pcpad_power"), ("on_small", "pcpad_on_small")):
        held, asked = getattr(conv, attribute, None), getattr(wanted, option)
        if held not in (None, asked):
            return "converted", f"{option} {held} -> {asked}"
    return "kept", "has the mode already"


def unknown_class(name: str, kind: type) -> str:
    """The message for a subclass of Conv2d that has no handler, with the way to give it one."""
    if issubclass(kind, nn.LazyConv2d):
        return f"layer {name!r} is a LazyConv2d that has seen no input yet: run one forward pass first, then convert"
    return (
        f"layer {name!r} is a {qualified(kind)}, a subclass of torch.nn.Conv2d that pcpad does not know: it may make "
        f"its weights or its padding in its own way. If its forward is a zero-padded convolution, say so with "
        f"pcpad.register_conv({kind.__name__}); add weight=lambda conv: ... where it convolves with other weights than "
        "conv.weight, and pads=lambda conv, height, width: (top, bottom, left, right) where it does not pad by "
        f"conv.padding. Or leave the layer as it is with exclude={name!r}"
    )


def may_pad(conv: nn.Conv2d) -> bool:
    """Whether a convolution pads an input of some size."""
    handler = handler_of(original_class(conv))
    pads = handler and handler.pads
    if pads is None:
        return any(conv_pads(conv.padding, conv.kernel_size, conv.dilation))
    found = False
    for size in (*range(1, 1 + max(pair(conv.stride)) * 2), 28, 56, 112, 224):
        four = pads(conv, size, size)
        if not isinstance(four, (tuple, list)) or len(four) != 4 or min(four) < 0:
            raise ValueError(
                f"the pads registered for {qualified(original_class(conv))} must be (top, bottom, left, right), none "
                f"negative; for an input of {size}x{size} they are {four!r}"
            )
        found = found or any(four)
    return found


def put_mode(conv: nn.Conv2d, name: str, wanted: Wanted) -> None:
    """Put one convolution into a mode."""
    mode = PADDING_MODES[wanted.mode]
    for attribute in ("pcpad_power", "pcpad_on_small", "pcpad_layer"):
        vars(conv).pop(attribute, None)
    put_class(conv, derive(mode.behaviour, original_class(conv)))
    conv.padding_mode = mode.padding_mode
    if mode.behaviour is PartialPadding:
        conv.pcpad_power = wanted.power
    elif mode.behaviour is FilledPadding:
        conv.pcpad_on_small, conv.pcpad_layer = wanted.on_small, name


def padding_shown(module: nn.Module) -> str | tuple[int, ...] | None:
    """A module's padding as it holds it; ``"dynamic"`` where it follows the input size."""
    handler = handler_of(original_class(module))
    if (handler and handler.pads and getattr(module, "same_pad", True)) or getattr(module, "dynamic_padding", False):
        return "dynamic"
    padding = getattr(module, "padding", None)
    return padding if isinstance(padding, str) else numbers(padding, dimensions(module))


def dimensions(module: nn.Module) -> int:
    """Of the maps that a module takes: 1 and 3 where torch's class for it says so in its name, else 2."""
    names = [kind.__name__ for kind in type(module).__mro__ if kind.__module__.startswith("torch.nn.")]
    return next((int(name[-2]) for name in names if name[-2:] in ("1d", "2d", "3d")), 2)


def numbers(value, dims: int) -> tuple[int, ...] | None:
    """An int once for each dimension, a sequence as a tuple of ints, anything else as None."""
    if isinstance(value, int):
        return (value,) * dims
    if isinstance(value, (tuple, list)) and all(isinstance(one, int) for one in value):
        return tuple(value)
    return None
