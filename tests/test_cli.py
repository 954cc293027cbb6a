"""The command line's settings: layers, messages, exit codes. Training itself is tested elsewhere."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pcpad.arguments import COMMANDS, option_names, parse
from pcpad.cli import main, train_settings
from pcpad.config import (
    BorderSettings,
    DataSettings,
    EvalSettings,
    ExportSettings,
    ListSettings,
    OptimSettings,
    PackSettings,
    PrepareSettings,
    PreprocessSettings,
    StudyRunSettings,
    TrainSettings,
    differences,
    digest,
    to_dict,
    yaml_text,
)

ALL = "train, adapt, eval, border, export, inspect, data list, data prepare, data pack, data check, study run, "
ALL += "study table, report, doctor"
CONFIGS = sorted((Path(__file__).resolve().parents[1] / "configs").glob("*.yaml"))


def test_defaults_without_imagenet(monkeypatch):
    settings = train_settings([])
    assert (settings.data.name, settings.recipe) == ("textures", "textures")
    monkeypatch.setenv("IMAGENET", "/somewhere")
    settings = train_settings([])
    assert (settings.data.name, settings.recipe, settings.epochs) == ("imagenet", "paper", 100)
    assert train_settings(["--data", "textures"]).recipe == "textures"
    assert train_settings(["--data.name", "/my/images"]).recipe == "paper"


def test_layers_base_recipe_config_command_line(tmp_path):
    own = tmp_path / "own.yaml"
    own.write_text("epochs: 7\nbatch_size: 9\noptim:\n  lr: 1e-3\namp: off\n")
    settings = train_settings(["--config", str(own), "--batch_size", "11", "--recipe", "paper"])
    assert (settings.epochs, settings.batch_size, settings.optim.lr) == (7, 11, 0.001)
    assert settings.optim.momentum == 0.9
    assert settings.schedule.step_epochs == 30
    assert settings.amp == "off"  # a word, not YAML 1.1's false


def test_paper_recipe_is_the_papers():
    """The setting of the reference script: every parameter decays, no warm-up, resize 256 and crop 224."""
    s = train_settings(["--recipe", "paper"])
    assert (s.optim.lr, s.optim.momentum, s.optim.weight_decay, s.optim.decay) == (0.1, 0.9, 1e-4, "all")
    assert (s.schedule.name, s.schedule.step_epochs, s.schedule.gamma, s.schedule.warmup_epochs) == ("step", 30, 0.1, 0)
    assert (s.epochs, s.batch_size, s.size, s.label_smoothing, s.ema) == (100, 192, 224, 0, None)
    assert s.preprocess.crop_pct == 224 / 256
    assert (s.augment.scale, s.augment.hflip) == ((0.08, 1.0), 0.5)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_every_config_file_loads(path):
    settings = parse(TrainSettings, [], "train", [CONFIGS[0].parent / "base.yaml", path])
    assert isinstance(settings, TrainSettings)
    assert path.read_text().startswith("#")  # headed by what it is for
    if path.stem != "base":
        head = path.read_text()
        assert all(word in head for word in ("command:", "cost:", "expected:"))


def test_base_states_every_recipe_key_at_its_default():
    base = yaml.safe_load((CONFIGS[0].parent / "base.yaml").read_text().replace("amp: off", "amp: 'off'"))
    defaults = to_dict(TrainSettings())
    aside = {"model", "padding", "power", "on_small", "reset_head", "data", "preprocess", "seed"}
    aside |= {"sync_bn", "deterministic"}
    assert set(base) == set(to_dict(TrainSettings(), result_only=True)) - aside
    base["optim"]["weight_decay"] = float(base["optim"]["weight_decay"])  # YAML 1.1 takes 1e-4 for a word
    assert base == {k: defaults[k] for k in base}


def test_print_config_can_be_read_back(capsys, tmp_path):
    assert main(["train", "--optim.lr", "0.3", "--print_config"]) == 0
    text = capsys.readouterr().out
    (tmp_path / "c.yaml").write_text(text)
    again = parse(TrainSettings, [], "train", [tmp_path / "c.yaml"])
    assert again.optim.lr == 0.3
    assert yaml_text(again) == text


def test_flags_need_no_value():
    settings = train_settings(["--reset_head", "--compile", "--channels_last", "false"])
    assert (settings.reset_head, settings.compile, settings.channels_last) == (True, True, False)
    assert parse(EvalSettings, ["--run", "x", "--ema"], "eval").ema is True


def test_help_explains_every_option(capsys):
    kinds = {
        "train": TrainSettings,
        "eval": EvalSettings,
        "border": BorderSettings,
        "study run": StudyRunSettings,
        "export": ExportSettings,
    }
    kinds |= {"data list": ListSettings, "data prepare": PrepareSettings, "data pack": PackSettings}
    for command, kind in kinds.items():
        assert main([*command.split(), "--help"]) == 0
        text = " ".join(capsys.readouterr().out.split())
        for name in option_names(kind):
            after = text.split(f" --{name} ")[-1]
            assert "(type:" in after[:400], name
            explained = after.split("(type:")[0].split(maxsplit=1)
            assert len(explained) > 1, f"--{name} has no explanation"
            assert len(explained[1]) > 8, f"--{name} has no explanation"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["trian"], f"unknown command 'trian': choose from {ALL}; did you mean 'train'?"),
        (["data", "chek"], f"unknown command 'data chek': choose from {ALL}; did you mean 'data check'?"),
        (
            ["data", "prepare"],
            "say which data set: pcpad data prepare NAME, one of textures, elpv, cifar10, imagenette",
        ),
        (["data", "prepare", "imagnet"], "unknown data set 'imagnet': choose from textures, elpv"),
        (["data", "list", "cifar100"], "did you mean 'cifar10'?"),
        (["data", "prepare", "textures", "--out", "x"], "textures are made below the cache"),
        (["data", "prepare", "elpv", "--archives", "x"], "--archives: elpv comes in none"),
        (["data", "prepare", "elpv", "--workers", "0"], "workers must be at least 1, not 0"),
        (["studies"], f"unknown command 'studies': choose from {ALL}"),
        (
            ["train", "--progressive.start", "32"],
            "progressive.start=32 would be used in no epoch: --progressive.to_epoch",
        ),
        (["train", "--rendezvous", "a:1"], "rendezvous=a:1 is where several nodes meet: --nodes N says how many"),
        (["study", "run"], "say which study: pcpad study run NAME"),
        (["study", "run", "x", "--jobs", "0"], "jobs must be at least 1, not 0"),
        (["study", "run", "x", "--gpu", "2"], "unknown option --gpu; did you mean 'gpus'?"),
        (["study", "table"], "say which study: pcpad study table NAME"),
        (["report", "x", "--out", "x.pdf"], "out must be a file that ends in .html, not 'x.pdf'"),
        (["report", "--sutdy", "x"], "unknown option --sutdy; did you mean 'study'?"),
        (["train", "--modle", "x"], "unknown option --modle; did you mean 'model'?"),
        (["train", "--lr", "1"], "unknown option --lr; did you mean optim.lr?"),
        (
            ["train", "--amp", "bf61"],
            "amp: Expected one of 'off', 'bf16', 'fp16'. Got value: bf61; did you mean 'bf16'?",
        ),
        (["train", "--epochs", "many"], "epochs: Expected a whole number. Got value: many"),
        (["train", "--augment.scale", "0.3"], "augment.scale: Expected a list such as [0.5,1.0]. Got value: 0.3"),
        (["train", "--epochs", "0"], "epochs must be at least 1, not 0"),
        (["train", "--optim.lr", "-1"], "optim.lr must be positive and finite, not -1"),
        (["train", "--augment.scale", "[0.5,0.2]"], "augment.scale must be a range within 0..1"),
        (["train", "--schedule.warmup_epochs", "200"], "schedule.warmup_epochs must be at most epochs"),
        (
            ["train", "--data.name", "textures", "--epochs", "1"],  # the recipe's warmup of two epochs
            "epochs (1), not 2: more --epochs, or a shorter warmup with them: --schedule.warmup_epochs 0.1",
        ),
        (["train", "--gpus", "0"], "gpus must be at least 1, not 0"),
        (["train", "--nodes", "2"], "nodes=2 need --rendezvous host:port, the same on each of them"),
        (["train", "resnet50"], "unexpected argument 'resnet50'"),
        (["train", "--recipe", "papr"], "unknown recipe 'papr': choose from"),
        (["train", "--recipe", "no/such.yaml"], "recipe 'no/such.yaml': no such file"),
        (["train", "--config", "nofile.yaml"], "--config nofile.yaml: no such file"),
        (["train", "--resume", "no/run"], "--resume no/run: no run there"),
        (["eval"], "either --run DIR, or --model NAME with --weights"),
        (["eval", "--model", "resnet50"], "--model resnet50 needs --weights"),
        (["eval", "--run", "x", "--size", "1", "--sizes", "1,2"], "give --size or --sizes, not both"),
        (["inspect"], "say which model: pcpad inspect NAME"),
        (["inspect", "resnet50", "--size", "0"], "size must be at least 1 pixel, not 0"),
        (["inspect", "resnet50", "--sise", "9"], "unknown option --sise; did you mean size?"),
    ],
)
def test_mistakes_are_one_line_and_exit_2(argv, message, capsys):
    assert main(argv) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.startswith("pcpad: error: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize("option", ["recipe", "weights"])
@pytest.mark.parametrize("place", ["line", "file"])
def test_resume_refuses_what_it_would_ignore(option, place, tmp_path, capsys):
    """What is the run's own may stand there, as in a job that begins a run or goes on with it by the same words."""
    run, mine = tmp_path / "run", tmp_path / "mine.yaml"
    run.mkdir()
    mine.write_text(f"{option}: other\nout: {tmp_path / 'elsewhere'}\n")
    given = [f"--{option}", "other"] if place == "line" else ["--config", str(mine)]
    for own, told in (("", "the run has none"), (f"{option}: paper\n", "the run has paper")):
        (run / "settings.yaml").write_text(f"epochs: 3\n{own}")
        assert main(["train", "--resume", str(run), *given]) == 2
        assert f"--{option} other cannot be given with it, {told}" in capsys.readouterr().err
    (run / "settings.yaml").write_text(f"epochs: 3\n{option}: other\n")
    settings = train_settings(["--resume", str(run), *given, "--optim.lr", "0.5"])
    assert (settings.out, getattr(settings, option), settings.optim.lr) == (str(run), "other", 0.5)
    over = train_settings(["--config", str(mine), f"--{option}=other", "--resume", str(run)])
    assert over.out == str(run)


