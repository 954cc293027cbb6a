"""Blocks that fold their convolutions: refused after surgery, noticed before it."""

import copy
import pickle
import warnings

import pytest
import timm
import torch
from timm.utils.model import reparameterize_model
from torch import nn

import pcpad
from pcpad.padding.folding import folded, folding_methods
from tests.zoo.models import without_init

# One model of each family of timm whose blocks fold a padded convolution.
FAMILIES = [
    "repvgg_a0",
    "mobileone_s1",
    "fastvit_t8",
    "repvit_m0_9",
    "levit_128s",
    "tiny_vit_5m_224",
    "efficientvit_m0",
    "shvit_s1",
    "iformer_t",
    "efficientvim_m1",
    "ghostnetv3_050",
    "repghostnet_050",
    "lcnetv2_base",
    "nextvit_small",
]
IDENTITY = ["repvgg_a0", "mobileone_s1", "fastvit_t8", "repvit_m0_9", "shvit_s1", "iformer_t", "efficientvim_m1"]
IDENTITY += ["ghostnetv3_050", "repghostnet_050", "lcnetv2_base"]


class Sums(nn.Module):
    """Methods of a folding name that fold nothing: they work on what they are given."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 4, 3, padding=1)

    def fuse(self, *maps):
        return sum(maps)

    @staticmethod
    def reparameterize(maps):
        return maps

    @classmethod
    def switch_to_deploy(cls, maps):
        return maps

    def forward(self, x):
        return self.switch_to_deploy(self.reparameterize(self.fuse(self.a(x), self.b(x))))


def test_methods_that_are_given_what_they_fuse_are_left_alone():
    net, x = Sums(), torch.randn(1, 3, 6, 6)
    pcpad.convert(net, "reflect")
    assert folding_methods(Sums) == []
    assert torch.equal(net(x), net.a(x) + net.b(x))


def small(name):
    with without_init():
        return timm.create_model(name).eval()


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (i % 2)) for i, n in enumerate(FAMILIES)])
def test_folding_is_refused_after_surgery_and_allowed_after_zeros(name):
    net = small(name)
    before = {n: set(vars(m)) for n, m in net.named_modules()}
    pcpad.convert(net, "partial")
    with pytest.raises(ValueError, match=r"is refused after pcpad\.convert.*different ratios"):
        reparameterize_model(net)
    with pytest.raises(ValueError, match="is refused"):
        reparameterize_model(pickle.loads(pickle.dumps(net)))
    pcpad.convert(net, "zeros")
    assert {n: set(vars(m)) for n, m in net.named_modules()} == before
    reparameterize_model(copy.deepcopy(net))


@pytest.mark.parametrize("name", FAMILIES)
def test_a_folded_model_is_noticed(name):
    net = small(name)
    assert folded(net) == []
    fused = reparameterize_model(net)
    assert bool(folded(fused)) == (name in IDENTITY)
    if name in IDENTITY:
        with pytest.warns(UserWarning, match="looks folded already .* compound from block to block"):
            report = pcpad.convert(fused, "partial")
        assert "warning: " in str(report)
        assert report.folded
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert pcpad.convert(fused, "reflect").folded == (report.folded if name in IDENTITY else ())


@torch.no_grad()
def test_why_partial_on_folded_kernels_is_wrong_and_filling_is_right():
    """The facts behind the warning: identity branches that were folded in are rescaled, more in every block."""
    net = timm.create_model("repvgg_a0", num_classes=4).double().eval()
    with torch.no_grad():
        for m in net.modules():
            if isinstance(m, nn.BatchNorm2d):
                m.running_var.uniform_(0.5, 1.5)
                m.running_mean.normal_(0, 0.1)
    x = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    fused = reparameterize_model(net)
    torch.testing.assert_close(fused(x), net(x))

    def after(mode):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pcpad.convert(net, mode)
            pcpad.convert(fused, mode)
        return float((fused(x) - net(x)).abs().max() / net(x).abs().max())

    # a 1x1 branch and a 3x3 branch fold exactly where the padding is filled with the image's own values
    assert after("replicate") < 1e-9
    assert after("partial") > 1e-3


class Fusable(nn.Module):
    """A user's block: `fuse` without arguments folds; `merge` and a `fuse` with arguments do not."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def fuse(self, inplace=False):
        return self.conv

    def forward(self, x):
        return self.conv(x)


class Pyramid(nn.Module):
    """Fuses feature maps: its `fuse` is a part of its forward."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def fuse(self, x, y):
        return x + y

    def forward(self, x):
        return self.fuse(self.conv(x), x)


def test_only_methods_that_fold_are_refused():
    net = nn.Sequential(Fusable(), Pyramid())
    assert folding_methods(Fusable) == ["fuse"]
    assert folding_methods(Pyramid) == []
    pcpad.convert(net, "reflect", exclude="0.conv")
    net[0].fuse()  # holds no converted convolution
    net(torch.zeros(1, 3, 8, 8))
    pcpad.convert(net, "reflect")
    with pytest.raises(ValueError, match=r"Fusable\.fuse\(\) is refused"):
        net[0].fuse()
    pcpad.convert(net, "zeros")
    net[0].fuse()
