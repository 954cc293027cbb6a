"""Settings from YAML files and the command line, by jsonargparse; what is wrong is said in one line."""

import os
import re
import typing
from dataclasses import fields, is_dataclass, replace
from difflib import get_close_matches
from itertools import pairwise
from pathlib import Path

from pcpad.config import TrainSettings, nearest
from pcpad.config.plain import flatten

# No torch here: --help and a misspelt option must not wait for it.

COMMANDS = {
    "train": "train one network with one padding, evaluate and record it",
    "adapt": "bring weights of zero padding to another padding, with little training or none",
    "eval": "evaluate a run, or a model with weights, over paddings and sizes",
    "border": "measure what each padding does to features near the border, without labels",
    "export": "write a network in its padding mode for use elsewhere: timm folder, ONNX, torch.export",
    "inspect": "show what a padding mode would do to each layer of a model, without weights",
    "data list": "list the data sets that have a name: size, licence, source, and whether they are ready here",
    "data prepare": "get a data set ready by name; a second start goes on where the first one stopped",
    "data pack": "put a data set into a few tar files that are read from front to back, for network file systems",
    "data check": "decode every image of a data set once and name the damaged ones",
    "study run": "run what is missing of a study: networks x paddings x seeds",
    "study table": "make the tables of a study from its results, without torch",
    "report": "make one HTML page of a study's tables and figures, or of all studies, without torch",
    "doctor": "say what is installed, whether it works, and what a training would use",
}

RECIPE_CHANGES = " Defaults are those of configs/base.yaml; a recipe changes some, and --print_config shows what holds."
RECIPES = {"textures": "textures", "cifar10": "cifar", "elpv": "elpv"}
"""The recipe of a data set where none is given; `paper` for every other."""


def recipe_file(name: str) -> Path:
    """The YAML file of a recipe: a name in configs/, or a path.

    Raises:
        ValueError: there is no such recipe; names the choices.
    """
    if name.endswith((".yaml", ".yml")):
        if not Path(name).is_file():
            raise ValueError(f"recipe {name!r}: no such file")
        return Path(name)
    here = Path(__file__).resolve().parent
    folders = [here / "configs", here.parent / "configs"]  # installed, or in a clone
    for folder in folders:
        if (folder / f"{name}.yaml").is_file():
            return folder / f"{name}.yaml"
    known = sorted({path.stem for folder in folders for path in folder.glob("*.yaml")} - {"base"})
    raise ValueError(f"unknown recipe {name!r}: choose from {', '.join(known)}, or a path{nearest(name, known)}")


def train_settings(argv: list[str]) -> TrainSettings | None:
    """Settings of ``pcpad train``: configs/base.yaml, the recipe, ``--config`` files, then the command line.

    With ``--resume DIR`` the run's own settings take the place of base and recipe; what else is given has to agree.
    """
    first = parse(TrainSettings, argv, "train", check=False)
    if first is None:
        return None
    if first.resume:
        saved = Path(first.resume) / "settings.yaml"
        if not saved.is_file():
            raise ValueError(f"--resume {first.resume}: no run there ({saved} does not exist)")
        own = parse(TrainSettings, [], "train", [saved], check=False)
        for option in ("recipe", "weights"):  # what the run was made of, which the settings alone do not tell
            given, its = getattr(first, option), getattr(own, option)
            if given not in (None, its):
                raise ValueError(
                    f"--resume goes on with the run's own settings: --{option} {given} cannot be given with it, "
                    f"the run has {its or 'none'}"
                )
        if any(word.partition("=")[0] == "--out" for word in argv):  # that of a file is of a new run
            raise ValueError("--resume goes on in the run's own folder: --out cannot be given with it")
        settings = parse(TrainSettings, argv, "train", [saved])
        return settings and replace(settings, out=first.resume)
    data = first.data.name
    if data == "auto":
        data = "imagenet" if os.environ.get("IMAGENET") else "textures"
    recipe = first.recipe or RECIPES.get(data, "paper")
    settings = parse(TrainSettings, argv, "train", [recipe_file("base"), recipe_file(recipe)])
    if settings is None:
        return None
    sizes = settings.progressive
    if sizes.start not in (None, sizes.end) and not sizes.to_epoch:  # of an older run that goes on it is no mistake
        raise ValueError(
            f"progressive.start={sizes.start} would be used in no epoch: --progressive.to_epoch says until when the "
            "side rises"
        )
    return replace(settings, data=replace(settings.data, name=data), recipe=recipe)


