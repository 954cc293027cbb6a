"""SurgeryReport: what convert did to every layer, and why."""

from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class LayerReport:
    """What convert did to one convolution or average pool.

    Attributes:
        name: its first qualified name in the model; empty for the model itself.
        aliases: the other names that the same module is registered under.
        kind: class before any conversion.
        kernel_size, stride: ``(height, width)``.
        padding: ``(height, width)``, ``"same"`` or ``"valid"``, as the module holds it.
        action: ``"converted"``, ``"kept"`` (had the mode already), ``"restored"`` (a pool) or ``"left"``.
        reason: why, where that is not plain.
    """

    name: str
    aliases: tuple[str, ...]
    kind: str
    kernel_size: tuple[int, int]
    stride: tuple[int, int]
    padding: str | tuple[int, int]
    action: str
    reason: str


@dataclass(frozen=True)
class SurgeryReport:
    """What `pcpad.convert` did. ``print(report)`` shows a table, ``to_dict()`` is ready for JSON.

    Attributes:
        model: class of the model.
        mode, power, on_small: as given to convert.
        layers: one entry for each convolution and average pool, in the model's order.
    """

    model: str
    mode: str
    power: float
    on_small: str
    layers: tuple[LayerReport, ...]

    @property
    def converted(self) -> list[str]:
        """Names of the layers that this call put into the mode."""
        return [layer.name for layer in self.layers if layer.action == "converted"]

    @property
    def num_convs(self) -> int:
        """Number of convolution modules seen."""
        return sum(layer.kind != "AvgPool2d" for layer in self.layers)

    @property
    def summary(self) -> str:
        """One line: how many convolutions were converted."""
        convs = [layer for layer in self.layers if layer.kind != "AvgPool2d"]
        done = sum(layer.action == "converted" for layer in convs)
        kept = sum(layer.action == "kept" for layer in convs)
        already = f", {kept} had the mode already" if kept else ""
        return f"{self.mode} padding: {done} of {len(convs)} convolutions converted{already}"

    def to_dict(self) -> dict:
        """The report as plain dicts and lists."""
        return asdict(self)

    def __str__(self) -> str:
        head = ("layer", "class", "kernel", "stride", "padding", "action", "reason")
        rows = [head] + [
            (
                (layer.name or "(model)") + (f" (+{len(layer.aliases)} names)" if layer.aliases else ""),
                layer.kind,
                "x".join(map(str, layer.kernel_size)),
                "x".join(map(str, layer.stride)),
                layer.padding if isinstance(layer.padding, str) else "x".join(map(str, layer.padding)),
                layer.action,
                layer.reason,
            )
            for layer in self.layers
        ]
        widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
        lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
        return "\n".join([self.summary, *lines])
