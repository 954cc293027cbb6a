"""Both loaders: batches, order, coverage, seeds, ranks, resuming."""

import copy
import gc
import io
import random
import shutil

import numpy as np
import pytest
import torch

from pcpad.data.batch import EvalTransform
from tests.data.made import (
    DEVICES,
    MEAN,
    STD,
    epochs,
    eval_loader,
    pixels,
    same,
    train_loader,
)

# what a batch is


@pytest.mark.parametrize("device", DEVICES)
def test_batches_hold_what_they_say(loader, flat_files, device):
    """Each image is that of its index (the files are flat, their grey tells), and so is its label."""
    device = torch.device(device)
    labels = np.random.default_rng(0).integers(0, 1000, 64)
    labels.flags.writeable = False
    evaluation = list(eval_loader(loader, flat_files, labels=labels, device=device))
    training = list(train_loader(loader, flat_files, labels=labels, device=device).epoch(0))
    for batch, size in [(b, 32) for b in evaluation] + [(b, 16) for b in training]:
        count = len(batch.index)
        assert batch.images.shape == (count, 3, size, size)
        assert [values.dtype for values in batch] == [torch.float32, torch.int64, torch.int64]
        assert [values.device.type for values in batch] == [device.type, device.type, "cpu"]
        assert batch.labels.tolist() == labels[batch.index].tolist()
        grey = 4.0 * batch.index.view(-1, 1, 1, 1).expand(count, 3, size, size)
        torch.testing.assert_close(pixels(batch.images), grey, atol=1e-3, rtol=0)


@pytest.mark.parametrize("workers", [0, 1])
def test_workers_leave_the_garbage_of_their_parent_alone(torchvision, dali, flat_files, tmp_path, workers):
    """Destroying a DALI pipeline in a forked process never ends. Without workers, the garbage does go."""
    mark = tmp_path / "destroyed"

    class Garbage:
        def __init__(self):
            self.itself = self

        def __del__(self):
            mark.touch()

    class Collecting(EvalTransform):
        @property
        def resize(self):
            gc.collect()
            return 32

    transform = Collecting(32, 1.0, "bilinear", MEAN, STD)
    gc.collect()
    gc.disable()
    try:
        Garbage()
        list(eval_loader(torchvision, flat_files[:2], transform, workers=workers))
        assert mark.exists() == (workers == 0)
    finally:
        gc.enable()


def test_batches_are_not_overwritten(loader, photo_files):
    """A batch that is kept stays what it was while the loader goes on."""
    batches = eval_loader(loader, photo_files, batch_size=1)
    kept = [(batch, copy.deepcopy(batch)) for batch in batches]
    assert same([b for b, _ in kept], [c for _, c in kept])


# evaluation: coverage


@pytest.mark.parametrize(
    ("number", "world", "batch_size"),
    [(1, 1, 4), (2, 3, 1), (5, 2, 3), (7, 3, 2), (8, 2, 4), (10, 4, 16), (63, 2, 16), (64, 3, 5)],
)
def test_evaluation_covers_every_image_once(loader, flat_files, number, world, batch_size):
    """Over all ranks, twice in a row; only the last batch of a rank is short, and a rank may have none."""
    files, settings = flat_files[:number], {"batch_size": batch_size, "world": world}
    shards = [eval_loader(loader, files, rank=rank, **settings) for rank in range(world)]
    for _ in range(2):
        sizes = [[len(batch.index) for batch in shard] for shard in shards]
        assert sum(map(sum, sizes)) == number
        assert [len(shard) for shard in shards] == [len(s) for s in sizes]
        assert all(size == batch_size for s in sizes for size in s[:-1])
        assert all(0 < size <= batch_size for s in sizes for size in s)
        found = [i for shard in shards for batch in shard for i in batch.index.tolist()]
        assert sorted(found) == list(range(number))


def test_evaluation_starts_over_after_it_was_left(loader, flat_files):
    batches = eval_loader(loader, flat_files, batch_size=4)
    next(iter(batches))
    assert [i for batch in batches for i in batch.index.tolist()] == list(range(64))