def test_resume_stays_in_its_folder(tmp_path, capsys):
    (tmp_path / "settings.yaml").write_text("epochs: 3\n")
    for argv in (["--out", "x"], ["--out=x"]):
        assert main(["train", "--resume", str(tmp_path), *argv]) == 2
        assert "goes on in the run's own folder: --out cannot be given with it" in capsys.readouterr().err


def test_a_missing_harness_is_named(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "jsonargparse", None)
    assert main(["train", "--help"]) == 1
    assert "jsonargparse is not installed: pcpad train needs the harness" in capsys.readouterr().err


def test_unknown_key_in_yaml_is_named(tmp_path, capsys):
    for text, message in (
        ("optimm:\n  lr: 1\n", "unknown setting 'optimm'; did you mean 'optim'?"),
        ("epcohs: 3\n", "unknown setting 'epcohs'; did you mean 'epochs'?"),
        ("epochs: [1\n", "c.yaml is not YAML (line 2"),
        ("optim:\n  rl: 1\n", "unknown setting 'optim.rl'; did you mean optim.lr?"),
        ("- 1\n", "must hold settings"),
        ("", "must hold settings"),
    ):
        (tmp_path / "c.yaml").write_text(text)
        assert main(["train", "--config", str(tmp_path / "c.yaml")]) == 2
        err = capsys.readouterr().err
        assert message in err
        assert "Traceback" not in err


