"""The command `pcpad inspect`: its table, its JSON, and mistakes."""

import json

import pytest

from pcpad.cli import main


def test_inspect_prints_a_table_and_writes_json(tmp_path, capsys):
    out = tmp_path / "new" / "found.json"
    assert main(["inspect", "resnet18", "--padding", "reflect", "--size", "64", "--out", str(out)]) == 0
    text = capsys.readouterr().out
    assert "ResNet at 64x64, reflect padding: 17 of 20 convolutions would be converted, 3 pad nothing" in text
    assert "smallest square input for reflect: 33 pixels" in text
    assert json.loads(out.read_text())["smallest_input"] == 33
    assert main(["inspect", "timm/test_efficientnet", "--search", "false"]) == 0
    assert "EfficientNet at 160x160, partial padding" in capsys.readouterr().out
    assert main(["inspect", "--model", "deeplabv3_mobilenet_v3_large", "--padding", "reflect", "--search=false"]) == 0
    assert "map too small, needs 37x37" in capsys.readouterr().out
    assert main(["inspect", "raft_small"]) == 0  # two images
    assert "RAFT on the given inputs, partial padding: 22 of 53" in capsys.readouterr().out
    assert main(["inspect", "ssdlite320_mobilenet_v3_large"]) == 0  # its boxes need real numbers
    captured = capsys.readouterr()
    assert "SSD on the given inputs, partial padding: 32 of 98" in captured.out
    assert "run for real" in captured.err


@pytest.mark.parametrize(("dilated", "stride", "padding", "side"), [("false", 2, 1, 14), ("true", 1, 2, 28)])
def test_inspect_passes_arguments_to_the_models_constructor(dilated, stride, padding, side, tmp_path):
    """torchvision's third stage, dilated, keeps the 28 pixels of the second and pads two from its second block on."""
    argv = ["resnet50", "--search", "false", "--out", str(tmp_path / "found.json")]
    argv += ["--model_kwargs.replace_stride_with_dilation", f"[false, {dilated}, false]"]
    assert main(["inspect", *argv]) == 0
    found = json.loads((tmp_path / "found.json").read_text())
    layers = {layer["name"]: layer for layer in found["surgery"]["layers"]}
    maps = {layer["name"]: layer["maps"] for layer in found["geometry"]}
    assert layers["layer3.0.conv2"]["stride"] == [stride, stride]
    assert layers["layer3.1.conv2"]["padding"] == [padding, padding]
    assert maps["layer3.1.conv2"] == [[side, side]]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["resnet50", "--model_kwargs.dilation", "2"], "torchvision/resnet50 does not take 'dilation'"),
        (["resnet5O"], "unknown model 'resnet5O'; did you mean 'resnet50'?"),
        (["resnet18", "--padding", "partail"], "unknown padding mode 'partail'"),
        (["vgg11", "--size", "16"], "VGG does not run at 16x16"),
        (["resnet18", "--out", "/proc/nowhere/x.json"], "/proc/nowhere"),
        (["resnet18", "--out", "/tmp"], "--out /tmp is a folder"),
    ],
)
def test_inspect_names_mistakes(argv, message, capsys):
    assert main(["inspect", *argv]) == 1
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
