"""pcpad border as a command: its records against the network alone, figures from the records alone, its messages."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torchvision.transforms import functional as F

import pcpad
from pcpad.cli import main
from pcpad.evaluation.border import border
from pcpad.evaluation.border.plots import draw_fidelity
from pcpad.evaluation.border.records import read_border
from pcpad.evaluation.border.report import fidelity, layers, shown_layers
from pcpad.evaluation.border.tables import tables
from tests.data.conftest import picture
from tests.training.conftest import make_stripes
from tests.zoo.redraw import redraw

MODEL = "test_resnet"
SIZE, MARGIN = 64, 32


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """7 made photographs in one folder without classes."""
    root = tmp_path_factory.mktemp("photos")
    for i in range(7):
        Image.fromarray(picture(150 + 9 * i, 210 - 11 * i, seed=i)).save(root / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A network of 6 classes with drawn weights, and the file of them."""
    net = timm.create_model(MODEL, num_classes=6).eval()
    redraw(net)
    path = tmp_path_factory.mktemp("weights") / "weights.pth"
    torch.save(net.state_dict(), path)
    return net, path


def call(model, folder, out, *more: str) -> int:
    """Run the command."""
    options = {"model": f"timm/{MODEL}", "weights": model[1], "data": folder, "out": out, "device": "cpu"}
    options |= {"data.loader": "torchvision", "data.workers": 1, "size": SIZE, "margin": MARGIN, "shifts": "1,2"}
    return main(["border", *(f"--{k}={v}" for k, v in options.items()), *more])


@pytest.fixture(scope="module")
def measured(model, folder, tmp_path_factory):
    """What one call leaves: 5 of the 7 images, two paddings."""
    out = tmp_path_factory.mktemp("measured") / "out"
    assert call(model, folder, out, "--paddings=zeros,partial", "--images=5", "--batch_size=2") == 0
    return out


def test_records_say_what_was_measured(measured, model):
    records = read_border(measured)
    convs = [layer.name for layer in pcpad.convert(model[0], "partial").layers if layer.action == "converted"]
    pcpad.convert(model[0], "zeros")
    assert [(r["padding"], r["layer"]) for r in records if r["kind"] == "features"] == [
        (padding, layer) for padding in ("zeros", "partial") for layer in convs
    ]
    assert [r["padding"] for r in records if r["kind"] == "shifts"] == ["zeros", "partial"]
    for record in records:
        assert (record["schema"], record["n"], record["seed"], record["size"], record["margin"]) == (1, 5, 0, 64, 32)
        assert (record["model"], record["checkpoint"]) == (f"timm/{MODEL}", "weights.pth")
        assert {"settings_digest", "manifest_digest", "weights_digest", "versions", "hardware", "commit"} <= set(record)
    first = records[0]
    assert sum(first["positions"]) == first["height"] * first["width"]
    shifts = records[-1]
    assert shifts["labelled"] == 0
    assert [row["top1"] for row in shifts["shifts"]] == [None] * 7


def test_a_record_states_the_power_of_its_own_padding():
    work = SimpleNamespace(subject=SimpleNamespace(power=0.7))
    stated = {padding: border.mode(work, padding)["power"] for padding in ("partial", "partial_sqrt", "zeros")}
    assert stated == {"partial": 0.7, "partial_sqrt": 0.5, "zeros": 1.0}
    for name in ("border.jsonl", "exact/border.jsonl"):
        lines = (Path(__file__).resolve().parents[3] / "experiments/border" / name).read_text().splitlines()
        powers = {(record["padding"], record["power"]) for record in map(json.loads, lines)}
        assert {padding for padding, power in powers if power != 1} == {"partial_sqrt"}
        assert ("partial_sqrt", 0.5) in powers


