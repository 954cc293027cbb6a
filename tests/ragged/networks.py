"""The networks on which mixed-size batches are proved: one of each family that is followed, with what it can take."""

import torch
from torch import nn

import pcpad
from pcpad import RaggedBatch
from tests.ragged.alone import make_batch
from tests.zoo import models
from tests.zoo.redraw import redraw

# Model to the smallest side it is run at, and what its sides must be a multiple of.
QUICK = {
    "torchvision/resnet18": (1, 1),
    "torchvision/mobilenet_v3_small": (1, 1),
    "torchvision/shufflenet_v2_x0_5": (1, 1),
    "torchvision/squeezenet1_1": (17, 1),
    "torchvision/regnet_y_400mf": (1, 1),
    "torchvision/mnasnet0_5": (1, 1),
    "torchvision/googlenet": (15, 1),
    "torchvision/densenet121": (29, 1),
    "timm/test_convnext": (32, 1),
    "timm/test_byobnet": (1, 1),
    "timm/test_efficientnet": (1, 1),
    "timm/test_nfnet": (1, 1),
    "timm/test_resnet": (1, 1),
    "timm/test_mambaout": (1, 1),
    "timm/mobilenetv3_small_050": (1, 1),
    "timm/tf_efficientnetv2_b0": (32, 32),
    "timm/regnetx_002": (1, 1),
    "timm/cs3darknet_focus_s": (2, 1),
    "timm/skresnet18": (1, 1),
    "timm/starnet_s050": (1, 1),
    "timm/ghostnet_050": (1, 1),
    "timm/ese_vovnet19b_slim_dw": (29, 1),
    "timm/fasternet_t0": (32, 1),
}
REST = {
    "torchvision/vgg11_bn": (32, 1),
    "torchvision/alexnet": (63, 1),
    "torchvision/convnext_tiny": (32, 1),
    "torchvision/efficientnet_b0": (1, 1),
    "torchvision/inception_v3": (75, 1),
    "torchvision/mobilenet_v2": (1, 1),
    "timm/convmixer_768_32": (7, 1),
    "timm/cspnext_tiny": (1, 1),
    "timm/densenet121": (29, 1),
    "timm/dla46x_c": (32, 32),
    "timm/dpn48b": (1, 1),
    "timm/fastvit_t8": (1, 1),
    "timm/focalnet_tiny_srf": (32, 1),
    "timm/hardcorenas_b": (1, 1),
    "timm/hgnetv2_b0": (1, 1),
    "timm/hrnet_w18_small": (32, 32),
    "timm/inception_next_atto": (32, 1),
    "timm/inception_resnet_v2": (75, 1),
    "timm/inception_v3": (75, 1),
    "timm/inception_v4": (75, 1),
    "timm/lcnetv2_small": (1, 1),
    "timm/legacy_seresnet18": (3, 1),
    "timm/legacy_xception": (7, 1),
    "timm/nasnetalarge": (128, 64),
    "timm/nf_resnet26": (1, 1),
    "timm/pnasnet5large": (128, 64),
    "timm/poolformerv2_s12": (3, 1),
    "timm/rdnet_tiny": (32, 1),
    "timm/repghostnet_050": (1, 1),
    "timm/repvgg_a0": (1, 1),
    "timm/repvit_m1": (1, 1),
    "timm/res2next50": (1, 1),
    "timm/resnest14d": (1, 1),
    "timm/resnetv2_18": (1, 1),
    "timm/rexnet_100": (1, 1),
    "timm/selecsls42": (1, 1),
    "timm/tf_mixnet_s": (32, 32),
    "timm/vgg11_bn": (32, 1),
    "timm/xception41p": (1, 1),
}

