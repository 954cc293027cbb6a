"""convert: rewrite every Conv2d of a model to a padding mode, in place, and change nothing else."""

from collections.abc import Sequence
from fnmatch import fnmatchcase

import torch
from torch import nn

from pcpad.padding.coverage import conv_pads
from pcpad.padding.filled import FilledConv2d
from pcpad.padding.modes import PADDING_MODES, PaddingMode, canonical
from pcpad.padding.partial import PartialConv2d
from pcpad.padding.report import LayerReport, SurgeryReport

OURS = (PartialConv2d, FilledConv2d)
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
    """Rewrite every padded ``nn.Conv2d`` of `model` to a padding mode, in place.

    Parameters, state-dict keys, hooks, train/eval and requires_grad flags stay the objects they were; a module that
    is registered under several names is converted once; `model` may itself be a convolution. Converting again, to
    the same or another mode, is fine, and converting to ``"zeros"`` gives the original outputs bit for bit. On an
    error nothing has been changed.

    Args:
        model: any module; not wrapped (DDP, FSDP, DataParallel), compiled or scripted.
        mode: a name of `pcpad.PADDING_MODES`.
        include: glob or globs over qualified module names; only these are converted.
        exclude: glob or globs over qualified module names; these are left as they are.
        pools: also stop average pools from counting their padding, which is partial padding for pooling; only
            with ``"partial"``. A later conversion without it restores them.
        on_small: where a map is too small to be filled (reflect, circular): ``"raise"`` at the forward pass or use
            ``"replicate"`` there.
        power: exponent of the ratio of ``"partial"``: 1 is the paper's, 0.5 keeps the variance, 0 is zero padding.

    Returns:
        What was done to every convolution and average pool, and why; prints as a table.

    Raises:
        TypeError: `model` is not an ``nn.Module``.
        ValueError: an unknown mode or option; a glob that matches nothing; a wrapped, compiled or scripted model; a
            subclass of ``nn.Conv2d`` that pcpad does not know; a mode other than ``"zeros"`` that would change
            nothing because no convolution pads.

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
    plan = [
        (module, layer_report(module, paths, mode, module in chosen, pools))
        for module, paths in names.items()
        if isinstance(module, nn.Conv2d) or type(module) is nn.AvgPool2d
    ]
    report = SurgeryReport(type(model).__qualname__, mode, float(power), on_small, tuple(r for _, r in plan))
    if mode != "zeros" and not any(layer.action in ("converted", "kept") for layer in report.layers):
        raise ValueError(
            f"convert(model, {mode!r}) would change nothing: none of the {report.num_convs} convolutions of "
            f"{type(model).__qualname__} that were selected pads its input"
        )
    for module, layer in plan:  # nothing raises from here on, so a model is never left half converted
        if layer.action in ("converted", "kept", "restored"):
            apply(module, PADDING_MODES[mode], layer.name, float(power), on_small, pools)
    return report


def refuse_wrapped(model: nn.Module) -> None:
    """Raise unless `model` is a module that can be changed in place."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"convert takes a torch.nn.Module, not {type(model).__name__}")
    for name, module in model.named_modules():
        where = f"its module {name!r}" if name else "the model"
        kind = f"{type(module).__module__}.{type(module).__qualname__}"
        fsdp2 = any(base.__name__ == "FSDPModule" for base in type(module).__mro__)
        if isinstance(module, torch.jit.ScriptModule):
            raise ValueError(f"{where} is scripted or traced ({kind}): convert first, then script")
        if kind in WRAPPERS or fsdp2:
            raise ValueError(f"{where} is wrapped ({kind}): {WRAPPERS.get(kind, 'convert before wrapping')}")
        if module._compiled_call_impl is not None:
            raise ValueError(f"{where} is compiled: convert first, then call compile()")


