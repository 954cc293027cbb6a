"""inspect: what the padding of a model does at an input size, from one forward pass without computing anything."""

from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from pcpad.padding.coverage import Pads, conv_pads, coverage, pair
from pcpad.padding.fillers import FILLERS
from pcpad.padding.folding import folded
from pcpad.padding.functions import FunctionWatch
from pcpad.padding.handlers import behaviour_of, handler_of, original_class
from pcpad.padding.modes import canonical
from pcpad.padding.report import SurgeryReport, text_table
from pcpad.padding.sizes import smallest_size
from pcpad.padding.surgery import Wanted, layer_report, may_pad, module_names, refuse_wrapped
from pcpad.padding.trial import conv_calls, stand_in


@dataclass(frozen=True)
class LayerGeometry:
    """What one convolution's padding does at the inspected input size.

    Attributes:
        name: the layer.
        maps: the sizes ``(height, width)`` of its input maps, each once, in order of call.
        border_share: share of its output positions whose window leaves the image, over all calls, 0 to 1.
        largest_ratio: the largest K / n of partial padding; None where every window lies wholly outside.
        smallest_map: the smallest input map ``(height, width)`` whose padding the mode can fill.
        smallest_input: the smallest side of a square input, in pixels, for which this layer can be filled; None if
            there is none, or if it was not searched.
    """

    name: str
    maps: tuple[tuple[int, int], ...]
    border_share: float
    largest_ratio: float | None
    smallest_map: tuple[int, int]
    smallest_input: int | None


@dataclass(frozen=True)
class FunctionalPadding:
    """Padding by a function inside a forward, which a walk over modules does not see and convert does not change.

    Attributes:
        module: name of the innermost module that called it. kind: its class.
        function: name of the function. padding: its argument, as given. mode: of ``F.pad``, else empty.
        calls: how often in one forward pass.
    """

    module: str
    kind: str
    function: str
    padding: str
    mode: str
    calls: int


@dataclass(frozen=True)
class Inspection:
    """What `inspect` found. ``print(inspection)`` shows tables, ``to_dict()`` is ready for JSON.

    Attributes:
        size: side of the square input, in pixels; None where inputs were given.
        surgery: what convert would do (nothing was changed).
        geometry: one entry for each convolution that pads and was called.
        functional: padding outside of modules.
        smallest_input: the smallest side at which the model runs and the mode can fill every map; None if there is
            none up to 1024 pixels, or if it was not searched.
        searched: whether it was searched.
        idle: convolutions that pad and were not called.
    """

    size: int | None
    surgery: SurgeryReport
    geometry: tuple[LayerGeometry, ...]
    functional: tuple[FunctionalPadding, ...]
    smallest_input: int | None
    searched: bool
    idle: tuple[str, ...]

    def to_dict(self) -> dict:
        """The inspection as plain dicts and lists."""
        return asdict(self)

    def __str__(self) -> str:
        at = {layer.name: layer for layer in self.geometry}
        report = self.surgery
        still = sum(layer.is_conv and layer.reason == "pads nothing" for layer in report.layers)
        rows = [("layer", "class", "kernel", "stride", "padding", "map", "border", "ratio", "from", report.mode)]
        for layer in report.layers:
            if layer.reason != "pads nothing":
                g = at.get(layer.name)
                shown = [*layer.cells()[:5], "", "", "", ""]
                if g:
                    maps = by(g.maps[0]) + (f" +{len(g.maps) - 1}" if len(g.maps) > 1 else "")
                    ratio = "-" if g.largest_ratio is None else f"{g.largest_ratio:.3g}"
                    shown[5:] = [maps, f"{g.border_share:.1%}", ratio, str(g.smallest_input or "-")]
                words = [layer.action, layer.reason]
                if g and any(h < g.smallest_map[0] or w < g.smallest_map[1] for h, w in g.maps):
                    words.append(f"map too small, needs {by(g.smallest_map)}")
                rows.append((*shown, ": ".join(filter(None, words))))
        at_size = f"at {self.size}x{self.size}" if self.size else "on the given inputs"
        head = f"{report.model} {at_size}, {report.mode} padding: "
        head += f"{len(report.converted)} of {report.num_convs} convolutions would be converted, {still} pad nothing"
        lines = [head, *([f"warning: {report.warning}"] if report.warning else []), text_table(rows)]
        lines += [
            "",
            "map: input map; border: share of outputs whose window leaves the image; ratio: largest K/n; "
            "from: smallest input at which the layer can be filled",
        ]
        if self.functional:
            rows = [("function", "in", "class", "padding", "mode", "calls")]
            rows += [
                (f.function, f.module or "(model)", f.kind, f.padding, f.mode, str(f.calls)) for f in self.functional
            ]
            lines += ["", "padding by functions inside a forward, which convert leaves as it is:", text_table(rows)]
        if self.idle:
            lines += ["", f"pad, but were not called: {', '.join(self.idle)}"]
        if self.smallest_input:
            unit = "pixel" if self.smallest_input == 1 else "pixels"
            lines += ["", f"smallest square input for {report.mode}: {self.smallest_input} {unit}"]
        elif self.searched:
            too_small = f"no square input up to 1024 pixels is large enough for {report.mode}: some map stays smaller "
            lines += ["", too_small + "than its pad; convert with on_small='replicate'"]
        return "\n".join(lines)


