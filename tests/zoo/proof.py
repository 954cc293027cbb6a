"""The proof for one model: in every padding mode it equals a model of which nothing was converted."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import nn

import pcpad
from pcpad.padding import border, depthwise
from tests.zoo import models, oracle
from tests.zoo.redraw import redraw
from tests.zoo.sizes import find_sizes
from tests.zoo.structure import changed, structure

LAYER_BOUND = {torch.float64: 1e-12, torch.float32: 1e-5}
"""Largest relative error of one convolution's output, given the oracle's input."""
RESULT_BOUND = {torch.float64: 1e-9, torch.float32: 1e-3}
"""Largest relative error of the model's result, where the errors of all layers have met."""
NOISE = {torch.float64: 1e-15, torch.float32: 1e-6}
"""Relative noise on each layer that stands for its rounding."""

DRAWS = 8
"""Draws of that noise until one moves the result as far as it is off, a tenth of that at least."""
SCALES = (1.0, 0.5, 0.25)
"""Scales of the weights that are tried in turn until no gate is saturated."""


class ProofFailed(AssertionError):
    """A model for which the surgery is wrong, or for which the proof proves nothing."""


class Drowned(ProofFailed):
    """A result, in one mode, in which rounding drowns all that could be told, or that the oracle cannot compute."""

    def __init__(self, mode: str, message: str):
        super().__init__(message)
        self.mode = mode


class Vacuous(ProofFailed):
    """A model of which a converted convolution does not move the result, with the weights that were drawn."""


@dataclass
class Proof:
    """What was proved of one model.

    Attributes:
        convs: number of Conv2d modules. padded: of them those that pad, all of which are converted.
        sizes: padding mode to the side of the input, in pixels; None
            where no side lets the mode fill every map, and the proof was made at the model's own side with
            ``on_small="replicate"``.
        layer_error: padding mode to the worst relative error of a converted convolution's own output.
        result_error: padding mode to the relative error of the model's result.
        wide: height and width of the larger maps on which partial, replicate and circular ran a second time; None
            where reflect has no size of its own.
        refused: filling mode to the side just below, where the named error was raised; None where there is none.
        noise: padding mode to how far noise of rounding size on each layer moves the result, where its error is above
            the bound: what rounding explains is no error.
        untouched: input size to the result of the model before any conversion.
        scale: of the weights that were drawn (`redraw`).
        idle: names of padded convolutions that the model does not use in eval mode: never called, weights never read.
    """

    convs: int = 0
    padded: int = 0
    sizes: dict[str, int | None] = field(default_factory=dict)
    layer_error: dict[str, float] = field(default_factory=dict)
    result_error: dict[str, float] = field(default_factory=dict)
    wide: tuple[int, int] | None = None
    refused: dict[str, int | None] = field(default_factory=dict)
    noise: dict[str, float] = field(default_factory=dict)
    scale: float = 1.0
    untouched: dict = field(default_factory=dict, repr=False)
    idle: list[str] = field(default_factory=list)


def relative(got: torch.Tensor, wanted: torch.Tensor) -> float:
    """Largest difference over the largest magnitude; infinite for another shape or where one is not finite."""
    if got.shape != wanted.shape or not bool(got.isfinite().all() & wanted.isfinite().all()):
        return float("inf")
    return float((got - wanted).abs().max() / wanted.abs().max().clamp(min=1e-300)) if got.numel() else 0.0


def worst(got: list[torch.Tensor], wanted: list[torch.Tensor]) -> float:
    """The worst relative error of several tensors; there must be something to compare."""
    if len(got) != len(wanted) or not sum(t.numel() for t in wanted):
        return float("inf")
    return max(relative(a, b) for a, b in zip(got, wanted, strict=True))


def prove(entry: models.Entry, modes=tuple(pcpad.PADDING_MODES), wide: tuple[int, int] | None = None) -> Proof:
    """Prove one model, in float64 where it can be (`models.dtype_of`); every parameter and buffer is redrawn.

    Args:
        wide: height and width of the larger input; found if not given.

    Raises:
        ProofFailed: names the mode, the layer and the error.
    """
    before = torch.get_default_dtype()
    torch.set_default_dtype(models.dtype_of(entry))
    try:
        return prove_in_default_dtype(entry, modes, wide)
    finally:
        torch.set_default_dtype(before)