def test_sums_are_those_of_the_network_alone(measured, model, folder):
    """Without the harness: PIL, a hook, and differences by ring in numpy."""
    net, _ = model
    cfg = net.pretrained_cfg
    chosen = sorted(np.random.default_rng(0).permutation(7)[:5])
    side = SIZE + 2 * MARGIN
    images = []
    for i in chosen:
        with Image.open(folder / f"{i}.png") as opened:
            image = F.resize(opened.convert("RGB"), side, F.InterpolationMode(cfg["interpolation"]))
        images.append(F.normalize(F.to_tensor(F.center_crop(image, side)), cfg["mean"], cfg["std"]))
    x = torch.stack(images)
    crop = x[..., MARGIN : MARGIN + SIZE, MARGIN : MARGIN + SIZE]
    for padding in ("zeros", "partial"):
        pcpad.convert(net, padding)
        for layer in layers(read_border(measured)):
            record, kept = layer[padding], []
            hook = net.get_submodule(record["layer"]).register_forward_hook(
                lambda m, a, y, kept=kept: kept.append(y.numpy())
            )
            with torch.inference_mode():
                net(crop)
                net(x)
            hook.remove()
            own, true = (y.astype(np.float64) for y in kept)
            first, h = MARGIN // record["stride"], record["height"]
            true = true[..., first : first + h, first : first + h]
            for d in range(len(record["error"])):
                inside = np.zeros((h, h), bool)
                inside[d : h - d, d : h - d] = True
                inside[d + 1 : h - d - 1, d + 1 : h - d - 1] = False
                scale = (true[..., inside] ** 2).sum()
                assert record["positions"][d] == inside.sum()
                assert record["true"][d] == pytest.approx(scale, rel=1e-5)
                assert record["error"][d] == pytest.approx(
                    ((own - true)[..., inside] ** 2).sum(), rel=1e-4, abs=1e-9 * scale
                )
        assert fidelity(layers(read_border(measured))[0][padding])[0] > 0.01
    pcpad.convert(net, "zeros")


def test_figures_come_from_the_records_alone(measured, tmp_path):
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "border.jsonl").write_bytes((measured / "border.jsonl").read_bytes())
    code = f"import sys; from pcpad.cli import main; assert main(['border', '--redraw', {str(copy)!r}]) == 0; "
    code += "assert 'torch' not in sys.modules"
    root = Path(__file__).resolve().parents[3]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    names = sorted(path.name for path in measured.iterdir())
    assert names == sorted(path.name for path in copy.iterdir())
    assert {
        "tables.md",
        *(f"{n}.{k}" for n in ("fidelity", "depth", "bias", "maps", "shifts") for k in ("svg", "png")),
    } < set(names)
    for name in names:
        assert (copy / name).read_bytes() == (measured / name).read_bytes(), name
    before = (copy / "tables.md").read_text()
    records = read_border(copy)
    records[0]["error"][0] *= 4  # the control: another record, another table
    after = tables(records)
    changed = [(a, b) for a, b in zip(before.splitlines(), after.splitlines(), strict=True) if a != b]
    assert len(changed) == 2  # its outermost ring, and all positions


def test_tables_show_the_records(measured):
    text = (measured / "tables.md").read_text()
    first = layers(read_border(measured))[0]
    row = next(line for line in text.splitlines() if line.startswith(f"| `{first['zeros']['layer']}`"))
    assert f"| {100 * fidelity(first['zeros'])[0]:.1f} | {100 * fidelity(first['partial'])[0]:.1f} |" in row
    counts = {r["padding"]: r["shifts"][1]["changed"] for r in read_border(measured) if r["kind"] == "shifts"}
    cells = [f"{100 * n / 5:.1f} ({n})" for n in counts.values()]
    assert f"| right 1 | {' | '.join(cells)} |" in text
    assert "Top-1 accuracy" not in text


def test_a_padding_without_a_colour_of_its_own_is_drawn(measured):
    records = read_border(measured)
    for record in records:
        record["padding"] = {"partial": "mean"}.get(record["padding"], record["padding"])
    lines = {line.get_label(): line.get_color() for line in draw_fidelity(records).axes[0].lines}
    assert lines == {"zeros": "#000000", "mean": "#E69F00"}
    assert len(shown_layers(records)) == len({r["stride"] for r in records if r["kind"] == "features"})