def test_digest_covers_what_changes_the_result_only():
    base = TrainSettings()
    same = TrainSettings(out="/x", device="cpu", compile=True, data=DataSettings(workers=3, name="/y"))
    assert digest(base) == digest(same)
    for other in (
        TrainSettings(seed=1),
        TrainSettings(padding="zeros"),
        TrainSettings(optim=OptimSettings(lr=0.2)),
        TrainSettings(data=DataSettings(loader="torchvision")),
        TrainSettings(preprocess=PreprocessSettings(crop_pct=0.9)),
    ):
        assert digest(other) != digest(base)


def test_differences_are_named_by_their_dotted_key():
    old, new = to_dict(TrainSettings()), to_dict(TrainSettings(seed=3, optim=OptimSettings(lr=0.2)))
    assert differences(old, new) == ["optim.lr: 0.1 -> 0.2", "seed: 0 -> 3"]
    assert differences(old, old) == []


def test_dashes_in_the_name_of_an_option_are_underscores(capsys):
    for argv in (["--label-smoothing", "0.3"], ["--label-smoothing=0.3"], ["--label_smoothing", "0.3"]):
        assert main(["train", *argv, "--print-config"]) == 0
        assert "label_smoothing: 0.3" in capsys.readouterr().out
    assert main(["train", "--label-smooting", "0.3"]) == 2
    assert "unknown option --label-smooting; did you mean 'label_smoothing'?" in capsys.readouterr().err