def prove_in_default_dtype(entry: models.Entry, modes, wide) -> Proof:
    """`prove`, without the choice of the dtype.

    A mode whose result nobody can tell at the smallest side is proved at reflect's instead: partial padding multiplies
    a map of one pixel by 9 in every 3x3 layer, and deep networks without norms (NFNets) amplify the last bit of that
    beyond 1; linear attention overflows there. The proof's `sizes` state the side.
    """
    sizes, below, found = find_sizes(entry, modes)
    wide = wide or found
    while True:
        try:
            proof = prove_at(entry, modes, sizes, below, wide)
        except Drowned as error:
            if not move(sizes, [error.mode]):
                raise
        else:
            if not move(sizes, proof.noise):
                return proof


def move(sizes: dict, modes) -> bool:
    """Put modes to reflect's side, which is never smaller, where both have one; whether that changes anything."""
    side = sizes.get("reflect")
    moved = [mode for mode in modes if side and sizes[mode] and sizes[mode] != side]
    sizes |= dict.fromkeys(moved, side)
    return bool(moved)


def prove_at(entry: models.Entry, modes, sizes: dict, below: dict, wide) -> Proof:
    """`prove` at given sizes; smaller weights where a gate is saturated."""
    for scale in SCALES:
        model = models.build(entry, sizes["zeros"])
        redraw(model, scale=scale)
        try:
            return prove_drawn(entry, model, modes, dict(sizes), below, wide, scale)
        except Vacuous:
            if scale == SCALES[-1]:
                raise
    raise AssertionError("unreachable")


def prove_drawn(entry: models.Entry, model: nn.Module, modes, sizes: dict, below: dict, wide, scale: float) -> Proof:
    """`prove` for a model whose weights are drawn and whose sizes are known."""
    names = oracle.padded_convs(model)
    convs = sum(isinstance(m, nn.Conv2d) for m in model.modules())
    proof = Proof(convs=convs, padded=len(names), sizes=sizes, wide=wide, scale=scale)
    before = structure(model)
    keys = list(model.state_dict())
    pending = set(names)  # convolutions that have not yet been seen to matter
    with torch.no_grad():
        for mode in modes:
            size = sizes[mode] or models.own_size(entry, model)
            wanted = check_mode(entry, model, names, mode, size, proof)
            if mode in ("partial", "replicate", "circular") and wide not in (None, (size, size)):
                check_mode(entry, model, names, mode, wide, proof, keep=False)
            if odd := changed(model, before):
                raise ProofFailed(f"{mode}: back at zeros, module {odd[0]!r} is not what it was")
            if list(model.state_dict()) != keys:
                raise ProofFailed(f"{mode}: the state dict has other keys")
            if mode != "zeros" and pending:
                pcpad.convert(model, mode, on_small="raise" if sizes[mode] else "replicate")
                pending -= find_influential(entry, model, names, pending, mode, size, wanted, proof)
                pcpad.convert(model, "zeros")
            if below[mode] is not None:
                check_refusal(entry, model, names, mode, below[mode])
                proof.refused[mode] = below[mode]
        for size, untouched in proof.untouched.items():
            if not all(torch.equal(a, b) for a, b in zip(models.run(entry, model, size), untouched, strict=True)):
                raise ProofFailed(f"back at zeros, at {size}, the result is not the untouched model's, bit for bit")
        check_influence(entry, model, names, pending, proof)
    return proof


