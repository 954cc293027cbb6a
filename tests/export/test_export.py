"""pcpad export: what is written gives the network's numbers in the libraries that read it, or nothing is written."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import timm
import torch
from torch import nn

import pcpad
from pcpad import models as pcpad_models
from pcpad.cli import main
from pcpad.export import graphs
from tests.training.conftest import call, data  # noqa: F401


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder with the weights of a small timm network of 7 classes, drawn at random."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(3)
    net = timm.create_model("test_resnet", num_classes=7)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):  # its second norms start at 0, which would hide the blocks
            nn.init.uniform_(module.weight, 0.5, 1)
    torch.save(net.state_dict(), "w.pt")
    return tmp_path


def export(*argv: str) -> int:
    return main(["export", "--model", "timm/test_resnet", "--weights", "w.pt", "--size", "64", *argv])


@torch.no_grad()
def reference(mode: str, x: torch.Tensor) -> torch.Tensor:
    """The network as a user puts it together."""
    net = timm.create_model("test_resnet", num_classes=7).eval()
    net.load_state_dict(torch.load("w.pt"))
    pcpad.convert(net, mode)
    return net(x)


def images(n: int, size: int = 64) -> torch.Tensor:
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(5))


@torch.no_grad()
def test_timm_reads_the_folder_and_pcpad_its_padding(here, capsys):
    assert export("--padding", "partial", "--out", "mine", "--preprocess.mean", "[0.1,0.2,0.3]") == 0
    assert "batches of 2, 3, 1 random images what was written gives the same numbers" in capsys.readouterr().out
    x = images(2)
    state = torch.random.get_rng_state()
    net = pcpad.load("mine")
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not net.training
    assert torch.equal(net(x), reference("partial", x))
    assert not torch.equal(net(x), reference("zeros", x))
    plain = timm.create_model("local-dir:mine", pretrained=True).eval()
    assert torch.equal(plain(x), reference("zeros", x))
    config = timm.data.resolve_model_data_config(plain)
    assert (config["input_size"], tuple(config["mean"])) == ((3, 64, 64), (0.1, 0.2, 0.3))
    assert json.loads((here / "mine/config.json").read_text())["pcpad"]["padding"] == "partial"
    assert "pcpad.convert(model, 'partial')" in (here / "mine/README.md").read_text()
    assert (here / "mine/model.safetensors").stat().st_mode == (here / "mine/config.json").stat().st_mode


@torch.no_grad()
def test_the_power_and_what_is_done_on_small_maps_are_kept(here):
    assert export("--padding", "partial", "--power", "0.3", "--out", "power") == 0
    x = images(2)
    net = timm.create_model("test_resnet", num_classes=7).eval()
    net.load_state_dict(torch.load("w.pt"))
    pcpad.convert(net, "partial", power=0.3)
    assert torch.equal(pcpad.load("power")(x), net(x))
    assert "pcpad.convert(model, 'partial', power=0.3)" in (here / "power/README.md").read_text()
    assert export("--padding", "reflect", "--on_small", "replicate", "--out", "small", "--size", "16") == 0
    small = pcpad.load("small")
    assert small(images(1, 16)).isfinite().all()
    assert torch.equal(small(x), reference("reflect", x))


def test_a_torchvision_network(here):
    from torchvision import models

    net = models.googlenet(num_classes=5, aux_logits=False, init_weights=False, transform_input=True).eval()
    torch.save(net.state_dict(), "g.pt")
    options = ["--padding", "replicate", "--size", "64", "--out", "g"]
    assert main(["export", "--model", "googlenet", "--weights", "g.pt", *options]) == 0
    pcpad.convert(net, "replicate")
    with torch.no_grad():
        assert torch.equal(pcpad.load("g")(images(2)), net(images(2)))


@pytest.mark.filterwarnings("ignore")
def test_onnx_in_onnxruntime(here):
    runtime = pytest.importorskip("onnxruntime")
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    assert export("--padding", "partial", "--format", "onnx") == 0
    session = runtime.InferenceSession("exports/test_resnet-partial.onnx", providers=["CPUExecutionProvider"])
    for n in (1, 2, 5):
        (got,) = session.run(["logits"], {"images": images(n).numpy()})
        want, zeros = (reference(mode, images(n)).numpy() for mode in ("partial", "zeros"))
        assert np.abs(got - want).max() < 1e-4 * np.abs(want).max()
        assert np.abs(got - zeros).max() > 1e-2 * np.abs(want).max()
    stated = {p.key: p.value for p in onnx.load("exports/test_resnet-partial.onnx").metadata_props}
    assert json.loads(stated["pcpad"])["padding"] == "partial"


def test_torch_export_runs_where_pcpad_is_not(here):
    assert export("--padding", "circular", "--format", "torch", "--batch", "4", "--out", "x/net.pt2") == 0
    torch.save((images(4), reference("circular", images(4))), "pair.pt")
    code = """
import sys
sys.modules["pcpad"] = None
import torch
files = {"pcpad.json": ""}
net = torch.export.load("x/net.pt2", extra_files=files).module()
x, want = torch.load("pair.pt")
torch.testing.assert_close(net(x), want)
try:
    net(x[:3])
except Exception:
    print("fixed", files["pcpad.json"])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert '"padding": "circular"' in done.stdout
    assert done.stdout.startswith("fixed")