def test_evaluation_is_the_same_for_any_number_of_workers(loader, photo_files):
    one, two = (list(eval_loader(loader, photo_files, batch_size=5, workers=workers)) for workers in (1, 2))
    assert same(one, two)


# training: order and coverage


def order(batches) -> list[int]:
    return [i for batch in batches for i in batch.index.tolist()]


@pytest.mark.parametrize(
    ("number", "world", "batch_size", "steps"), [(63, 2, 16, 1), (64, 2, 8, 4), (64, 3, 7, 3), (10, 1, 3, 3)]
)
def test_training_takes_equal_steps_of_different_images(loader, flat_files, number, world, batch_size, steps):
    """63 files, 2 ranks, batch 16: one rank could take 2 batches and the other 1, and DDP would hang."""
    ranks = [
        train_loader(loader, flat_files[:number], batch_size=batch_size, rank=rank, world=world)
        for rank in range(world)
    ]
    for epoch in range(4):
        batches = [list(rank.epoch(epoch)) for rank in ranks]
        assert [len(b) for b in batches] == [steps] * world == [rank.steps_per_epoch for rank in ranks]
        assert {len(batch.index) for b in batches for batch in b} == {batch_size}
        found = [i for b in batches for i in order(b)]
        assert len(set(found)) == len(found) == steps * batch_size * world


def test_training_without_a_step_is_refused(loader, flat_files):
    with pytest.raises(ValueError, match=r"31 training images of 2 processes .* batch of 16"):
        train_loader(loader, flat_files[:31], batch_size=16, world=2)
    assert train_loader(loader, flat_files[:32], batch_size=16, world=2).steps_per_epoch == 1


def test_every_epoch_and_seed_has_its_own_order(loader, flat_files):
    """Whole shuffles: the place of an image in one order says nothing of its place in another."""
    orders = []
    for seed in (0, 1, 2):
        made = train_loader(loader, flat_files, seed=seed)
        orders += [order(made.epoch(epoch)) for epoch in range(3)]
    places = np.argsort(np.array([list(range(64)), *orders]), axis=1)
    correlation = np.corrcoef(places)[np.triu_indices(len(places), 1)]
    # Independent shuffles of 64 correlate with deviation 0.126; 0.5 is four of them, for 45 pairs.
    assert np.abs(correlation).max() < 0.5


def test_seed_decides_order_and_crops(loader, photo_files):
    first, again, other = (epochs(train_loader(loader, photo_files, seed=seed), 2) for seed in (3, 3, 4))
    assert same(first, again)
    assert order(first) != order(other)


def test_seed_decides_crops_of_the_same_image(loader, photo_files):
    """One file, many times: whatever the order, images differ only by their crops."""
    files = [photo_files[0]] * 16
    batches = [b for seed in (3, 4) for b in train_loader(loader, files, seed=seed).epoch(0)]
    assert len(torch.cat([b.images for b in batches]).flatten(1).unique(dim=0)) == 32


def test_epochs_have_different_crops_of_the_same_image(loader, photo_files):
    made = train_loader(loader, [photo_files[0]] * 16)
    images = torch.cat([batch.images for batch in epochs(made, 3)]).flatten(1)
    assert len(images.unique(dim=0)) == 48


def test_ranks_have_different_crops_of_the_same_image(loader, photo_files):
    files = [photo_files[0]] * 16
    ranks = [train_loader(loader, files, rank=rank, world=2) for rank in (0, 1)]
    images = torch.cat([batch.images for rank in ranks for batch in epochs(rank, 2)]).flatten(1)
    assert len(images.unique(dim=0)) == 32


def test_training_is_the_same_for_any_number_of_workers(loader, photo_files):
    found = [epochs(train_loader(loader, photo_files, workers=workers), 2) for workers in (0, 1, 2)]
    assert same(found[0], found[1])
    assert same(found[0], found[2])