def check_mode(entry, model, names, mode, size, proof, keep: bool = True) -> list[torch.Tensor]:
    """Compare a conversion to one mode with the oracle, layer by layer and in the result, and undo it.

    Args:
        keep: also keep the untouched model's result, with which the model is compared after all modes.

    Returns:
        The oracle's result.
    """

    def forward(m):
        return models.run(entry, m, size)

    if keep and size not in proof.untouched:
        proof.untouched[size] = forward(model)
    wanted, calls = oracle.oracle_run(model, names, forward, mode)
    if not all(t.isfinite().all() for t in wanted):
        raise Drowned(mode, f"{mode} at {size}: the oracle's result is not finite")
    on_small = "raise" if proof.sizes[mode] else "replicate"
    identities = {name: id(p) for name, p in model.named_parameters()}
    report = pcpad.convert(model, mode, on_small=on_small)
    if {name: id(p) for name, p in model.named_parameters()} != identities:
        raise ProofFailed(f"{mode}: the parameters are not the same objects")
    if mode != "zeros" and set(report.converted) != set(names.values()):
        raise ProofFailed(f"{mode}: converted {sorted(set(report.converted) ^ set(names.values()))} differently")
    errors, order = [0.0], []
    for conv, x, expected in calls:
        with ways_of_large_maps():
            if x.dim() == 4 and x.shape[1] == conv.groups:  # a depthwise one has a way of its own in channels_last
                x = x.contiguous(memory_format=torch.channels_last)
            errors.append(relative(conv(x), expected))
        if not errors[-1] <= LAYER_BOUND[expected.dtype]:
            layer = f"layer {names[conv]!r} ({type(conv).__name__})"
            raise ProofFailed(f"{mode} at {size}: {layer} is off by {errors[-1]:.3g}")
    proof.layer_error[mode] = max(proof.layer_error.get(mode, 0.0), *errors)
    with oracle.hooked(names, lambda conv, *_: order.append(conv)):
        result = forward(model)
    if order != [conv for conv, *_ in calls]:
        raise ProofFailed(
            f"{mode} at {size}: {len(order)} calls of converted convolutions, not the {len(calls)} of before"
        )
    check_result(entry, model, names, mode, size, result, wanted, proof)
    pcpad.convert(model, "zeros")
    return wanted


@contextmanager
def ways_of_large_maps() -> Iterator[None]:
    """Small maps take the ways of large ones: partial padding changes their border alone, filling pads no image."""
    kept = border.SMALL, depthwise.LEAST, depthwise.WORTH
    border.SMALL = depthwise.LEAST = depthwise.WORTH = 0
    try:
        yield
    finally:
        border.SMALL, depthwise.LEAST, depthwise.WORTH = kept


def check_result(entry, model, names, mode, size, result, wanted, proof) -> None:
    """Compare a converted model's result with the oracle's; what rounding explains is no error."""

    def forward(m):
        return models.run(entry, m, size)

    on_small = "raise" if proof.sizes[mode] else "replicate"
    error = worst(result, wanted)
    proof.result_error[mode] = max(proof.result_error.get(mode, 0.0), error)
    bound = RESULT_BOUND[models.dtype_of(entry)]
    if not error <= bound:
        noise = 0.0
        for seed in range(DRAWS):  # one draw may happen to move a result little that another moves much
            moved = rounding(model, names, forward, mode, wanted, on_small, seed)
            noise = noise if moved <= noise else moved
            if error <= 10 * noise or not noise < float("inf"):
                break
        proof.noise[mode] = noise
        if not error <= 10 * noise < float("inf"):
            message = f"{mode} at {size}: the result is off by {error:.3g}"
            raise ProofFailed(message) if noise <= bound else Drowned(mode, message)


def rounding(model, names, forward, mode, wanted, on_small, seed=0) -> float:
    """How far noise of rounding size on each layer moves the oracle's result: its relative error."""
    generator = torch.Generator().manual_seed(3 + seed)

    def noisy(conv, x):
        y = oracle.convolve(conv, x, mode)
        return y * (1 + NOISE[y.dtype] * torch.randn(y.shape, generator=generator))

    pcpad.convert(model, "zeros")
    with oracle.replaced(names, noisy):
        moved = worst(forward(model), wanted)
    pcpad.convert(model, mode, on_small=on_small)
    return moved