def module_names(model: nn.Module) -> dict[nn.Module, list[str]]:
    """Every module once, with all the names it is registered under."""
    names: dict[nn.Module, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        names.setdefault(module, []).append(name)
    return names


def select(names: dict[nn.Module, list[str]], include, exclude) -> set[nn.Module]:
    """The modules that `include` and `exclude` leave; raises ValueError for a glob that matches nothing."""

    def matching(globs, option: str) -> set[nn.Module]:
        found = set()
        for glob in [globs] if isinstance(globs, str) else globs:
            hits = {module for module, paths in names.items() if any(fnmatchcase(path, glob) for path in paths)}
            if not any(isinstance(module, (nn.Conv2d, nn.AvgPool2d)) for module in hits):
                examples = [p[0] for m, p in names.items() if isinstance(m, nn.Conv2d)][:3]
                raise ValueError(
                    f"{option}={glob!r} matches no convolution; names look like {', '.join(map(repr, examples))}"
                )
            found |= hits
        return found

    chosen = set(names) if include is None else matching(include, "include")
    return chosen if exclude is None else chosen - matching(exclude, "exclude")


def layer_report(module: nn.Module, paths: list[str], mode: str, chosen: bool, pools: bool) -> LayerReport:
    """What is to be done to one convolution or average pool, and why."""
    if isinstance(module, nn.Conv2d):
        action, reason = judge_conv(module, paths[0], mode, chosen)
    else:
        action, reason = judge_pool(module, chosen and pools)
    kind = nn.Conv2d if type(module) in OURS else type(module)
    return LayerReport(
        name=paths[0],
        aliases=tuple(paths[1:]),
        kind=kind.__qualname__,
        kernel_size=pair(module.kernel_size),
        stride=pair(module.stride),
        padding=module.padding if isinstance(module.padding, str) else pair(module.padding),
        action=action,
        reason=reason,
    )


def judge_conv(conv: nn.Conv2d, name: str, mode: str, chosen: bool) -> tuple[str, str]:
    """Action and reason for one convolution."""
    if not chosen:
        return "left", "not selected"
    if type(conv) is not nn.Conv2d and type(conv) not in OURS:
        if mode == "zeros":
            return "left", "not converted by pcpad"
        kind = f"{type(conv).__module__}.{type(conv).__qualname__}"
        raise ValueError(
            f"layer {name!r} is a {kind}, a subclass of torch.nn.Conv2d that pcpad does not know: it may compute its "
            f"weights or its padding in its own way. Leave it as it is with exclude={name!r}"
        )
    if not any(conv_pads(conv.padding, conv.kernel_size, conv.dilation)):
        return "left", "pads nothing"
    if type(conv) is nn.Conv2d and conv.padding_mode != "zeros":
        return "left", f"pads with {conv.padding_mode!r} by its own design"
    if mode == "zeros" and type(conv) is nn.Conv2d:
        return "left", "has zeros already"
    same = type(conv) is PADDING_MODES[mode].conv_class and conv.padding_mode == PADDING_MODES[mode].padding_mode
    return ("kept", "has the mode already") if same else ("converted", "")


def judge_pool(pool: nn.AvgPool2d, wanted: bool) -> tuple[str, str]:
    """Action and reason for one average pool."""
    ours = hasattr(pool, "pcpad_counted_padding")
    if not any(pair(pool.padding)):
        return "left", "pads nothing"
    if wanted:
        counts = pool.count_include_pad
        return ("converted", "no longer counts its padding") if counts or ours else ("left", "does not count padding")
    if ours:
        return "restored", "counts its padding again"
    return (
        "left",
        "counts its padding (pools=True changes that)" if pool.count_include_pad else "does not count padding",
    )


def apply(module: nn.Module, mode: PaddingMode, name: str, power: float, on_small: str, pools: bool) -> None:
    """Put one convolution or average pool into `mode`."""
    if isinstance(module, nn.AvgPool2d):
        module.count_include_pad = not pools
        if pools:
            module.pcpad_counted_padding = True
        else:
            del module.pcpad_counted_padding
        return
    for attribute in ("power", "on_small", "layer"):
        vars(module).pop(attribute, None)
    # Another class on the same object, not another object: hooks, references and optimizers stay valid.
    module.__class__ = mode.conv_class
    module.padding_mode = mode.padding_mode
    if mode.conv_class is PartialConv2d:
        module.power = power
    elif mode.conv_class is FilledConv2d:
        module.on_small, module.layer = on_small, name


def pair(value) -> tuple[int, int]:
    """An int or a pair as a pair."""
    return (value, value) if isinstance(value, int) else tuple(value)