def adapt_help() -> None:
    """Print the options of ``pcpad adapt`` with the defaults of its recipe."""
    parser = make_parser(TrainSettings, "adapt")
    for layer in ("base", "adapt"):
        parser.set_defaults(flatten(load_yaml(recipe_file(layer).read_text())))
    parser.set_defaults({"recipe": "adapt", "weights": "pretrained"})
    parser.print_help()


def adapt_arguments(argv: list[str]) -> list[str]:
    """Arguments of ``pcpad train`` for those of ``pcpad adapt``: its recipe and the library's weights, if not given."""
    names = {word.partition("=")[0] for word in argv}
    if "--resume" in names:
        return argv
    extra = [] if "--recipe" in names else ["--recipe", "adapt"]
    return extra + ([] if "--weights" in names else ["--weights", "pretrained"]) + argv


def parse(kind: type, argv: list[str], command: str, configs: list[Path] = (), check: bool = True):
    """Settings of class `kind` from YAML files and arguments; None after ``--help``.

    Args:
        configs: layers below the command line, the first lowest.
        check: False skips validation, for a first look at which layers there are.

    Raises:
        ValueError: an unknown key, a wrong type or a value out of range; names it and the nearest choice.
    """
    parser = make_parser(kind, command)
    known = option_names(kind)
    argv = normalise(argv, known)
    if {"-h", "--help"} & set(argv):
        parser.print_help()
        return None
    layers = [part for path in configs for part in ("--config", str(path))]
    for option, value in pairwise([*layers, *argv]):
        if option == "--config":
            check_yaml(value, known)
    from jsonargparse import ArgumentError

    try:
        namespace = parser.parse_args([*layers, *(a for a in argv if a != "--print_config")])
    except ArgumentError as error:
        raise ValueError(readable(str(error), known)) from None
    namespace.pop("config")
    if not check:
        return namespace
    return kind(**{k: v for k, v in parser.instantiate(namespace).items() if k in {f.name for f in fields(kind)}})


def make_parser(kind: type, command: str):
    """A parser with one option for every field of the settings class, explained by its docstring."""
    import jsonargparse
    import yaml

    jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True)
    jsonargparse.set_loader("yaml12", load_yaml, exceptions=(yaml.YAMLError,))
    parser = jsonargparse.ArgumentParser(
        prog=f"pcpad {command}",
        description=COMMANDS[command] + "." + RECIPE_CHANGES * (command == "train"),
        exit_on_error=False,
        allow_abbrev=False,
        parser_mode="yaml12",
        print_config=None,
    )
    parser.add_argument("--config", action="config", help="YAML file of settings; several are layered in order")
    parser.add_class_arguments(kind, as_group=False)
    parser.add_argument("--print_config", action="store_true", help="print the resolved settings as YAML and stop")
    return parser


def load_yaml(text: str):
    """YAML with 1.2's booleans and floats: `off` is a word and 1e-4 a number."""
    import yaml

    class Loader(yaml.SafeLoader):
        """The safe loader with two rules replaced, which takes no key twice."""

        def construct_mapping(self, node, deep=False):
            seen = set()
            for key, _ in node.value:
                name = self.construct_object(key, deep=True) if isinstance(key, yaml.ScalarNode) else None
                if name in seen:
                    raise yaml.constructor.ConstructorError(None, None, f"{name!r} stands there twice", key.start_mark)
                seen |= set() if name is None or key.tag.endswith(":merge") else {name}
            return super().construct_mapping(node, deep)

    own = {"tag:yaml.org,2002:bool", "tag:yaml.org,2002:float"}
    Loader.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in pairs if tag not in own]
        for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("^(true|false|True|False)$"), list("tTfF"))
    number = r"^[-+]?((\d+\.\d*|\.\d+)([eE][-+]?\d+)?|\d+[eE][-+]?\d+|\.(inf|nan))$"
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(number), list("-+.0123456789"))
    return yaml.load(text, Loader=Loader)


