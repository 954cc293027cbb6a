"""Both loaders: images that grow from epoch to epoch, and RandAugment; each goes on exactly where it was cut."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch

from pcpad.config import AugmentSettings, ProgressiveSettings
from pcpad.training.sizes import SizeOf
from tests.data.made import MEAN, epochs, pixels, same, train_loader, train_transform

SIZE_OF = SizeOf(ProgressiveSettings(start=8, end=16, from_epoch=1, to_epoch=1), 16)


def augmented(size=16):
    return replace(train_transform(size), randaugment=2, magnitude=9)


def test_images_grow_between_epochs(loader, photo_files):
    """The images of an epoch are those of a loader that has its size all along: nothing else changes."""
    growing = list(train_loader(loader, photo_files, train_transform(16), size_of=SIZE_OF, workers=1).epoch(0))
    assert {batch.images.shape[-2:] for batch in growing} == {(8, 8)}
    made = train_loader(loader, photo_files, train_transform(16), size_of=SIZE_OF)
    found = [list(made.epoch(epoch)) for epoch in range(3)]
    assert same(found[0], growing)
    for size, which in ((8, [0]), (16, [1, 2])):
        fixed = train_loader(loader, photo_files, train_transform(size))
        all_along = [list(fixed.epoch(epoch)) for epoch in range(3)]
        assert [epoch for epoch in range(3) if same(found[epoch], all_along[epoch])] == which


@pytest.mark.parametrize("shard", [{}, {"rank": 1, "world": 2}], ids=["alone", "rank 1 of 2"])
@pytest.mark.parametrize("cuts", ["all", pytest.param("one", marks=pytest.mark.slow)])
def test_resumed_after_any_batch_across_sizes(loader, photo_files, shard, cuts):
    """The remaining batches of both sizes, bit for bit; with RandAugment, whose pipeline is slow to make, after one."""
    transform = train_transform() if cuts == "all" else augmented()
    options = {"batch_size": 2, "size_of": SIZE_OF, **shard}
    whole, batches, states = train_loader(loader, photo_files, transform, **options), [], []
    for epoch in range(2):
        for batch in whole.epoch(epoch):
            batches.append(batch)
            states.append(whole.state())
    steps = whole.steps_per_epoch
    for cut in range(1, 2 * steps) if cuts == "all" else [steps - 1 if shard else steps + 1]:
        resumed = train_loader(loader, photo_files, transform, **options)
        resumed.restore(states[cut - 1])
        rest = [batch for epoch in range((cut - 1) // steps, 2) for batch in resumed.epoch(epoch)]
        assert same(rest, batches[cut:])
    assert not any(same([a], [b]) for number, a in enumerate(batches) for b in batches[:number])


def test_randaugment_changes_pixels_and_nothing_else(loader, photo_files):
    plain, other = (epochs(train_loader(loader, photo_files, t), 2) for t in (train_transform(), augmented()))
    assert [b.index.tolist() for b in plain] == [b.index.tolist() for b in other]
    changed = [
        not torch.equal(a, b) for p, q in zip(plain, other, strict=True) for a, b in zip(p[0], q[0], strict=True)
    ]
    assert sum(changed) > len(changed) / 2


def test_randaugment_goes_both_ways(loader, flat_files):
    """Brightness of magnitude 9 scales by 0.19 or by 1.81, which makes 22.8 or 217.2 of 120; neither does all the work.

    DALI's rand_augment with a seed of its own would draw the operation and its direction alike.
    """
    transform = replace(train_transform(), randaugment=1, magnitude=9)
    batches = epochs(train_loader(loader, [flat_files[30]] * 64, transform, batch_size=16), 6)
    middle = torch.cat([pixels(batch.images)[:, 0, 8, 8] for batch in batches])
    darker, brighter = ((middle - value).abs().lt(1).sum().item() for value in (22.8, 217.2))
    assert min(darker, brighter) >= 3
    assert darker + brighter < len(middle) / 4


def test_the_strongest_randaugment_can_be_done(loader, flat_files):
    """Magnitude 9; at 10 timm's posterize keeps no bit, which Pillow refuses in the middle of a training."""
    transform = replace(train_transform(), randaugment=2, magnitude=9)
    assert len(epochs(train_loader(loader, flat_files, transform, batch_size=16), 3)) == 12
    with pytest.raises(ValueError, match=r"magnitude must be in 0\.\.9, not 10"):
        AugmentSettings(randaugment=2, magnitude=10)


def test_timms_randaugment_is_asked_as_timm_asks_it(torchvision, photo_files, monkeypatch):
    """The string, and what timm's own create_transform passes with it; global random numbers are left alone."""
    from timm.data import auto_augment

    asked, original = [], auto_augment.rand_augment_transform

    def noting(text, hparams):
        asked.append((text, dict(hparams)))
        return original(text, hparams)

    monkeypatch.setattr(auto_augment, "rand_augment_transform", noting)
    transform = replace(train_transform(20), randaugment=3, magnitude=7)
    random.seed(1), np.random.seed(1)
    before = random.getstate(), np.random.get_state()[1].copy()
    first = epochs(train_loader(torchvision, photo_files, transform), 1)
    assert random.getstate() == before[0]
    assert np.array_equal(np.random.get_state()[1], before[1])
    assert [text for text, _ in asked] == ["rand-m7-n3-inc1"]
    assert asked[0][1]["translate_const"] == 9  # 0.45 of 20
    assert asked[0][1]["img_mean"] == tuple(round(255 * mean) for mean in MEAN)
    random.seed(2), np.random.seed(2)
    assert same(first, epochs(train_loader(torchvision, photo_files, transform), 1))