def by(size: tuple[int, int]) -> str:
    """A size as text."""
    return f"{size[0]}x{size[1]}"


def pads_at(conv: nn.Conv2d, size: tuple[int, int]) -> Pads:
    """Pads of a convolution for an input map of this size; of a class that is not known, by its `padding`."""
    handler = handler_of(original_class(conv))
    if handler and handler.pads:
        return handler.pads(conv, *size)
    return conv_pads(conv.padding, conv.kernel_size, conv.dilation)


def smallest_map(pads: Pads, mode: str) -> tuple[int, int]:
    """The smallest map whose pads a mode can fill."""
    return FILLERS[mode].smallest_map(pads) if mode in FILLERS else (1, 1)


def inspect(
    model: nn.Module,
    mode: str = "partial",
    size: int = 224,
    *,
    channels: int = 3,
    inputs: tuple | None = None,
    search: bool = True,
) -> Inspection:
    """What a padding mode would do to a model at an input size; the model is not changed and nothing is computed.

    Args:
        model: any module that `pcpad.convert` takes, converted or not.
        mode: a name of `pcpad.PADDING_MODES`.
        size: side of the square input, in pixels.
        channels: of the input.
        inputs: the positional arguments of one forward pass, for a model that takes something else; unless they are
            on the meta device it is then really run, and no smallest input is searched.
        search: also look for the smallest input, which takes a few dozen passes without computation.

    Raises:
        ValueError: an unknown mode; a wrapped, compiled, scripted or traced model; a subclass of Conv2d that pcpad does
            not know; a model that cannot be copied, or run on the meta device or at this size (the message says what
            it said).
        TypeError: `inputs` is not a tuple.
    """
    mode = canonical(mode)
    refuse_wrapped(model)
    if not isinstance(size, int) or size < 1:
        raise ValueError(f"size must be a whole number of at least 1, not {size!r}")
    if inputs is not None and not isinstance(inputs, tuple):
        raise TypeError(f"inputs is the tuple of the model's arguments, (x,) for one, not {type(inputs).__name__}")
    names = module_names(model)
    layers = [layer_report(m, paths, Wanted(mode), True) for m, paths in names.items()]
    report = SurgeryReport(
        type(model).__qualname__, mode, 1.0, "raise", tuple(x for x in layers if x), tuple(folded(model))
    )
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    model = stand_in(model, inputs is None or all(isinstance(x, Tensor) and x.is_meta for x in inputs))
    names = module_names(model)
    padded = [m for m in names if isinstance(m, nn.Conv2d) and may_pad(m)]

    def empty(side: int) -> tuple:
        return (torch.empty(1, channels, side, side, device="meta", dtype=dtype),)

    watch = FunctionWatch(names)
    try:
        calls = conv_calls(model, empty(size) if inputs is None else inputs, watch)
    except Exception as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        where = f"at {size}x{size} with {channels} channels" if inputs is None else "on the given inputs"
        raise ValueError(
            f"{type(model).__qualname__} does not run {where} ({first}): give its inputs=..., which run it for real "
            "(in Python), or choose another size or number of channels"
        ) from error
    search = search and inputs is None
    least, each = (None, {})
    if search:
        least, each = smallest_inputs(model, [m for m in padded if follows(m)], mode, size, calls, empty)
    return Inspection(
        size=size if inputs is None else None,
        surgery=report,
        geometry=tuple(
            layer_geometry(m, names[m][0], calls[m], mode if follows(m) else "zeros", each.get(m))
            for m in padded
            if m in calls
        ),
        functional=tuple(FunctionalPadding(*where, count) for where, count in watch.found.items()),
        smallest_input=least,
        searched=search,
        idle=tuple(names[m][0] for m in padded if m not in calls),
    )


