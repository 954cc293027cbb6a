"""study.yaml: what it comes to, against `pcpad train` itself, and what is refused."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from pcpad.arguments import train_settings
from pcpad.config import digest
from pcpad.study.plan import check_names, load_plan

GRID = {"model": ["timm/test_byobnet", "torchvision/resnet18"], "padding": ["zeros", "partial"], "seed": [0, 3]}


def test_every_run_is_what_pcpad_train_would_make_of_its_arguments(write):
    """Settings are resolved once for many runs; each must be those of its own command, digest and all."""
    write(grid=GRID | {"seed": [3], "optim.lr": [0.1, 0.2], "label_smoothing": [0.0]}, settings={"epochs": 2})
    plan = load_plan("tiny", data="/some/images")
    assert len(plan.runs) == len({run.name for run in plan.runs}) == 8
    for run in plan.runs:
        assert train_settings([*run.arguments]) == run.settings
    last = plan.runs[-1]
    assert (last.model, last.padding, last.settings.seed) == ("torchvision/resnet18", "partial", 3)
    assert (last.settings.optim.lr, last.settings.epochs, last.settings.zero_init) == (0.2, 2, True)
    assert last.settings.data.name == "/some/images"
    assert last.name == "torchvision_resnet18-partial-s3-optim.lr_0.2-label_smoothing_0.0"
    assert last.folder == Path("runs/tiny", last.name)
    assert last.varied == {"optim.lr": 0.2, "label_smoothing": 0.0}


def test_a_study_gives_arguments_to_constructors_and_optimizers(write):
    """Settings that hold mappings, in `settings` and in the grid; any other dotted name is unknown."""
    given = {
        "epochs": 1,
        "schedule": {"warmup_epochs": 0},
        "optim": {"name": "adamw", "options": {"betas": [0.8, 0.9]}},
    }
    rates = {"model_kwargs.drop_path_rate": [0.0, 0.2]}
    write(settings=given, grid=GRID | {"model": ["timm/test_byobnet"], "seed": [0]} | rates)
    runs = load_plan("tiny").runs
    assert [run.settings.model_kwargs for run in runs] == [{"drop_path_rate": rate} for rate in (0.0, 0.0, 0.2, 0.2)]
    assert {tuple(run.settings.optim.options["betas"]) for run in runs} == {(0.8, 0.9)}
    assert all(train_settings([*run.arguments]) == run.settings for run in runs)
    write(settings=given | {"ema.decay": 0.9})
    with pytest.raises(ValueError, match=r"unknown setting 'ema\.decay'"):
        load_plan("tiny")


def test_the_loader_is_left_open_by_a_plan_and_stated_by_a_run(write):
    write(settings={"epochs": 1, "schedule": {"warmup_epochs": 0}})
    (run, _) = load_plan("tiny").runs
    assert run.settings.data.loader == "auto"
    dali = train_settings([*run.arguments, "--data.loader", "dali"])
    assert run.digest("dali") == digest(dali) != run.digest("torchvision")


def test_defaults(write):
    write(grid={"model": ["timm/test_byobnet"], "padding": ["zeros"]})
    plan = load_plan("experiments/tiny")
    assert (plan.name, plan.baseline, plan.data, plan.cost, plan.paddings) == ("tiny", "zeros", None, None, ())
    assert [run.settings.seed for run in plan.runs] == [0]
    assert load_plan("experiments/tiny/study.yaml") == plan


@pytest.mark.parametrize("named", [".", "./", "study.yaml", "../tiny"])
def test_a_study_is_named_from_its_own_folder(named, write, monkeypatch):
    monkeypatch.chdir(write().resolve())
    assert load_plan(named).name == "tiny"
    with pytest.raises(ValueError, match=r"unknown study '\.\.'"):
        load_plan("..")


def test_a_table_of_trainings_belongs_to_the_study_that_trains(write):
    write()
    nothing = dict.fromkeys(("grid", "recipe", "settings"))
    evaluate = {"paddings": ["zeros"], "sizes": [32]}
    write("other", **nothing, evaluate=evaluate, tables=["training", "cross"], **{"from": "tiny"})
    with pytest.raises(ValueError, match="tables: training belong to the study 'tiny'"):
        load_plan("other")


def test_the_runs_of_another_study(write):
    write(data="/images", cost={"how": "measured", "unit": "core hours", "hours": 0.5})
    write(
        "cross",
        **dict.fromkeys(("grid", "recipe", "settings")),
        evaluate={"paddings": ["zeros", "partial"], "sizes": [32, "native:64"]},
        tables=["cross"],
        **{"from": "tiny"},
    )
    cross, tiny = load_plan("cross"), load_plan("tiny")
    assert cross.runs == tiny.runs
    assert (cross.source, cross.data, cross.sizes) == (tiny.folder, "/images", ("32", "native:64"))
    assert tiny.cost.hours == {"timm/test_byobnet": 0.5}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"titel": "x"}, "unknown key 'titel'; did you mean 'title'?"),
        ({"title": None}, "title: is missing"),
        ({"recipe": None}, "recipe: is missing"),
        ({"recipe": "papr"}, "unknown recipe 'papr': choose from"),
        ({"grid": None}, "grid: needs model and padding"),
        ({"grid": GRID | {"sed": [1]}}, "unknown setting 'sed'; did you mean 'seed'?"),
        ({"grid": GRID | {"optim.rl": [1]}}, "unknown setting 'optim.rl'; did you mean optim.lr?"),
        ({"grid": GRID | {"seed": 5}}, "grid.seed: must be a list of values, not 5"),
        ({"grid": GRID | {"seed": []}}, "grid.seed: must be a list of values, not []"),
        ({"grid": GRID | {"seed": [1, 1]}}, "grid.seed: [1] stands there twice"),
        ({"grid": GRID | {"seed": [-1]}}, "seed must be in 0..2147483647, not -1"),
        ({"grid": GRID | {"seed": ["a"]}}, "grid.seed: 'a' must be a whole number"),
        ({"grid": GRID | {"padding": [0]}}, "grid.padding: 0 must be the name of a mode"),
        ({"grid": GRID | {"model": ["resnet18"]}}, "grid.model: 'resnet18' must name its library: torchvision/NAME"),
        ({"grid": GRID | {"accumulate": [1, 0]}}, "accumulate must be at least 1, not 0"),
        ({"settings": {"epochs": 0}}, "epochs must be at least 1, not 0"),
        ({"recipe": "adapt", "settings": {"epochs": 0, "weights": "w.pt"}}, "epochs: 0 trains nothing, and a study is"),
        ({"settings": {"epochs": "many"}}, "epochs: Expected a whole number"),
        ({"settings": {"epcohs": 1}}, "unknown setting 'epcohs'; did you mean 'epochs'?"),
        ({"settings": {"seed": 1}}, "settings.seed: the grid says that"),
        ({"settings": {"gpus": 2}}, "gpus: is no part of settings or grid"),
        ({"settings": [1]}, "settings: must hold `name: value` lines"),
        ({"baseline": "zeroes"}, "'zeroes' is no padding of the study: choose from zeros, partial; did you mean"),
        ({"evaluate": {"paddings": ["zeros"]}}, "evaluate.sizes: must be a list of values, not None"),
        ({"evaluate": {"paddings": ["zeros"], "sizes": ["big"]}}, "evaluate.sizes: 'big' must be a whole number"),
        ({"evaluate": {"padding": ["zeros"]}}, "'evaluate.padding'; did you mean 'paddings'?"),
        ({"evaluate": {"paddings": ["own", "zeros"], "sizes": [32]}}, "evaluate.paddings: own stands alone"),
        ({"evaluate": {"paddings": ["zeros"], "sizes": [32, "32"]}}, "evaluate.sizes: ['32'] stands there twice"),
        ({"evaluate": {"paddings": "own", "sizes": [32]}, "tables": ["cross"]}, "cross needs evaluate.paddings by"),
        ({"published": "p.csv"}, "published: there is no experiments/tiny/p.csv"),
        ({"tables": []}, "tables: must be a list of training"),
        ({"tables": ["trainning"]}, "unknown key 'tables: trainning'; did you mean 'training'?"),
        ({"tables": ["cross"]}, "tables: cross need evaluate:"),
        ({"settings": {"epochs": 2, "power": 0.5}}, "power=0.5 has a meaning for partial padding only, not for zeros"),
        ({"tables": ["published"]}, "tables: published needs published: FILE"),
        ({"cost": {"how": "guessed", "hours": 1}}, "cost.how: must be computed or measured, not 'guessed'"),
        ({"cost": {"how": "computed", "hours": {"timm/x": 1}}}, "unknown key 'cost.hours.timm/x'"),
        ({"cost": {"how": "computed", "hours": 0}}, "cost.hours.timm/test_byobnet: must be a number of hours, not 0"),
        ({"title": ""}, "title: must be text, not ''"),
        ({"baseline": ["zeros"]}, "baseline: must be text, not ['zeros']"),
        ({"from": 3}, "from: must be text, not 3"),
        ({"tables": ["training", "training"]}, "tables: one stands there twice"),
        ({"from": "other"}, "grid and recipe and settings: belongs to the study 'other'"),
    ],
)
def test_mistakes_are_named_with_the_file(changes, message, write):
    write(**changes)
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        load_plan("tiny")
    assert str(caught.value).startswith("experiments/tiny/study.yaml: ")


@pytest.mark.parametrize(
    "changes", [{"tables": ["cross"]}, {"grid": None, "recipe": None, "settings": None, "from": "a"}]
)
def test_a_key_without_a_value_is_a_key_that_is_missing(changes, write):
    write("a")
    file = write(**changes) / "study.yaml"
    file.write_text(file.read_text() + "evaluate:\n")
    with pytest.raises(ValueError, match=r"tiny/study\.yaml: .*evaluate:"):
        load_plan("tiny")


OTHER = dict.fromkeys(("grid", "recipe", "settings")) | {"tables": ["cross"]}
OTHER |= {"evaluate": {"paddings": ["zeros", "partial"], "sizes": [32]}}


def test_studies_that_take_each_other_s_runs_are_named(write):
    """The study itself, or one that has no runs of its own: no search without an end."""
    for name, source in (("one", "one"), ("two", "three"), ("three", "two")):
        write(name, **OTHER, **{"from": source})
    for name, source, its in (("one", "one", "one"), ("two", "three", "two")):
        message = f"experiments/{name}/study.yaml: from: '{source}' has no runs of its own, but those of '{its}'"
        with pytest.raises(ValueError, match=message):
            load_plan(name)


def test_a_key_that_stands_there_twice_is_named(write):
    path = write() / "study.yaml"
    path.write_text(f"{path.read_text()}title: another\n")
    with pytest.raises(ValueError, match=r"study\.yaml is not YAML \(line \d+: 'title' stands there twice\)"):
        load_plan("tiny")


@pytest.mark.parametrize(("stated", "other"), [(None, None), ("/images", None), ("/b", "/b")])
def test_a_study_may_evaluate_on_other_images_than_its_runs_were_trained_with(stated, other, write):
    write(data="/images")
    write("cross", **OTHER, **{"from": "tiny", "data": stated})
    assert load_plan("cross").other_images == other
    assert load_plan("cross", "/elsewhere").other_images == (
        other and "/elsewhere"
    )  # the same images, in another place


def test_an_unknown_study_lists_those_there_are(write):
    with pytest.raises(ValueError, match="unknown study 'tinny': no folder of experiments/ here has"):
        load_plan("tinny")
    write()
    with pytest.raises(ValueError, match="unknown study 'tinny': choose from tiny, or a path; did you mean 'tiny'"):
        load_plan("tinny")
    Path("experiments/tiny/study.yaml").write_text("title: [1\n")
    with pytest.raises(ValueError, match=r"study\.yaml is not YAML \(line 2"):
        load_plan("tiny")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": ["torchvision/resnet5O"]}, "study.yaml: unknown model 'torchvision/resnet5O'; did you mean"),
        ({"padding": ["zeros", "partail"]}, "study.yaml: unknown padding mode 'partail': choose from"),
        ({"padding": ["zero"]}, "study.yaml: padding 'zero': a study calls it zeros"),
    ],
)
def test_names_are_looked_up_where_they_live(changes, message, write):
    write(grid=GRID | changes, baseline=(changes.get("padding") or ["zeros"])[0])
    with pytest.raises(ValueError, match=re.escape(message)):
        check_names(load_plan("tiny"))


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (
            "cutt:3@48",
            "sizes must be positive integers, native:N for images of their own aspect ratio, or KIND:WIDTH@N",
        ),
        ("cut:24@48", "cut:24@48 leaves nothing of 48 pixels"),
    ],
)
def test_sizes_are_looked_at_before_the_training(size, message, write):
    write(evaluate={"paddings": ["zeros"], "sizes": [48, size]})
    with pytest.raises(ValueError, match=f"^experiments/tiny/study.yaml: {re.escape(message)}"):
        check_names(load_plan("tiny"))
    write(evaluate={"paddings": ["zeros"], "sizes": [48, "cut:23@48", "shift:30@48"]})
    check_names(load_plan("tiny"))


def test_a_plan_needs_no_torch(write):
    write()
    code = "import sys; from pcpad.study.plan import load_plan; load_plan('tiny'); print('torch' in sys.modules)"
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONPATH": str(root)}
    )
    assert done.stdout == "False\n"
