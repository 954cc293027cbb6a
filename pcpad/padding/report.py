"""SurgeryReport: what convert did to every layer, and why."""

from collections import Counter
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class LayerReport:
    """What convert did to one convolution, or to another module that pads.

    Attributes:
        name: its first qualified name in the model; empty for the model itself.
        aliases: the other names that the same module is registered under.
        kind: class before any conversion.
        is_conv: whether it is a Conv2d.
        kernel_size, stride: ``(height, width)``, or as many numbers as the module has dimensions; None where it has
            none.
        padding: as the module holds it, or ``"dynamic"`` where it follows the input size, as TensorFlow's "SAME".
        action: ``"converted"``, ``"kept"`` (had the mode already), ``"restored"`` (a pool) or ``"left"``.
        reason: why, where that is not plain.
    """

    name: str
    aliases: tuple[str, ...]
    kind: str
    is_conv: bool
    kernel_size: tuple[int, ...] | None
    stride: tuple[int, ...] | None
    padding: str | tuple[int, ...] | None
    action: str
    reason: str

    def cells(self) -> tuple[str, ...]:
        """The layer as the texts of one row of a table."""

        def by(value) -> str:
            return value if isinstance(value, str) else "x".join(map(str, value or ()))

        return (
            (self.name or "(model)") + (f" (+{len(self.aliases)} names)" if self.aliases else ""),
            self.kind,
            by(self.kernel_size),
            by(self.stride),
            by(self.padding),
            self.action,
            self.reason,
        )


@dataclass(frozen=True)
class SurgeryReport:
    """What `pcpad.convert` did. ``print(report)`` shows a table, ``to_dict()`` is ready for JSON.

    Attributes:
        model: class of the model.
        mode, power, on_small: as given to convert.
        layers: one entry for each convolution and each other module that pads, in the model's order.
        folded: names of the blocks whose branches look folded into one kernel already.
    """

    model: str
    mode: str
    power: float
    on_small: str
    layers: tuple[LayerReport, ...]
    folded: tuple[str, ...] = ()

    @property
    def converted(self) -> list[str]:
        """Names of the layers that this call put into the mode."""
        return [layer.name for layer in self.layers if layer.action == "converted"]

    @property
    def num_convs(self) -> int:
        """Number of convolution modules seen."""
        return sum(layer.is_conv for layer in self.layers)

    @property
    def summary(self) -> str:
        """One line: how many convolutions were converted."""
        convs = [layer for layer in self.layers if layer.is_conv]
        done = sum(layer.action == "converted" for layer in convs)
        kept = sum(layer.action == "kept" for layer in convs)
        already = f", {kept} had the mode already" if kept else ""
        return f"{self.mode} padding: {done} of {len(convs)} convolutions converted{already}"

    @property
    def why_nothing(self) -> str:
        """One line for a model of which no layer is converted: how many convolutions stay, and why."""
        reasons = Counter(layer.reason for layer in self.layers if layer.is_conv)
        found = [f"{count} {plural(reason) if count > 1 else reason}" for reason, count in reasons.items()]
        convs = "convolution" if self.num_convs == 1 else "convolutions"
        return f"{self.model} has {self.num_convs} {convs} (Conv2d){': ' * bool(found)}{', '.join(found)}"

    @property
    def warning(self) -> str:
        """What the user must know of the result; empty if nothing."""
        if not self.folded or not self.mode.startswith("partial"):
            return ""
        some = ", ".join(name or "the model" for name in self.folded[:3]) + (", ..." if len(self.folded) > 3 else "")
        return (
            f"{self.model} looks folded already ({some}): its kernels hold identity or side branches, which partial "
            "padding rescales with the rest, and the ratios compound from block to block. Convert the form that is "
            "trained, before reparameterize or fuse; modes that fill, as reflect, are exact on a folded model too"
        )

    def to_dict(self) -> dict:
        """The report as plain dicts and lists."""
        return asdict(self)

    def __str__(self) -> str:
        head = ("layer", "class", "kernel", "stride", "padding", "action", "reason")
        lines = [self.summary, *([f"warning: {self.warning}"] if self.warning else [])]
        return "\n".join([*lines, text_table([head, *(layer.cells() for layer in self.layers)])])


def plural(reason: str) -> str:
    """The reason of one layer, said of several."""
    verb, space, rest = reason.partition(" ")
    return {"pads": "pad", "has": "have"}.get(verb, verb) + space + rest


def text_table(rows: list[tuple[str, ...]]) -> str:
    """Rows of texts as lines with aligned columns."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(text.ljust(w) for text, w in zip(row, widths, strict=True)).rstrip() for row in rows)