def test_an_export_of_other_numbers_is_not_kept(here, capsys, monkeypatch):
    real = graphs.write_torch

    def forgets(path, model, *rest):
        pcpad.convert(model, "zeros")
        real(path, model, *rest)
        pcpad.convert(model, "partial")

    monkeypatch.setattr(graphs, "write_torch", forgets)
    assert export("--padding", "partial", "--format", "torch", "--out", "out/net.pt2") == 1
    assert "what was written gives other numbers than the network: apart by" in capsys.readouterr().err
    assert not (here / "out").exists()


def test_a_graph_that_takes_one_batch_only_is_told(here, capsys, monkeypatch):
    monkeypatch.setattr(graphs, "shapes", lambda free: None)
    assert export("--format", "torch", "--out", "net.pt2") == 1
    err = capsys.readouterr().err
    assert "refuses a batch of 3 (" in err
    assert "--batch" in err
    assert not (here / "net.pt2").exists()


def test_a_network_that_cannot_be_exported(here, capsys, monkeypatch):
    class Moody(nn.Module):
        """Branches on a number that is in a tensor."""

        def __init__(self):
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, 7)

        def forward(self, x):
            y = self.conv(x).mean((-2, -1))
            return self.fc(y if y.sum() > 0 else -y)

    moody = Moody()
    torch.save(moody.state_dict(), "m.pt")
    monkeypatch.setattr(pcpad_models, "create", lambda *_, **__: Moody())
    code = main(["export", "--model", "resnet18", "--weights", "m.pt", "--format", "torch", "--out", "m.pt2"])
    err = capsys.readouterr().err
    assert (code, err.count("\n")) == (1, 1), err
    assert "torch.export cannot export this network: " in err
    assert sorted(path.name for path in here.iterdir()) == ["m.pt", "w.pt"]


@pytest.mark.parametrize(
    ("argv", "code", "message"),
    [
        (["--out", "w.pt"], 1, "w.pt exists: remove it, or choose another with --out"),
        (["--format", "onnx", "--out", "x.pt2"], 1, "the name of a file of --format onnx ends in .onnx"),
        (["--batch", "2"], 2, "--batch is for --format onnx and torch"),
        (["--batch", "0"], 2, "batch must be at least 1, not 0"),
        (["--padding", "partail"], 1, "unknown padding mode 'partail'"),
        (["--format", "onx"], 2, "did you mean 'onnx'?"),
        (["--padding", "reflect", "--size", "16"], 1, "reflect"),
        (["--out", "w.pt/below"], 1, "could not be written (Not a directory); choose another with --out"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(here, capsys, argv, code, message):
    assert export(*argv) == code
    err = capsys.readouterr().err
    assert message in err
    assert (err.startswith("pcpad: error: "), err.count("\n")) == (True, 1)
    assert list(here.rglob("*")) == [here / "w.pt"]


def test_onnx_that_is_not_installed_is_named(here, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert export("--format", "onnx") == 1
    assert "--format onnx needs onnxruntime" in capsys.readouterr().err


def test_what_is_no_whole_export_is_not_loaded(here):
    assert export("--padding", "partial", "--out", "mine") == 0
    config = json.loads((here / "mine/config.json").read_text())

    def refused(message):
        with pytest.raises(ValueError, match=message):
            pcpad.load("mine")

    with pytest.raises(ValueError, match="no exported model: there is no"):
        pcpad.load("nowhere")
    damaged = bytearray((here / "mine/model.safetensors").read_bytes())
    shutil.move(here / "mine/model.safetensors", here / "whole")
    refused("no whole export: there is no model.safetensors")
    (here / "mine/model.safetensors").write_bytes(damaged[:-9])
    refused("no intact safetensors file")
    shutil.copy(here / "whole", here / "mine/model.safetensors")
    (here / "mine/config.json").write_text(json.dumps(config | {"pcpad": config["pcpad"] | {"schema": 9}}))
    refused("states no padding of schema 1")
    (here / "mine/config.json").write_text(json.dumps({k: v for k, v in config.items() if k != "pcpad"}))
    refused("states no padding of schema 1")
    (here / "mine/config.json").write_text("{")
    refused("damaged")
    part = {k: v for k, v in config["pcpad"].items() if k not in ("power", "num_classes")}
    (here / "mine/config.json").write_text(json.dumps(config | {"pcpad": part}))
    refused(r"config\.json is damaged: it does not state num_classes, power$")
    (here / "mine/config.json").write_text(json.dumps(config))
    pcpad.load("mine")


def test_a_run_is_exported_with_its_average_and_classes(tmp_path, call, capsys):  # noqa: F811
    assert call("train", "--ema=0.5", padding="replicate") == 0
    assert call("export", run="run", **{"data.loader": None, "device": None}) == 0
    config = json.loads((tmp_path / "exports/run/config.json").read_text())
    assert config["label_names"] == ["across", "down", "none"]
    facts = config["pcpad"]
    assert (facts["padding"], facts["padding_trained"], facts["size"], facts["ema"]) == (
        "replicate",
        "replicate",
        32,
        True,
    )
    saved = torch.load(tmp_path / "run/checkpoints/last.pt", weights_only=True)
    average = {k.removeprefix("module."): v for k, v in saved["ema"].items()}
    loaded = pcpad.load(tmp_path / "exports/run").state_dict()
    assert all(torch.equal(average[k], v) for k, v in loaded.items())
    assert not all(torch.equal(saved["model"][k], v) for k, v in loaded.items())  # the control