@pytest.mark.parametrize("argv", [["--help"], ["train", "--print_config"], ["data", "list"]])
def test_a_reader_that_goes_away_ends_it_without_a_message(argv):
    """As in `pcpad ... | head`."""
    read, write = os.pipe()
    os.close(read)
    try:
        done = subprocess.run([sys.executable, "-m", "pcpad", *argv], stdout=write, stderr=subprocess.PIPE, text=True)
    finally:
        os.close(write)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_output_that_cannot_be_written_is_said():
    with open("/dev/full", "w") as full:
        call = [sys.executable, "-m", "pcpad", "--help"]
        done = subprocess.run(call, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    assert done.stderr == "pcpad: error: [Errno 28] No space left on device\n"


@pytest.mark.parametrize(
    ("argv", "code"), [(["data", "--help"], 0), (["study", "-h"], 0), (["data"], 2), (["study"], 2)]
)
def test_commands_of_two_words_are_listed_by_the_first(argv, code, capsys):
    assert main(argv) == code
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    listed = [name for name in COMMANDS if any(line.startswith(f"{name} ") for line in lines)]
    assert listed == [name for name in COMMANDS if name.startswith(f"{argv[0]} ")]


def test_help_of_a_command_can_be_asked_for_first(capsys):
    assert main(["help", "study", "table"]) == 0
    first = capsys.readouterr().out
    assert main(["study", "table", "--help"]) == 0
    assert capsys.readouterr().out == first
    assert main(["help"]) == 0
    assert "pcpad COMMAND --help" in capsys.readouterr().out


def test_help_of_adapt_has_the_defaults_of_its_recipe(capsys):
    assert main(["adapt", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert text.startswith("usage: pcpad adapt ")
    recipe = yaml.safe_load((Path(__file__).parents[1] / "configs/adapt.yaml").read_text())
    wanted = {"epochs": recipe["epochs"], "adapt.recalibrate": recipe["adapt"]["recalibrate"]}
    wanted |= {"adapt.distill": recipe["adapt"]["distill"], "optim.lr": recipe["optim"]["lr"]}
    for name, value in (wanted | {"weights": "pretrained", "recipe": "adapt"}).items():
        after = text.split(f" --{name} ")[-1]
        assert f"default: {value})" in after[: after.index("default:") + 60], name


def test_ctrl_c_before_a_command_has_begun(monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("pcpad.cli.parse", interrupted)
    assert main(["eval", "--run", "x"]) == 130
    assert capsys.readouterr().err == "pcpad: error: stopped\n"
