"""Which goals of speed the benchmarks' records meet."""

import json

import pytest

from tests.experiments.test_tables import load


def record(network: str, work: str, ratios: dict[str, list[float]], **other) -> dict:
    seconds = {"zeros": [2.0] * 5} | {way: [2 * r for r in values] for way, values in ratios.items()}
    facts = {"amp": "off", "channels_last": True, "compile": False, "batch": 8, "hardware": "NVIDIA X9", "peak_mib": {}}
    row = {"network": f"torchvision/{network}", "work": work, "seconds": seconds, "ratios": dict.fromkeys(seconds)}
    return row | facts | other


@pytest.fixture
def table_of(tmp_path, monkeypatch):
    """Write records; gives a function to the rows of a device's goals, by their names."""
    goals = load("goals", monkeypatch)

    def rows(device: str, **records) -> dict[str, list[str]]:
        for name, content in records.items():
            (tmp_path / f"{name}-{device}.json").write_text(json.dumps(content))
        head, found = goals.goals(tmp_path, device)
        assert all(len(row) == len(head) for row in found)
        return {row[0]: row[1:] for row in found}

    return rows


def test_a_figure_is_counted_by_its_median(table_of):
    rows = [
        record("resnet50", "inference", {"partial": [1.0, 1.01, 1.02, 1.5, 1.6]}),  # 1.02: met
        record("vgg16_bn", "inference", {"partial": [1.0, 1.01, 1.03, 1.5, 1.6]}),  # above, and 1.02 is in its interval
        record("mobilenet_v2", "inference", {"partial": [1.04, 1.05, 1.06, 1.07, 1.08]}),
        record("mobilenet_v2", "inference", {"partial": [3.0] * 5}, batch=1),  # no goal
        record("mobilenet_v2", "inference", {"partial": [0.9] * 5}, compile=True),
        record("alexnet", "inference", {"partial": [4.0] * 5}),  # not among the networks
        record("mobilenet_v2", "training", {"partial": [1.0] * 5, "reflect": [1.2] * 5, "circular": [1.1] * 5}),
    ]
    found = table_of("cpu", padding={"results": rows})
    assert found["partial, inference, eager"] == [
        "at most 1.02",
        "1 of 3",
        "1.020 to 1.060",
        "mobilenet_v2 inference, fp32: 1.060, 1.040 to 1.080<br>"
        "vgg16_bn inference, fp32: 1.030, 1.000 to 1.600 (within its error)",
        "fp32 channels_last: 2, bf16 channels_last: 2",
    ]
    assert found["partial, training step, eager"][1:3] == ["1 of 1", "1.000"]
    assert found["partial, compiled"][1:] == ["1 of 1", "0.900", "", "fp32 channels_last: 3"]
    filling = found["reflect, replicate, circular, eager"]
    assert filling[1:4] == ["1 of 2", "1.100 to 1.200", "mobilenet_v2 training, fp32, reflect: 1.200"]
    assert filling[4] == "fp32 channels_last: 28, bf16 channels_last: 12"
    assert "peak memory of a training step, partial" not in found  # of a GPU alone


def test_on_a_gpu_rows_name_it_and_peaks_count(table_of):
    near = {"peak_mib": {"zeros": 100, "partial": 101}}
    far = {"peak_mib": {"zeros": 100, "partial": 110}}
    rows = [
        record("resnet50", "training", {"partial": [1.07] * 5}, amp="bf16", **near),
        record("vgg16_bn", "training", {"partial": [1.06] * 5}, channels_last=False, **far),
    ]
    found = table_of("cuda", padding={"results": rows})
    assert found["partial, training step, eager"][:4] == [
        "at most 1.06",
        "1 of 2",
        "1.060 to 1.070",
        "resnet50 training, bf16 (X9): 1.070",
    ]
    assert found["peak memory of a training step, partial"][1:4] == [
        "1 of 2",
        "1.010 to 1.100",
        "vgg16_bn fp32 NCHW: 1.100",
    ]


def test_peers_are_to_be_reached(table_of):
    repetitions = {"pcpad": [20.0, 21, 22, 23, 24], "timm": [20.0] * 5, "torchvision": [30.0] * 5}
    repetitions["timm, channels_last"] = [24.0, 24, 23, 23, 23]
    loaders = {"repetitions": {"pcpad, DALI": [300.0] * 5, "torchvision, PIL": [200.0] * 5, "timm": [160.0] * 5}}
    found = table_of("cpu", training={"synthetic": {"repetitions": repetitions}}, loaders=loaders)
    assert found["the loop and timm's and torchvision's, images/s"] == [
        "at least 1",
        "1 of 3",
        "0.733 to 1.100",
        "synthetic, torchvision: 0.733, 0.667 to 0.800<br>"
        "synthetic, timm, channels_last: 0.957, 0.833 to 1.043 (within its error)",
        "files",
    ]
    assert found["DALI and torchvision's loader (PIL), images/s"][:3] == ["at least 1.5", "1 of 1", "1.500"]
    assert found["DALI and timm's loader, images/s"][1:4] == ["0 of 1", "1.875", "training images: 1.875"]


def test_what_has_no_record_is_not_met(table_of):
    found = table_of("cpu")
    assert {tuple(row[1:]) for row in found.values()} == {("0 of 0", "", "", "all")}
    seconds = {"pcpad --help": [0.6], "pcpad study table x": [3.0], "pcpad study table y": [4.5]}
    found = table_of("cpu", startup={"seconds": seconds, "added_seconds": [0.05]})
    assert found["`pcpad --help`"][:4] == ["at most 0.5 s", "0 of 1", "0.6", "pcpad --help: 0.6"]
    assert found["`pcpad study table`"][1:4] == ["1 of 2", "3 to 4.5", "pcpad study table y: 4.5"]
    assert found["`import pcpad` over `import torch`"][1] == "1 of 1"