def check_refusal(entry, model, names, mode, size) -> None:
    """Where a map is too small to be filled, the error must be that of the first such map: layer, map, pads, need."""
    calls = []

    def noting(conv, inputs):
        calls.append((conv, tuple(inputs[0].shape[-2:])))

    pcpad.convert(model, mode)
    handles = [conv.register_forward_pre_hook(noting) for conv in names]
    try:
        models.run(entry, model, size)
    except ValueError as error:
        made = [(conv, at, oracle.pads_of(conv, at)) for conv, at in calls]
        if not all(oracle.fillable(at, pads, mode) for _, at, pads in made[:-1]):
            raise ProofFailed(f"{mode} at {size}: no error at the first map that is too small") from error
        conv, at, pads = made[-1]
        least = oracle.least_map(pads, mode)
        told = [f"cannot fill layer {names[conv]!r}: its input map is {at[0]}x{at[1]} ", f" are {pads}, "]
        told += [f" at least {least[0]}x{least[1]}; "]
        if oracle.fillable(at, pads, mode) or not all(part in str(error) for part in told):
            raise ProofFailed(
                f"{mode} at {size}: the error does not name layer, map, pads and need: {error}"
            ) from error
    else:
        raise ProofFailed(f"{mode} at {size}: no error, though a map is too small to be filled")
    finally:
        for handle in handles:
            handle.remove()
        pcpad.convert(model, "zeros")


def half_doubled(y: torch.Tensor, factor=2.0) -> torch.Tensor:
    """A layer's output with a random half of its elements doubled: a norm that follows undoes the doubling of all."""
    half = torch.rand(y.shape, generator=torch.Generator().manual_seed(4)) < 0.5
    return torch.where(half, y * factor, y)


def find_influential(entry, model, names, convs, mode, size, wanted, proof) -> set[nn.Module]:
    """The convolutions that move the result when `half_doubled`: by the derivative, which costs one pass for all.

    With a gradient a border takes another way through the surgery: the result of this pass must be the oracle's too.
    """
    scale = {conv: torch.ones((), requires_grad=True) for conv in convs}

    def hook(conv, _, y):
        return half_doubled(y, scale[conv])

    with torch.enable_grad(), oracle.hooked(convs, hook):
        result = models.run(entry, model, size)
        weights = [torch.rand(t.shape, generator=torch.Generator().manual_seed(2)) for t in result]
        total = sum((t * w).sum() for t, w in zip(result, weights, strict=True) if t.requires_grad)
    check_result(entry, model, names, mode, size, [t.detach() for t in result], wanted, proof)
    if not isinstance(total, torch.Tensor):
        return set()
    slopes = torch.autograd.grad(total, list(scale.values()), allow_unused=True)
    bound = RESULT_BOUND[models.dtype_of(entry)] * float(total.abs())
    return {conv for conv, slope in zip(scale, slopes, strict=True) if slope is not None and abs(float(slope)) > bound}


def check_influence(entry, model, names, pending, proof) -> None:
    """Double half of each output that has not yet been seen to matter; raise where the result stays the same."""
    sizes = sorted({s for s in proof.sizes.values() if s} | {models.own_size(entry, model)})
    pcpad.convert(model, "partial")
    for conv in sorted(pending, key=lambda c: names[c]):
        called = False

        def double(_, __, y):
            nonlocal called
            called = True
            return half_doubled(y)

        for size in sizes:
            plain = models.run(entry, model, size)
            with oracle.hooked([conv], double):
                doubled = models.run(entry, model, size)
            if float("inf") > worst(doubled, plain) > RESULT_BOUND[models.dtype_of(entry)]:
                break
        else:
            if called:
                raise Vacuous(f"vacuous: doubling the output of {names[conv]!r} leaves the result as it is")
            check_idle(entry, model, conv, names[conv], sizes[-1])
            proof.idle.append(names[conv])
    pcpad.convert(model, "zeros")


def check_idle(entry, model, conv, name, size) -> None:
    """A convolution that is never called must not be used in another way: its weights must not be read either."""
    plain, held = models.run(entry, model, size), conv.weight.clone()
    conv.weight.mul_(2)
    changed = models.run(entry, model, size)
    conv.weight.copy_(held)
    if not all(torch.equal(a, b) for a, b in zip(plain, changed, strict=True)):
        raise ProofFailed(f"the weights of {name!r} are read by another module, so that converting it changes nothing")