def follows(conv: nn.Conv2d) -> bool:
    """Whether a convolution of a stand-in is one that `convert` would pad; else it pads by its own ``padding_mode``.

    A converted one that has a forward of its own keeps its mode in the stand-in.
    """
    return conv.padding_mode == "zeros" or behaviour_of(conv) is not None


def layer_geometry(conv: nn.Conv2d, name: str, maps: list, mode: str, smallest: int | None) -> LayerGeometry:
    """`LayerGeometry` of one convolution from the sizes of its input maps."""
    border = total = 0
    kernel_size, stride, dilation = pair(conv.kernel_size), pair(conv.stride), pair(conv.dilation)
    taps, fewest, need = kernel_size[0] * kernel_size[1], None, (1, 1)
    for size in dict.fromkeys(maps):
        pads = pads_at(conv, size)
        n = coverage(size, kernel_size, stride, dilation, pads, device="cpu")
        border += int((n < taps).sum()) * maps.count(size)
        total += n.numel() * maps.count(size)
        if bool((n > 0).any()):
            fewest = min(fewest or taps, int(n[n > 0].min()))
        need = tuple(map(max, need, smallest_map(pads, mode)))
    ratio = taps / fewest if fewest else None
    return LayerGeometry(name, tuple(dict.fromkeys(maps)), border / total, ratio, need, smallest)


def smallest_inputs(model, padded, mode, size, calls, empty) -> tuple[int | None, dict[nn.Conv2d, int | None]]:
    """The smallest input for the whole model, and for each convolution alone."""
    known: dict[int, dict | None] = {size: calls}

    def at(side: int) -> dict | None:
        if side not in known:
            try:
                known[side] = conv_calls(model, empty(side))
            except Exception:  # whatever a model raises for an input that it cannot take
                known[side] = None
        return known[side]

    def search(convs) -> int | None:
        def works(side: int) -> bool | None:
            made = at(side)
            if made is None:
                return None
            return all(fits(conv, map_, mode) for conv in convs for map_ in made.get(conv, ()))

        return smallest_size(works, size)[0]

    groups: dict[tuple, list[nn.Conv2d]] = {}  # layers of the same maps and needs have the same answer
    for conv in padded:
        key = tuple((map_, smallest_map(pads_at(conv, map_), mode)) for map_ in dict.fromkeys(calls.get(conv, ())))
        groups.setdefault((key, pair(conv.stride), pair(conv.kernel_size), pair(conv.dilation)), []).append(conv)
    each = {}
    for convs in groups.values():
        each |= dict.fromkeys(convs, search(convs))
    return search(padded), each


def fits(conv: nn.Conv2d, size: tuple[int, int], mode: str) -> bool:
    """Whether a map is large enough for a mode."""
    need = smallest_map(pads_at(conv, size), mode)
    return size[0] >= need[0] and size[1] >= need[1]