# Families whose smallest network is not followed, and that network.
NOT_FOLLOWED = {
    "timm.byoanet": "timm/halonet_h1",
    "timm.coat": "timm/coat_tiny",
    "timm.cpubone": "timm/cpubone_nano",
    "timm.crossvit": "timm/crossvit_9_dagger_240",
    "timm.csatv2": "timm/csatv2",
    "timm.davit": "timm/davit_tiny",
    "timm.edgenext": "timm/edgenext_xx_small",
    "timm.efficientformer": "timm/efficientformer_l1",
    "timm.efficientformer_v2": "timm/efficientformerv2_s0",
    "timm.efficientvim": "timm/efficientvim_m1",
    "timm.efficientvit_mit": "timm/efficientvit_b0",
    "timm.efficientvit_msra": "timm/efficientvit_m0",
    "timm.gcvit": "timm/gcvit_xxtiny",
    "timm.hiera": "timm/hiera_tiny_224",
    "timm.hieradet_sam2": "timm/sam2_hiera_tiny",
    "timm.iformer": "timm/iformer_t",
    "timm.levit": "timm/levit_128s",
    "timm.lowformer": "timm/lowformer_b0",
    "timm.maxxvit": "timm/test_coatnet",
    "timm.mobilenetv5": "timm/mobilenetv5_base",
    "timm.mobilevit": "timm/mobilevit_xxs",
    "timm.mvitv2": "timm/mvitv2_tiny",
    "timm.nest": "timm/nest_tiny",
    "timm.nextvit": "timm/nextvit_small",
    "timm.pit": "timm/pit_ti_224",
    "timm.pvt_v2": "timm/pvt_v2_b0",
    "timm.shvit": "timm/shvit_s1",
    "timm.swiftformer": "timm/swiftformer_xs",
    "timm.tiny_vit": "timm/tiny_vit_5m_224",
    "timm.tnt": "timm/tnt_s_legacy_patch16_224",
    "timm.tresnet": "timm/tresnet_m",
    "timm.twins": "timm/twins_svt_small",
    "timm.visformer": "timm/visformer_tiny",
    "timm.vision_transformer_hybrid": "timm/vit_tiny_r_s16_p8_224",
    "timm.vision_transformer_sam": "timm/samvit_base_patch16",
    "timm.vitamin": "timm/vitamin_small_224",
    "timm.volo": "timm/volo_d1_224",
    "timm.xcit": "timm/xcit_nano_12_p8_224",
    "torchvision.maxvit": "torchvision/maxvit_t",
}


def entry_of(name: str) -> models.Entry:
    """The zoo's entry."""
    return models.Entry(name, "timm" if name.startswith("timm/") else "classification")


def build(name: str, mode: str = "zeros") -> nn.Module:
    """A network in eval mode with redrawn weights, in the default dtype."""
    model = models.build(entry_of(name))
    redraw(model)
    if mode != "zeros":
        pcpad.convert(model, mode)
    return model


def sizes_for(lowest: int, multiple: int, count: int = 4, largest: int = 90) -> list[tuple[int, int]]:
    """Random sizes of which the first is the smallest, and an odd one where the network takes one."""
    generator = torch.Generator().manual_seed(lowest + multiple)
    largest = max(largest, lowest + 2 * multiple)
    drawn = torch.randint(lowest, largest + 1, (count, 2), generator=generator).tolist()
    sizes = [tuple(max(side // multiple * multiple, lowest) for side in pair) for pair in drawn]
    sizes[0] = (lowest, lowest)
    sizes[1] = (sizes[1][0] // 2 * 2 + 1, sizes[1][1]) if multiple == 1 else sizes[1]
    return sizes


def worst_error(model: nn.Module, sizes: list[tuple[int, int]], seed: int = 0) -> float:
    """Largest relative difference between a row of the batch and its image alone; outside the images is NaN."""
    generator = torch.Generator().manual_seed(seed)
    images = [torch.randn(3, h, w, generator=generator, dtype=torch.get_default_dtype()) for h, w in sizes]
    with torch.no_grad():
        together = model(make_batch(images, margin=(9, 4)))
        alone = [model(image[None])[0] for image in images]
    assert not isinstance(together, RaggedBatch)
    return max(float((row - one).abs().max() / one.abs().max()) for row, one in zip(together, alone, strict=True))
