"""make test-zoo: resumes, shards, and notices when the code has changed."""

import pytest

from tests.zoo import run
from tests.zoo.dies import dies

NAMES = ["timm/test_resnet", "timm/test_vit", "timm/test_efficientnet"]


@pytest.fixture
def fake(monkeypatch):
    """The runner with three models and no work in them; returns the list of models that were worked on."""
    worked = []

    def spread(function, calls, workers, batch):
        for call in calls:
            if function is run.work:
                worked.append(call[0])
                row = dict.fromkeys(run.COLUMNS, "") | {"model": call[0], "code": call[1], "seconds": "1.0"}
                errors = {f"{kind}_error_{mode}": "1e-15" for kind in ("layer", "result") for mode in run.MODES}
                padded = call[0] != "timm/test_vit"
                status = run.PROVED if padded else run.NOTHING
                yield row | errors | {"convs": 9, "converted": 4 * padded, "status": status, "dtype": "float64"}
            else:
                yield {"model": call[0], "parameters": len(call[0]), "convs": 9, "converted": 4, "family": call[0]}

    from tests.zoo import models

    monkeypatch.setattr(run, "spread", spread)
    monkeypatch.setattr(models, "all_models", lambda: [models.Entry(name, "timm") for name in NAMES])
    return worked


def test_done_rows_are_not_worked_on_again(fake, tmp_path, monkeypatch, capsys):
    table = tmp_path / "table.csv"
    assert run.main(["--table", str(table)]) == 0
    assert sorted(fake) == sorted(NAMES)
    assert run.main(["--table", str(table)]) == 0
    assert len(fake) == 3
    assert set(run.read_table(table)) == set(NAMES)
    assert '"proved": 2' in (tmp_path / "summary.json").read_text()
    monkeypatch.setattr(run, "code_digest", lambda: "another")
    run.main(["--table", str(table)])
    assert len(fake) == 6
    capsys.readouterr()


def test_shards_share_the_models(fake, tmp_path, capsys):
    for shard in ("0/2", "1/2"):
        run.main(["--table", str(tmp_path / shard[0]), "--shard", shard])
    assert sorted(fake) == sorted(NAMES)
    # broken off after one model, a shard goes on with its own
    rows = run.read_table(tmp_path / "0")
    first = next(iter(rows))
    run.write_table(tmp_path / "0", {first: rows[first]})
    fake.clear()
    run.main(["--table", str(tmp_path / "0"), "--shard", "0/2"])
    assert sorted([first, *fake]) == sorted(rows)
    with pytest.raises(SystemExit):
        run.main(["--shard", "2/2"])
    assert "--shard 2/2: give i/n with i from 0 to n-1" in capsys.readouterr().err


def test_a_killed_process_costs_one_model():
    results = list(run.spread(dies, [("a",), ("b",), ("c",)], 1, 3))
    assert results == ["a", run.Killed(("b",)), "c"]


def test_a_killed_process_is_a_row_that_is_tried_again(fake, tmp_path, monkeypatch, capsys):
    spread = run.spread

    def killing(function, calls, workers, batch):
        for result in spread(function, calls, workers, batch):
            yield run.Killed((NAMES[0], "x")) if result["model"] == NAMES[0] and function is run.work else result

    monkeypatch.setattr(run, "spread", killing)
    assert run.main(["--table", str(tmp_path / "table.csv")]) == 1
    rows = run.read_table(tmp_path / "table.csv")
    assert rows[NAMES[0]]["status"] == "ERROR: its process was killed; is there enough memory?"
    assert "its process was killed" in capsys.readouterr().out
    fake.clear()
    monkeypatch.setattr(run, "spread", spread)
    assert run.main(["--table", str(tmp_path / "table.csv")]) == 0
    assert fake == [NAMES[0]]


def test_a_model_whose_survey_is_killed_is_left_out_and_told(fake, tmp_path, monkeypatch, capsys):
    spread = run.spread

    def killing(function, calls, workers, batch):
        for result in spread(function, calls, workers, batch):
            yield run.Killed((NAMES[0],)) if result["model"] == NAMES[0] and function is run.survey else result

    monkeypatch.setattr(run, "spread", killing)
    assert run.main(["--table", str(tmp_path / "table.csv")]) == 1
    assert NAMES[0] not in run.read_table(tmp_path / "table.csv")
    assert f"{NAMES[0]}: ERROR: its process was killed" in capsys.readouterr().err
    monkeypatch.setattr(run, "spread", spread)
    assert run.main(["--table", str(tmp_path / "table.csv")]) == 0


def test_a_failure_is_an_exit_code(fake, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(run, "PROVED", "proved by others")
    assert run.main(["--table", str(tmp_path / "table.csv")]) == 0
    monkeypatch.setattr(run, "PROVED", "proved")
    assert run.main(["--table", str(tmp_path / "table.csv")]) == 1
    assert '"timm/test_resnet": "proved by others"' in capsys.readouterr().out


def test_the_digest_follows_code_and_not_words(tmp_path, monkeypatch):
    files = {"pcpad/padding/surgery.py": "from pcpad.padding.partial import x\n", "pcpad/padding/partial.py": "x = 1\n"}
    files |= {"pcpad/padding/sizes.py": "", "pcpad/padding/depthwise.py": ""}
    files |= {f"tests/zoo/{name}.py": "" for name in run.PROOF}
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(run, "ROOT", tmp_path)
    assert run.surgery_files() == ["depthwise", "partial", "sizes", "surgery"]
    first = run.code_digest()
    (tmp_path / "pcpad/padding/partial.py").write_text('"""Words."""\nx = 1  # and more words\n')
    assert run.code_digest() == first
    (tmp_path / "pcpad/padding/partial.py").write_text("x = 2\n")
    assert run.code_digest() != first
