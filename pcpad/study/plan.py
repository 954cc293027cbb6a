"""A study as its study.yaml states it: the grid of runs with the settings of each, what is evaluated, what it costs."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from pcpad.arguments import load_yaml
from pcpad.config import nearest
from pcpad.study.grid import NO_DATA, Run, known_keys, mapping, runs_of, wrong

HOME = Path("experiments")
FILE = "study.yaml"
KEYS = ("title", "question", "from", "recipe", "data", "settings", "grid", "baseline", "evaluate", "published", "cost")
KEYS += ("tables",)
OWN = "own"
"""In evaluate.paddings: each run with the padding that it was trained with."""
TABLES = ("training", "published", "cross", "resolution")


@dataclass(frozen=True)
class Cost:
    """What one run costs: hours of a unit such as ``GPU hours``, by model; `how` is ``computed`` or ``measured``."""

    how: str
    unit: str
    hours: dict[str, float]


@dataclass(frozen=True)
class Plan:
    """A study.

    Attributes:
        folder: holds study.yaml, README.md and what is made. file: study.yaml.
        data: images to train and evaluate on; None where the study names none. given: those that stand for the study's
            own, if any. other_images: those that it states where its runs were trained on others.
        runs: to train, in the order of the grid; of another study where `source`, the folder of that, is given.
        paddings, sizes: to evaluate every run with, `OWN` for its own padding; empty where nothing is evaluated beyond
            what the training does.
        published: CSV of published numbers, or None.
    """

    name: str
    folder: Path
    title: str
    question: str
    data: str | None
    given: str | None
    other_images: str | None
    runs: tuple[Run, ...]
    source: Path | None
    baseline: str
    paddings: tuple[str, ...]
    sizes: tuple[str, ...]
    published: Path | None
    cost: Cost | None
    tables: tuple[str, ...]

    @property
    def call(self) -> str:
        """The study as a command names it."""
        return call_of(self.folder)

    @property
    def source_call(self) -> str | None:
        """The same of the study whose runs are taken."""
        return self.source and call_of(self.source)

    @property
    def data_option(self) -> str:
        """`` --data DIR`` where a command that trains needs to be told the images, else nothing."""
        if self.given is None and self.data is not None:
            return ""
        return f" --data {shlex.quote(self.given or NO_DATA)}"

    def cells(self, run: Run) -> list[tuple[str, str]]:
        """Padding and size of each evaluation of a run."""
        paddings = (run.padding,) if self.paddings == (OWN,) else self.paddings
        return [(padding, size) for padding in paddings for size in self.sizes]

    def label(self, run: Run) -> str:
        """The network, with its library where both have one of that name, and what else is varied."""
        short = run.model.partition("/")[2]
        alike = {other.model for other in self.runs if other.model.partition("/")[2] == short}
        name = short if len(alike) == 1 else run.model
        return " ".join([name, *(f"{key}={value}" for key, value in run.varied.items())])


def load_plan(study: str, data: str | None = None) -> Plan:
    """Read and check a study.

    Args:
        study: a folder of experiments/ by name, or a path.
        data: images in place of the study's.

    Raises:
        ValueError: there is no such study, or its file holds what cannot be run; names the file, the value and the way
            out. What needs the model libraries is looked at by `check_names`.
    """
    folder, given = find(study), data
    file = folder / FILE
    content = read(file)
    for key in ("title", "question", "tables"):
        wrong(key in content, file, f"{key}: is missing")
    name = folder.resolve().name
    source, stated, other_images = content.get("from"), content.get("data"), None
    for key in ("title", "question", "from", "data", "baseline"):
        text = isinstance(content.get(key, ""), str) and content.get(key) != ""
        wrong(text, file, f"{key}: must be text, not {content.get(key)!r}")
    if source is not None:
        mixed = [key for key in ("grid", "recipe", "settings") if key in content]
        wrong(not mixed, file, f"{' and '.join(mixed)}: belongs to the study {source!r}, whose runs are taken")
        wrong(
            content.get("evaluate") is not None,
            file,
            "evaluate: is missing: what to evaluate the runs of another study with",
        )
        try:
            where = find(str(folder.parent / source) if (folder.parent / source / FILE).is_file() else source)
        except ValueError as error:
            raise ValueError(f"{file}: from: {error}") from None
        taken = read(where / FILE).get("from")
        wrong(taken is None, file, f"from: {source!r} has no runs of its own, but those of {taken!r}")
        other = load_plan(str(where))
        other_images = stated if stated not in (None, other.data) else None
        runs, data = other.runs, data or stated or other.data
        baseline = content.get("baseline", other.baseline)
    else:
        data = data or stated
        runs = runs_of(name, file, content, data)
        baseline = content.get("baseline", "zeros")
    paddings, sizes = evaluate_of(file, content.get("evaluate"))
    trained = dict.fromkeys(run.padding for run in runs)
    choices = trained if source is None else dict.fromkeys([*paddings, *trained])
    wrong(
        baseline in choices,
        file,
        f"baseline: {baseline!r} is no padding of the study: choose from {', '.join(choices)}"
        f"{nearest(str(baseline), choices)}",
    )
    return Plan(
        name=name,
        folder=folder,
        title=str(content["title"]),
        question=" ".join(str(content["question"]).split()),
        data=data,
        given=given,
        other_images=given if other_images and given else other_images,
        runs=tuple(runs),
        source=None if source is None else other.folder,
        baseline=baseline,
        paddings=paddings,
        sizes=sizes,
        published=published_of(file, content.get("published")),
        cost=cost_of(file, content.get("cost"), runs),
        tables=tables_of(file, content, source),
    )


def find(study: str) -> Path:
    """The folder of a study; raises ValueError naming those there are."""
    named = Path(study)
    for folder in (HOME / study, named, *([named.parent] if named.name == FILE else [])):
        if (folder / FILE).is_file():
            return folder
    if named.is_dir() and "/" in study:
        raise ValueError(f"{study} is no study: it has no {FILE}")
    known = sorted(path.parent.name for path in HOME.glob(f"*/{FILE}"))
    listed = f"choose from {', '.join(known)}, or a path" if known else f"no folder of {HOME}/ here has a {FILE}"
    raise ValueError(f"unknown study {study!r}: {listed}{nearest(study, known)}")


def call_of(folder: Path) -> str:
    """A study as a command names it: by its folder's name in experiments/, else by its path; quoted for a shell."""
    name = folder.resolve().name
    at_home = (HOME / name).resolve() == folder.resolve()
    return shlex.quote(name if at_home else str(folder))


