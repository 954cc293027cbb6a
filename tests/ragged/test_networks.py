"""The promise: row n of a mixed-size batch is what the network gives for image n alone, at its own size."""

import csv
from pathlib import Path

import pytest
import torch

from pcpad import RaggedError
from tests.ragged import networks
from tests.ragged.alone import check, make_images
from tests.zoo import models

ROOT = Path(__file__).resolve().parents[2]
KINDS = ("timm", "classification")


@pytest.fixture(autouse=True)
def float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def prove(name, lowest, multiple):
    for mode in ("zeros", "partial"):
        model = networks.build(name, mode)
        assert networks.worst_error(model, networks.sizes_for(lowest, multiple)) < 1e-10


@pytest.mark.parametrize("name", networks.QUICK)
def test_one_network_of_a_family(name):
    prove(name, *networks.QUICK[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", networks.REST)
def test_one_network_of_the_other_families(name):
    prove(name, *networks.REST[name])


def followed_families() -> set[str]:
    return {models.family(networks.entry_of(name)) for name in networks.QUICK | networks.REST}


def test_there_are_forty_families_and_the_others_are_listed():
    followed = followed_families()
    assert len(followed) >= 40
    assert not followed & set(networks.NOT_FOLLOWED)
    listed = (ROOT / "pcpad" / "ragged" / "README.md").read_text()
    missing = [name for name in networks.NOT_FOLLOWED if f"`{name.partition('.')[2]}`" not in listed]
    assert not missing
    assert f"{len(followed)} families" in listed


def test_every_family_of_the_zoo_is_followed_or_listed():
    with open(ROOT / "experiments" / "zoo" / "table.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if int(row["converted"]) and row["kind"] in KINDS]
    assert {row["family"] for row in rows} <= followed_families() | set(networks.NOT_FOLLOWED)


@pytest.mark.slow
@pytest.mark.parametrize("family", networks.NOT_FOLLOWED)
def test_the_others_are_refused(family):
    model = networks.build(networks.NOT_FOLLOWED[family])
    side = model.pretrained_cfg["input_size"][-1] if hasattr(model, "pretrained_cfg") else 224
    for sizes in ([(96, 64), (64, 128)], [(side, side), (side, side - 32)]):
        with pytest.raises((RaggedError, TypeError, AssertionError)):
            networks.worst_error(model, sizes)


def test_features_keep_their_extents():
    import timm
    from torchvision.models import feature_extraction, resnet18, segmentation

    images = make_images([(65, 40), (33, 90), (64, 64)], channels=3)
    backbone = segmentation.deeplabv3_mobilenet_v3_large(weights=None, weights_backbone=None).eval().backbone
    check(lambda x: list(backbone(x).values()), images)
    features = timm.create_model("test_resnet", features_only=True).eval()
    check(features, images)
    extractor = feature_extraction.create_feature_extractor(resnet18().eval(), ["layer2", "layer4", "flatten"])
    check(lambda x: list(extractor(x).values()), images)
    dilated = timm.create_model("resnet18", output_stride=8, num_classes=0, global_pool="").eval()
    check(dilated, images)


def test_a_network_that_cannot_be_followed_is_refused():
    for name, reason in {
        "timm/test_vit": "Length",  # torch itself refuses to make a table of positions of so many sizes
        "timm/edgenext_xx_small": "cannot go through reshape: it reshapes the plane",
        "timm/volo_d1_224": "cannot go through unfold",
    }.items():
        with pytest.raises((ValueError, TypeError), match=reason):
            networks.worst_error(networks.build(name), [(64, 64), (96, 64)])
