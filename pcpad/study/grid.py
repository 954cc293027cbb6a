"""The grid of a study: each of its runs, with settings that can be trained."""

import itertools
import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args, get_origin, get_type_hints

from pcpad.arguments import option_names, suggest, train_settings
from pcpad.config import DataSettings, TrainSettings, differences, digest, nearest, result_part, to_dict
from pcpad.config.plain import flatten

NO_DATA = "/path/to/images"
"""Stands in a command where the study names no images."""
GRID = ("model", "padding", "seed")
LOADERS = tuple(name for name in get_args(get_type_hints(DataSettings)["loader"]) if name != "auto")
LAUNCH = ("recipe", "data.name", "out", "resume", "gpus", "nodes", "rendezvous")
"""Settings that the study states elsewhere, or that its launch decides."""


@dataclass(frozen=True)
class Run:
    """One training of a study.

    Attributes:
        name: ``<model>-<padding>-s<seed>`` with slashes replaced, and what else the grid varies.
        folder: ``runs/<study>/<name>``.
        varied: values of the grid's other settings, by dotted name.
        settings: resolved as ``pcpad train`` does.
        arguments: of ``pcpad train`` for these settings, without --out.
    """

    name: str
    folder: Path
    varied: dict
    settings: TrainSettings
    arguments: tuple[str, ...]

    @property
    def model(self) -> str:
        """With its library."""
        return self.settings.model

    @property
    def padding(self) -> str:
        """The mode that it trains with."""
        return self.settings.padding

    def digest(self, loader: str) -> str:
        """The settings digest of such a run where the images were read by `loader`, which a plan leaves open."""
        data = self.settings.data
        return digest(
            replace(self.settings, data=replace(data, loader=loader if data.loader == "auto" else data.loader))
        )

    def made(self, found: str) -> bool:
        """Whether a settings digest is that of such a run, with any loader that the plan leaves open."""
        return found in {self.digest(loader) for loader in LOADERS}


def runs_of(study: str, file: Path, content: dict, data: str | None) -> list[Run]:
    """Every run of the grid, each with settings that can be trained."""
    grid, settings = content.get("grid"), flatten(mapping(file, "settings", content.get("settings", {})))
    wrong(isinstance(grid, dict) and "model" in grid and "padding" in grid, file, "grid: needs model and padding")
    grid = {"model": grid["model"], "padding": grid["padding"], "seed": [0]} | grid
    known = option_names(TrainSettings)
    for key in [*settings, *grid]:
        wrong(key in known or inside_mapping(key, known), file, f"unknown setting {key!r}{suggest(key, known)}")
        wrong(key not in LAUNCH, file, f"{key}: is no part of settings or grid")
    for key in settings:
        wrong(key not in grid, file, f"settings.{key}: the grid says that")
    for key, values in grid.items():
        wrong(isinstance(values, list) and values, file, f"grid.{key}: must be a list of values, not {values!r}")
        twice = [value for i, value in enumerate(values) if value in values[:i]]
        wrong(not twice, file, f"grid.{key}: {twice[:1]} stands there twice")
    for model in grid["model"]:
        wrong(
            isinstance(model, str) and re.fullmatch(r"(torchvision|timm)/[\w.-]+", model),
            file,
            f"grid.model: {model!r} must name its library: torchvision/NAME or timm/NAME",
        )
    wrong("recipe" in content, file, "recipe: is missing: a file of configs/ by name, or a path")
    others = [key for key in grid if key not in GRID]
    runs = []
    for values in itertools.product(*(grid[key] for key in others)):
        varied = dict(zip(others, values, strict=True))
        base = None
        for model, padding, seed in itertools.product(*(grid[key] for key in GRID)):
            arguments = ["--recipe", str(content["recipe"]), "--model", model, "--padding", text_of(padding)]
            arguments += ["--seed", text_of(seed)]
            arguments += [f"--{key}={text_of(value)}" for key, value in {**settings, **varied}.items()]
            arguments += ["--data.name", str(data or NO_DATA)]
            wrong(isinstance(padding, str), file, f"grid.padding: {padding!r} must be the name of a mode")
            wrong(type(seed) is int, file, f"grid.seed: {seed!r} must be a whole number")
            try:  # the parser takes 0.1 s a call, so what does not differ is parsed once
                base = base or train_settings(arguments)
                resolved = replace(base, model=model, padding=padding, seed=seed)
            except ValueError as error:
                raise ValueError(f"{file}: {error}") from None
            wrong(
                resolved.power == 1 or padding == "partial",
                file,
                f"power={resolved.power} has a meaning for partial padding only, not for {padding}: vary it in a study "
                "of partial padding alone, or take partial_sqrt as a padding beside the others",
            )
            wrong(resolved.epochs, file, "epochs: 0 trains nothing, and a study is made of the epochs of its runs")
            parts = [model, padding, f"s{seed}", *(f"{key}_{text_of(value)}" for key, value in varied.items())]
            name = re.sub(r"[^\w.=+-]", "_", "-".join(parts))
            runs.append(Run(name, Path("runs", study, name), varied, resolved, tuple(arguments)))
    names = [run.name for run in runs]
    same = [name for i, name in enumerate(names) if name in names[:i]]
    wrong(not same, file, f"grid: two runs have the name {same[:1]}")
    return runs


def pattern_of(runs: list[Run]) -> str:
    """What ``--only`` takes to choose these runs, which differ in their seed alone."""
    first = runs[0]
    if len(runs) == 1:
        return first.name
    head = "-".join([first.model.replace("/", "_"), first.padding, ""])
    return f"{head}s*{first.name[len(head) + len(f's{first.settings.seed}') :]}"


def inside_mapping(key: str, known: dict[str, type]) -> bool:
    """Whether a dotted name is an entry of a setting that holds a mapping, such as ``model_kwargs.drop_rate``."""
    return any(get_origin(known[name]) is dict and key.startswith(f"{name}.") for name in known)


def text_of(value) -> str:
    """A value as the command line takes it."""
    return value if isinstance(value, str) else json.dumps(value)


def differences_from(run: Run, settings: dict) -> list[str]:
    """Lines ``name: was -> is`` in which the settings of a run's folder are not those of the plan."""
    planned = json.loads(json.dumps(to_dict(run.settings, result_only=True)))
    loader = settings.get("data", {}).get("loader")
    if planned["data"]["loader"] == "auto" and loader:
        planned["data"]["loader"] = loader
    return differences(result_part(TrainSettings, settings), planned)


def mapping(file: Path, key: str, value) -> dict:
    """`value`, if it is a mapping."""
    wrong(isinstance(value, dict), file, f"{key}: must hold `name: value` lines, not {value!r}")
    return value


def known_keys(file: Path, content: dict, known, prefix: str) -> None:
    """Raise ValueError for a key that is not known, with the nearest."""
    for key in content:
        hint = nearest(str(key), known) or f": choose from {', '.join(known)}"
        wrong(key in known, file, f"unknown key {f'{prefix}{key}'!r}{hint}")


def wrong(ok, file: Path, message: str) -> None:
    """Raise ValueError naming the file unless `ok`."""
    if not ok:
        raise ValueError(f"{file}: {message}")