def read(file: Path) -> dict:
    """The content of study.yaml, its keys known."""
    import yaml

    try:
        content = load_yaml(file.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        raise ValueError(f"{file} is not YAML{f' (line {mark.line + 1}: {error.problem})' if mark else ''}") from None
    wrong(isinstance(content, dict), file, "must hold `key: value` lines")
    known_keys(file, content, KEYS, "")
    return content


def evaluate_of(file: Path, content) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Paddings and sizes to evaluate with, both empty if nothing is stated."""
    if content is None:
        return (), ()
    known_keys(file, mapping(file, "evaluate", content), ("paddings", "sizes"), "evaluate.")
    content = {**content, "paddings": [OWN] if content.get("paddings") == OWN else content.get("paddings")}
    for key in ("paddings", "sizes"):
        values = content.get(key)
        wrong(isinstance(values, list) and values, file, f"evaluate.{key}: must be a list of values, not {values!r}")
    wrong(
        OWN not in content["paddings"] or content["paddings"] == [OWN], file, f"evaluate.paddings: {OWN} stands alone"
    )
    sizes = tuple(str(size) for size in content["sizes"])
    for key in ("paddings", "sizes"):
        twice = [value for i, value in enumerate(content[key]) if str(value) in map(str, content[key][:i])]
        wrong(not twice, file, f"evaluate.{key}: {twice[:1]} stands there twice")
    for size in sizes:
        fine = re.fullmatch(r"(native:|\w+:[1-9]\d*@)?[1-9]\d*", size)
        wrong(fine, file, f"evaluate.sizes: {size!r} must be a whole number of pixels, native:N or KIND:WIDTH@N")
    return tuple(str(padding) for padding in content["paddings"]), sizes


def published_of(file: Path, name) -> Path | None:
    """The CSV of published numbers beside the study."""
    if name is None:
        return None
    path = file.parent / str(name)
    wrong(path.is_file(), file, f"published: there is no {path}")
    return path


def cost_of(file: Path, content, runs: list[Run]) -> Cost | None:
    """What a run of each model costs."""
    if content is None:
        return None
    known_keys(file, mapping(file, "cost", content), ("how", "unit", "hours"), "cost.")
    how, hours = content.get("how"), content.get("hours")
    wrong(how in ("computed", "measured"), file, f"cost.how: must be computed or measured, not {how!r}")
    models = list(dict.fromkeys(run.model for run in runs))
    hours = hours if isinstance(hours, dict) else dict.fromkeys(models, hours)
    known_keys(file, hours, models, "cost.hours.")
    for model in models:
        number = hours.get(model)
        fine = isinstance(number, (int, float)) and not isinstance(number, bool) and number > 0
        wrong(fine, file, f"cost.hours.{model}: must be a number of hours, not {number!r}")
    return Cost(how, str(content.get("unit", "GPU hours")), hours)


def tables_of(file: Path, content: dict, source: str | None) -> tuple[str, ...]:
    """The kinds of table to make."""
    kinds = content["tables"]
    wrong(isinstance(kinds, list) and kinds, file, f"tables: must be a list of {', '.join(TABLES)}, not {kinds!r}")
    known_keys(file, dict.fromkeys(map(str, kinds)), TABLES, "tables: ")
    wrong(len(set(kinds)) == len(kinds), file, f"tables: one stands there twice in {kinds!r}")
    others = [kind for kind in kinds if kind in ("training", "published")]
    wrong(source is None or not others, file, f"tables: {' and '.join(others)} belong to the study {source!r}")
    wrong("published" not in kinds or "published" in content, file, "tables: published needs published: FILE")
    crossed = [kind for kind in kinds if kind in ("cross", "resolution")]
    wrong(not crossed or content.get("evaluate") is not None, file, f"tables: {' and '.join(crossed)} need evaluate:")
    own = "cross" in kinds and content["evaluate"].get("paddings") in (OWN, [OWN])
    wrong(not own, file, f"tables: cross needs evaluate.paddings by their names, not {OWN!r}")
    return tuple(kinds)


def check_names(plan: Plan) -> None:
    """Look every model, padding and size up where they live, which takes the seconds that torch and timm need to load.

    Raises:
        ValueError: an unknown name, or a size that leaves nothing of an image; lists the choices or the nearest.
    """
    from pcpad.evaluation.variants import check_width, parse_sizes
    from pcpad.models import resolve
    from pcpad.padding.modes import canonical

    try:
        for size in plan.sizes:
            check_width(*parse_sizes(size))
        for model in dict.fromkeys(run.model for run in plan.runs):
            resolve(model)
        for padding in dict.fromkeys([*(run.padding for run in plan.runs), *plan.paddings]):
            if padding != OWN and canonical(padding) != padding:
                raise ValueError(f"padding {padding!r}: a study calls it {canonical(padding)}")
    except ValueError as error:
        raise ValueError(f"{plan.folder / FILE}: {error}") from None
