"""The science: coverage, padding modes, PartialConv2d and the surgery on models. Imports torch only."""

from pcpad.padding.coverage import coverage, ratio
from pcpad.padding.debug import debug
from pcpad.padding.handlers import ConvHandler, register_conv
from pcpad.padding.inspection import Inspection, inspect
from pcpad.padding.modes import PADDING_MODES, PaddingMode, register_padding
from pcpad.padding.partial import PartialConv2d
from pcpad.padding.report import LayerReport, SurgeryReport
from pcpad.padding.surgery import convert

__all__ = [
    "PADDING_MODES",
    "ConvHandler",
    "Inspection",
    "LayerReport",
    "PaddingMode",
    "PartialConv2d",
    "SurgeryReport",
    "convert",
    "coverage",
    "debug",
    "inspect",
    "ratio",
    "register_conv",
    "register_padding",
]