def check_yaml(path: str, known: dict[str, type]) -> None:
    """Raise ValueError, naming the file, unless it is YAML that holds known settings."""
    import yaml

    if not Path(path).is_file():
        raise ValueError(f"--config {path}: no such file")
    try:
        content = load_yaml(Path(path).read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f" (line {mark.line + 1}: {error.problem})" if mark else ""
        raise ValueError(f"{path} is not YAML{line}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold settings as `name: value` lines, not a {type(content).__name__}")

    def walk(part: dict, prefix: str) -> None:
        for key, value in part.items():
            name = f"{prefix}{key}"
            if isinstance(value, dict) and any(k.startswith(f"{name}.") for k in known):
                walk(value, f"{name}.")
            elif name not in known:
                raise ValueError(f"{path}: unknown setting {name!r}{suggest(name, known)}")

    walk(content, "")


def option_names(kind: type, prefix: str = "") -> dict[str, type]:
    """Dotted name of every setting, to its type."""
    names: dict[str, type] = {}
    for name, hint in typing.get_type_hints(kind).items():
        if is_dataclass(hint):
            names |= option_names(hint, f"{prefix}{name}.")
        else:
            names[prefix + name] = hint
    return names


def normalise(argv: list[str], known: dict[str, type]) -> list[str]:
    """Allow ``--flag`` for ``--flag true``, ``--data X`` for ``--data.name X``, and dashes in names for underscores."""
    out: list[str] = []
    for i, arg in enumerate(argv):
        name, equals, value = arg.partition("=")
        if name.startswith("--") and "-" in name[2:] and name[2:].replace("-", "_") in known:
            arg = f"--{name[2:].replace('-', '_')}{equals}{value}"
        if arg.startswith("--config="):
            out += ["--config", arg[len("--config=") :]]
            continue
        if "data.name" in known and (arg == "--data" or arg.startswith("--data=")):
            arg = "--data.name" + arg[len("--data") :]
        out.append(arg)
        is_flag = bool in (known.get(arg[2:]), *typing.get_args(known.get(arg[2:])))
        if is_flag and (i + 1 == len(argv) or argv[i + 1].startswith("-")):
            out.append("true")
    return out


def readable(message: str, known: dict[str, type]) -> str:
    """A parser's message as one line with the nearest option."""
    unknown = re.search(r"unrecognized arguments: (.*)", message)
    if unknown:
        words = unknown.group(1).split()
        if not words[0].startswith("-"):
            return f"unexpected argument {words[0]!r}: every setting is given as --name value"
        name = words[0].lstrip("-").split("=")[0]
        return f"unknown option --{name}{suggest(name, known)}; --help lists all"
    message = re.sub(r'Parser key "([^"]+)":\s*', r"\1: ", message)
    choices = re.search(r"typing\.Literal\[([^\]]*)\]", message)
    value = re.search(r"Got value: (\S+)", message)
    message = re.sub(r"(?:a |an )?(?:typing\.Union\[|)typing\.Literal\[([^\]]*)\]", r"one of \1", message)
    words = {"int": "whole number", "float": "number", "bool": "true or false", "str": "text"}
    message = re.sub(r"<class '(\w+)'>", lambda kind: words.get(kind.group(1), kind.group(1)), message)
    union = re.search(r"^(\S+):.*Subtypes: \[(.*?), NoneType\].*Given value: (.*)", message, re.DOTALL)
    if union:
        wanted = "a list such as [0.5,0.5,0.5]" if "tuple" in union.group(2) else union.group(2)
        return f"{union.group(1)}: Expected {wanted}, or null. Got value: {union.group(3)}"
    message = message.replace("Expected a tuple.", "Expected a list such as [0.5,1.0].")
    if choices and value:
        message += nearest(value.group(1), re.findall(r"'([^']+)'", choices.group(1)))
    return " ".join(message.split())


def suggest(name: str, known: dict[str, type]) -> str:
    """The known dotted names nearest to `name`, by the whole or by the last part."""
    groups = {k.partition(".")[0] for k in known}
    if name not in groups and get_close_matches(name, groups, 1, 0.8):
        return nearest(name, groups)
    near = get_close_matches(name, known, 1, 0.6)
    last = name.rsplit(".", 1)[-1]
    near += [k for k in known if k.rsplit(".", 1)[-1] in get_close_matches(last, [k.rsplit(".", 1)[-1]], 1, 0.75)]
    near = list(dict.fromkeys(near))[:3]
    return f"; did you mean {' or '.join(near)}?" if near else ""