def test_a_run_is_looked_at_as_it_was_trained(tmp_path, monkeypatch):
    """Its own data, size, preprocessing and classes; top-1 of the unshifted window is what pcpad eval counts."""
    make_stripes(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pcpad.evaluation.border.plots.plots", lambda records, folder: [])  # drawn in other tests
    here = ["--device=cpu", "--data.loader=torchvision", "--data.workers=1"]
    network = ["--model=timm/test_resnet", "--size=32", "--padding=reflect", "--seed=3", "--on_small=replicate"]
    network += ["--preprocess.crop_pct=0.8"]  # with room for a shift
    recipe = ["--recipe=textures", "--epochs=2", "--batch_size=8", "--data=data", "--out=run"]
    assert main(["train", *here, *network, *recipe]) == 0
    assert main(["border", "--run=run", "--paddings=reflect,partial", "--shifts=1", *here]) == 0
    (out,) = (tmp_path / "run").glob("border-*")
    records = read_border(out)
    for record in records:
        assert (record["padding_trained"], record["seed_trained"], record["size"]) == ("reflect", 3, 32)
        assert (record["on_small"], record["n"], record["margin"]) == ("replicate", 21, 32)
    assert main(["eval", "--run=run", "--paddings=reflect,partial", *here]) == 0
    evaluated = [json.loads(line) for line in (tmp_path / "run" / "records.jsonl").read_text().splitlines()][-2:]
    counts = [record for record in records if record["kind"] == "shifts"]
    assert [record["labelled"] for record in counts] == [21, 21]
    assert [record["shifts"][0]["top1"] for record in counts] == [record["top1"] for record in evaluated]
    assert "Top-1 accuracy" in (out / "tables.md").read_text()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--margin=40"], "margin must be a multiple of the network's stride of 32 pixels"),
        (["--paddings=zeros,partail"], "unknown padding mode 'partail'"),
        (["--paddings=zeros", "--power=0.5"], "power=0.5 has a meaning for partial padding only"),
        (["--size=16", "--margin=32", "--paddings=reflect"], "cannot run with reflect padding at size 16"),
        (["--shifts=1,1000000"], "shifts: 1000000 leaves nothing of the 64 pixels that the network sees"),
        (["--data=/nowhere/at/all"], "is neither textures, elpv, cifar10, imagenette, imagenet nor a folder"),
    ],
)
def test_mistakes_are_named_before_the_work(model, folder, tmp_path, more, message, capsys):
    assert call(model, folder, tmp_path / "out", *more) == 1
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_padding_that_does_not_fit_is_left_out(model, folder, tmp_path, capsys):
    more = ["--size=16", "--margin=32", "--paddings=circular,reflect", "--images=2", "--shifts=1"]
    assert call(model, folder, tmp_path / "out", *more) == 0
    said = capsys.readouterr().out
    assert "reflect is left out: " in said
    assert "cannot run with reflect padding at size 16" in said
    assert {record["padding"] for record in read_border(tmp_path / "out")} == {"circular"}


def test_earlier_records_are_not_written_over(model, folder, measured, capsys):
    before = (measured / "border.jsonl").read_bytes()
    assert call(model, folder, measured) == 1
    assert "holds border.jsonl of an earlier call: choose another --out" in capsys.readouterr().err
    assert (measured / "border.jsonl").read_bytes() == before


def test_a_folder_without_images_is_named(model, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert call(model, tmp_path / "empty", tmp_path / "out") == 1
    assert f"no image in {tmp_path / 'empty'}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "say what to look at: either --run DIR, or --model NAME with --weights"),
        (["--model", "resnet18"], "--model resnet18 needs --weights"),
        (["--run", "x", "--shifts", "1,-2"], "shifts must be positive whole numbers of pixels with commas between"),
        (["--run", "x", "--images", "0"], "images must be at least 1, not 0"),
        (["--run", "x", "--margin", "0"], "margin must be at least 1 pixel, not 0"),
        (["--run", "x", "--redraw", "y"], "it goes without --run and --model"),
        (["--redraw", "y", "--out", "z"], "it goes without --out and --paddings"),
        (["--redraw", "y", "--paddings", "zeros"], "it goes without --out and --paddings"),
        (["--run", "x", "--data.native"], "--data.native has no meaning here"),
        (["--run", "x", "--pading", "zeros"], "unknown option --pading; did you mean 'paddings'?"),
    ],
)
def test_mistakes_in_the_call_exit_with_2(argv, message, capsys):
    assert main(["border", *argv]) == 2
    assert message in capsys.readouterr().err