@pytest.mark.parametrize("workers", [0, 2])
def test_random_state_of_the_process_is_left_alone(loader, photo_files, workers):
    def run() -> list:
        list(eval_loader(loader, photo_files, workers=workers))
        return epochs(train_loader(loader, photo_files, workers=workers), 1)

    torch.manual_seed(1), np.random.seed(1), random.seed(1)
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    first = run()
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])
    assert random.getstate() == before[2]
    torch.manual_seed(2), np.random.seed(2), random.seed(2)
    assert same(run(), first)


# training: resuming


def workers(loader, shard: dict, number: int) -> int:
    """So many, but none where they would come from a server, which takes seconds to start (test_workers.py has it)."""
    return 0 if shard and loader.__name__.endswith("reference") else number


def stored(state: dict) -> dict:
    """The state as a checkpoint file gives it back."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


@pytest.mark.parametrize("shard", [{}, {"rank": 1, "world": 2}], ids=["alone", "rank 1 of 2"])
def test_resumed_epochs_equal_uninterrupted_ones(loader, photo_files, shard):
    """Bit for bit, with another number of workers; a state of another epoch gives other images."""
    whole = train_loader(loader, photo_files, batch_size=2, workers=workers(loader, shard, 1), **shard)
    found, states = [], []
    for epoch in range(4):
        states.append(stored(whole.state()))
        found.append(list(whole.epoch(epoch)))
    for start in range(1, 4):
        resumed = train_loader(loader, photo_files, batch_size=2, workers=workers(loader, shard, 2), **shard)
        resumed.restore(states[start])
        again = [list(resumed.epoch(epoch)) for epoch in range(start, 4)]
        assert all(same(a, b) for a, b in zip(again, found[start:], strict=True))
    assert not any(same(found[a], found[b]) for a in range(4) for b in range(a))


@pytest.mark.parametrize("shard", [{}, {"rank": 1, "world": 2}], ids=["alone", "rank 1 of 2"])
def test_resumed_after_any_batch(loader, photo_files, shard):
    """The remaining batches of the epoch and the next epoch, bit for bit; also when cut a second time."""
    whole = train_loader(loader, photo_files, batch_size=2, workers=workers(loader, shard, 1), **shard)
    batches, states = [], []
    for epoch in range(2):
        for batch in whole.epoch(epoch):
            batches.append(batch)
            states.append(stored(whole.state()))
    steps = whole.steps_per_epoch
    for cut, state in enumerate(states, 1):
        resumed = train_loader(loader, photo_files, batch_size=2, workers=workers(loader, shard, 2), **shard)
        resumed.restore(state)
        assert resumed.state()["step"] == (cut - 1) % steps + 1
        rest = []
        for epoch in range((cut - 1) // steps, 2):
            for batch in resumed.epoch(epoch):
                rest.append(batch)
                if len(rest) == 1 and cut + 1 < len(batches):
                    again = train_loader(loader, photo_files, batch_size=2, workers=workers(loader, shard, 1), **shard)
                    again.restore(stored(resumed.state()))
                    (first, *_) = [*again.epoch(cut // steps), *([] if (cut + 1) % steps else again.epoch(1))]
                    assert same([first], [batches[cut + 1]])
        assert same(rest, batches[cut:])
    assert not same(batches[:steps], batches[steps:])


def test_another_number_of_ranks_goes_on_at_an_epoch(loader, photo_files):
    """Every image once in each epoch, the ranks apart, and twice the same."""
    whole = train_loader(loader, photo_files, batch_size=2)
    first = list(whole.epoch(0))
    state = stored(whole.state())
    inside = train_loader(loader, photo_files, batch_size=2)
    inside.restore(state)
    iterator = inside.epoch(1)
    next(iterator)
    orders = []
    for _ in range(2):
        seen = []
        for rank in range(3):
            moved = train_loader(loader, photo_files, batch_size=1, rank=rank, world=3)
            moved.restore(state, other_world=True)
            seen.append([batch.index.tolist() for epoch in (1, 2) for batch in moved.epoch(epoch)])
            cut = train_loader(loader, photo_files, batch_size=1, rank=rank, world=3)
            cut.restore(stored(moved.state()))
            assert len(list(cut.epoch(3))) == 4
        for epoch in range(2):
            rows = [i for own in seen for index in own[4 * epoch : 4 * epoch + 4] for i in index]
            assert sorted(rows) == list(range(12))
        orders.append(seen)
    assert orders[0] == orders[1]
    assert [i for batch in first for i in batch.index.tolist()] != [i for own in seen for [i] in own[:4]]


def test_state_passes_through_unused_loaders(loader, photo_files):
    """Restored and saved again without an epoch in between, as when a job is ended at once."""
    whole = train_loader(loader, photo_files)
    list(whole.epoch(0))
    between = train_loader(loader, photo_files)
    between.restore(whole.state())
    resumed = train_loader(loader, photo_files)
    resumed.restore(between.state())
    assert same(list(whole.epoch(1)), list(resumed.epoch(1)))


def test_resuming_after_the_data_moved(loader, photo_files, tmp_path):
    whole = train_loader(loader, photo_files)
    list(whole.epoch(0))
    moved = [str(shutil.copy(path, tmp_path)) for path in photo_files]
    resumed = train_loader(loader, moved)
    resumed.restore(whole.state())
    assert same(list(whole.epoch(1)), list(resumed.epoch(1)))


@pytest.mark.parametrize(
    ("key", "change"),
    {
        "batch_size": {"batch_size": 3},
        "seed": {"seed": 1},
        "world": {"world": 2},
        "rank": {"rank": 1, "world": 2},
        "files": {"labels": np.zeros(12, np.int64)},
    }.items(),
)
def test_state_of_other_settings_is_refused(loader, photo_files, key, change):
    state = train_loader(loader, photo_files).state()
    with pytest.raises(ValueError, match=f"{key} was"):
        train_loader(loader, photo_files, **change).restore(state)


def test_state_of_other_files_is_refused(loader, photo_files):
    state = train_loader(loader, photo_files).state()
    for files in (photo_files[:11], [*photo_files[:11], photo_files[0]], photo_files[::-1]):
        with pytest.raises(ValueError, match="files was"):
            train_loader(loader, files).restore(state)


def test_state_of_the_other_loader_is_refused(torchvision, dali, photo_files):
    for one, other in ((torchvision, dali), (dali, torchvision)):
        with pytest.raises(ValueError, match="loader was"):
            train_loader(other, photo_files).restore(train_loader(one, photo_files).state())


def test_state_of_another_dali_is_refused(dali, photo_files):
    state = train_loader(dali, photo_files).state()
    with pytest.raises(ValueError, match="dali was"):
        train_loader(dali, photo_files).restore({**state, "dali": "1.0"})


def test_state_of_images_that_dali_resized_is_refused(torchvision, dali, photo_files):
    """A GPU's, and one of pcpad before torch resized on a CPU: its pixels are others, its pipeline too."""
    state = train_loader(dali, photo_files).state()
    earlier = {key: state[key] for key in state if key != "resize"}
    for other, said in (({**state, "resize": "DALI, on a GPU"}, "DALI, on a GPU"), (earlier, "DALI")):
        with pytest.raises(ValueError, match=f"resize was '{said}', is 'torch, on a CPU'"):
            train_loader(dali, photo_files).restore(other)
    with pytest.raises(ValueError, match="resize was None"):  # no word of DALI where it read nothing
        train_loader(dali, photo_files).restore(train_loader(torchvision, photo_files).state())


def test_epochs_come_in_order(loader, photo_files):
    made = train_loader(loader, photo_files)
    with pytest.raises(ValueError, match="0 is next"):
        made.epoch(1)
    list(made.epoch(0))
    with pytest.raises(ValueError, match="1 is next"):
        made.epoch(0)
    batches = made.epoch(1)
    next(batches)
    assert (made.state()["epoch"], made.state()["step"]) == (1, 1)
    with pytest.raises(ValueError, match="not taken to its end"):
        made.epoch(2)
