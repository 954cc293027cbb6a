"""Exact counts against counting by hand, and the record that states them."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from pcpad.data.batch import Batch, EvalTransform
from pcpad.evaluation.counts import Tally, count
from pcpad.evaluation.fields import read_records
from pcpad.evaluation.record import make_record, write_record
from pcpad.evaluation.run import parse_paddings
from pcpad.evaluation.variants import Size, parse_sizes
from pcpad.padding import PADDING_MODES

CPU = torch.device("cpu")


class Table(nn.Module):
    """Outputs looked up by the image's first pixel, so that every prediction is known."""

    def __init__(self, logits):
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(logits))
        self.drop = nn.Dropout(0.9)

    def forward(self, x):
        assert not self.training
        return self.drop(self.logits[x[:, 0, 0, 0].long()])


def batches(labels, sizes, order=None):
    """Batches of the given sizes over images whose pixel is their row."""
    order = np.arange(len(labels)) if order is None else np.asarray(order)
    start = 0
    for size in sizes:
        rows = torch.from_numpy(order[start : start + size])
        start += size
        images = rows.float().view(-1, 1, 1, 1).expand(-1, 3, 2, 2)
        yield Batch(images, torch.tensor(labels)[rows], rows)


def by_hand(logits, labels, k):
    """Number of rows whose label is among the k largest outputs."""
    return sum(
        label in sorted(range(len(row)), key=lambda c: -row[c])[:k] for row, label in zip(logits, labels, strict=True)
    )


@pytest.mark.parametrize("classes", [3, 5, 12])
def test_counts_equal_counting_by_hand(classes):
    rng = np.random.default_rng(classes)
    logits = rng.permuted(np.tile(np.arange(classes, dtype=np.float32), (50, 1)), axis=1).tolist()
    labels = rng.integers(0, classes, 50).tolist()
    model = Table(logits).train()
    result = count(
        model,
        batches(labels, [16, 0, 16, 16, 2], order=rng.permutation(50)),
        expected=50,
        num_classes=classes,
        device=CPU,
    )
    assert (result.n, result.top1) == (50, by_hand(logits, labels, 1))
    assert result.top5 == (by_hand(logits, labels, 5) if classes >= 5 else None)  # always right below 5 classes
    assert result.index.tolist() == list(range(50))
    assert result.label.tolist() == labels
    assert result.predictions[:, 0].tolist() == [int(np.argmax(row)) for row in logits]
    assert result.predictions.shape == (50, min(5, classes))
    expected_loss = nn.functional.cross_entropy(torch.tensor(logits).double(), torch.tensor(labels)).item()
    assert result.loss == pytest.approx(expected_loss, rel=1e-6)
    assert model.training  # put back as it was


@pytest.mark.parametrize("order", [[0, 1, 2, 2], [0, 1, 2]], ids=["twice", "missing"])
def test_an_image_seen_twice_or_not_at_all_is_an_error(order):
    model = Table(np.eye(4, dtype=np.float32).tolist())
    with pytest.raises(RuntimeError, match="of 4"):
        count(model, batches([0, 1, 2, 3], [len(order)], order), expected=4, num_classes=4, device=CPU)


def test_record_states_what_the_design_asks_for(tmp_path):
    logits = np.eye(6, dtype=np.float32).tolist()
    result = count(Table(logits), batches([0, 1, 2, 3, 4, 0], [6]), expected=6, num_classes=6, device=CPU)
    transform = EvalTransform(224, 0.875, "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    facts = {
        "model": "timm/x",
        "num_classes": 6,
        "padding": "partial",
        "padding_trained": "zeros",
        "power": 1.0,
        "on_small": "raise",
        "transform": transform,
        "data": "d",
        "manifest_digest": "m",
        "loader": "dali",
        "device": CPU,
        "amp": "off",
        "ema": False,
        "run": "r",
        "checkpoint": "last",
        "step": 7,
        "seed": 3,
    }
    first = make_record(result, **facts)
    write_record(tmp_path, first, result)
    write_record(tmp_path, make_record(result, **facts | {"padding": "zeros"}), result)
    a, b = read_records(tmp_path)
    wanted = "schema run checkpoint step ema model padding_trained padding power size top1 top5 n excluded preprocess "
    wanted += "settings_digest manifest_digest commit versions seed loader hardware images_per_second predictions"
    assert set(wanted.split()) <= set(a)
    assert (a["size"], a["top1"], a["n"], a["excluded"]) == ("224", 5, 6, 0)
    assert a["settings_digest"] != b["settings_digest"]
    assert a["settings_digest"] == make_record(result, **facts | {"run": None, "seed": 9})["settings_digest"]
    with np.load(tmp_path / a["predictions"]) as kept:
        assert kept["index"].tolist() == list(range(6))
        assert (kept["top5"][:, 0] == kept["label"]).sum() == a["top1"]
    assert not list(tmp_path.rglob("*.tmp"))
    json.dumps(a, allow_nan=False)


def test_grids():
    assert parse_paddings("all") == list(PADDING_MODES)
    assert parse_paddings("zero, partial,zeros") == ["zeros", "partial"]
    assert parse_sizes("128, native:160,128") == [Size(128), Size(160, native=True)]
    assert parse_sizes("cut:16@224,shift:8@64") == [Size(224, False, "cut", 16), Size(64, False, "shift", 8)]
    with pytest.raises(ValueError, match="did you mean 'partial'"):
        parse_paddings("zeros,partail")
    for text in (
        "a",
        "128,,160",
        "0",
        "-1",
        "native:",
        "own:224",
        "native:0",
        "cut@224",
        "cut:0@224",
        "cat:4@224",
        "cut:4@",
        "cut:4@native:9",
    ):
        with pytest.raises(ValueError, match="positive integers"):
            parse_sizes(text)


def test_a_batch_that_was_interrupted_half_way_does_not_count():
    """Ctrl-C may come between any two lines: what is kept of an evaluation holds whole batches only."""
    first, second = batches([0, 1, 2, 0], [2, 2])
    tally = Tally(3)
    tally.add(torch.eye(3)[[0, 1]], first)
    before = {name: value.tolist() for name, value in tally.state().items()}

    class Interrupting:
        labels = second.labels

        @property
        def index(self):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tally.add(torch.eye(3)[[2, 1]], Interrupting())
    assert {name: value.tolist() for name, value in tally.state().items()} == before
    tally.load(tally.state())
    tally.add(torch.eye(3)[[2, 1]], second)
    assert (tally.counts(4).top1, tally.counts(4).predictions[:, 0].tolist()) == (3, [0, 1, 2, 1])