def test_records_that_cannot_be_read_are_named(measured, tmp_path, capsys):
    assert main(["border", "--redraw", str(tmp_path)]) == 1
    assert "no records at" in capsys.readouterr().err
    lines = (measured / "border.jsonl").read_text().splitlines()
    for change, message in (
        ({"schema": 9}, "records of schema 9; this pcpad reads 1"),
        ({"id": "other"}, "of 2 calls"),
    ):
        other = json.dumps(json.loads(lines[0]) | change)
        (tmp_path / "border.jsonl").write_text("\n".join([*lines, other]) + "\n")
        assert main(["border", "--redraw", str(tmp_path)]) == 1
        assert message in capsys.readouterr().err


def test_records_that_are_damaged_or_not_whole_are_named(measured, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    lines = (measured / "border.jsonl").read_text().splitlines()
    layers, shifts = ([line for line in lines if f'"kind": "{kind}"' in line] for kind in ("features", "shifts"))
    first = json.loads(lines[0])

    def changed(**change) -> list[str]:
        return [json.dumps(first | change), *lines[1:]]

    def half(key: str) -> list[str]:
        return [json.dumps({name: value for name, value in first.items() if name != key}), *lines[1:]]

    cases = [
        (lines[:-1], f"is not whole (shifts of {json.loads(lines[-1])['padding']}: no records)"),
        (lines[1:], "is not whole (layer "),
        ([*lines, lines[0]], "2 records)"),
        (shifts, "is not whole (it holds no layer)"),
        (layers, "is not whole (shifts of zeros: no records)"),
        ([], "holds records of 0 calls and has to hold those of one"),
        (["x", *lines], "line 1, is damaged (Expecting value"),
        (half("error"), "line 1, is damaged (there is no error in it)"),
        (half("id"), "line 1, is damaged (there is no id in it)"),
        (changed(error=first["error"][1:]), "line 1, is damaged (its lists of rings differ in length)"),
        (changed(kind="else"), "line 1, is damaged (its kind is 'else', not features or shifts)"),
        (changed(n=0), "line 1, is damaged (its n is 0, not a whole number from 1 on)"),
    ]
    (tmp_path / "some").mkdir()
    for content, message in cases:
        (tmp_path / "some/border.jsonl").write_text("".join(line + "\n" for line in content))
        for argv in (["border", "--redraw", "some"], ["report", "--records", "some"]):
            assert main(argv) == 1
            error = capsys.readouterr().err
            assert message in error
            assert error.endswith("measure anew: pcpad border with another --out\n")
            assert error.count("\n") == 1
    assert [path.name for path in (tmp_path / "some").iterdir()] == ["border.jsonl"]


def test_sigterm_leaves_no_empty_folder(model, folder, tmp_path, monkeypatch, capsys):
    def ends(work):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)

    monkeypatch.setattr(border, "look_at_features", ends)
    before = signal.getsignal(signal.SIGTERM)
    assert call(model, folder, tmp_path / "out") == 130
    assert "stopped" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize("folder", ["experiments/border", "experiments/border/exact"])
def test_the_published_tables_are_those_of_the_records(folder):
    folder = Path(__file__).resolve().parents[3] / folder
    published = (folder / "tables.md").read_text()
    assert tables(read_border(folder)) == published
    told = folder / "README.md"
    if told.is_file():
        rows = [line for line in told.read_text().splitlines() if line.startswith("| `")]
        assert len(rows) == 5
        assert set(rows) <= set(published.splitlines())
