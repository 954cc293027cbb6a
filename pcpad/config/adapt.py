"""Settings of a training that starts from weights of zero padding and brings them to another."""

from dataclasses import dataclass

from pcpad.config.fields import check


@dataclass(frozen=True)
class AdaptSettings:
    """Weights that were trained with zero padding brought to another; `pcpad adapt` sets these by its recipe."""

    first: bool = False
    """Evaluate before the first step too: unconverted, converted, and after recalibration."""
    recalibrate: int = 0
    """Training images, without their labels, on which it is seen by how much the conversion changes the statistics of
    batch normalisation, which are shifted by that before the first step; 0 keeps those of the weights."""
    ramp_epochs: float = 0.0
    """Epochs over which the power of partial padding rises from 0, which is zero padding, in 100 steps."""
    distill: float = 0.0
    """Share of the loss that is the cross-entropy to the outputs of the unconverted network instead of the labels."""
    freeze_norms: bool = False
    """Use the statistics of batch normalisation as they are in training too, as in evaluation: with few images."""
    imagenet_head: bool = False
    """Keep the 1000 outputs of an ImageNet network where the class folders are ImageNet's, even if some are missing."""

    def __post_init__(self):
        check(self.recalibrate >= 0, "adapt.recalibrate", self.recalibrate, "at least 0")
        check(self.ramp_epochs >= 0, "adapt.ramp_epochs", self.ramp_epochs, "at least 0")
        check(0 <= self.distill <= 1, "adapt.distill", self.distill, "in 0..1")
