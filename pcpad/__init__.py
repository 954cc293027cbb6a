"""pcpad: padding modes of convolutions, made testable. `convert` rewrites any model, `PartialConv2d` is the layer."""

__version__ = "0.1.0"

_EXPORTS = {
    "PADDING_MODES": "pcpad.padding",
    "PartialConv2d": "pcpad.padding",
    "RaggedBatch": "pcpad.ragged",
    "RaggedError": "pcpad.ragged",
    "SurgeryReport": "pcpad.padding",
    "convert": "pcpad.padding",
    "debug": "pcpad.padding",
    "inspect": "pcpad.padding",
    "load": "pcpad.export.folder",
    "register_conv": "pcpad.padding",
    "register_padding": "pcpad.padding",
}
__all__ = [
    "PADDING_MODES",
    "PartialConv2d",
    "RaggedBatch",
    "RaggedError",
    "SurgeryReport",
    "convert",
    "debug",
    "inspect",
    "load",
    "register_conv",
    "register_padding",
]


def __getattr__(name: str):
    """Import an export when it is first used, so that `import pcpad` and `pcpad --help` stay quick (PEP 562)."""
    if name not in _EXPORTS:
        raise AttributeError(f"module 'pcpad' has no attribute {name!r}; it has {', '.join(__all__)}")
    from importlib import import_module

    return getattr(import_module(_EXPORTS[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
