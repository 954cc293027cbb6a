"""The command line of pcpad: parses settings, runs a command, turns a mistake into one message."""

import contextlib
import os
import select
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

from pcpad.arguments import COMMANDS, adapt_arguments, adapt_help, parse, train_settings
from pcpad.config import (
    BorderSettings,
    CheckSettings,
    DoctorSettings,
    EvalSettings,
    ExportSettings,
    InspectSettings,
    ListSettings,
    PackSettings,
    PrepareSettings,
    ReportSettings,
    StudyRunSettings,
    StudyTableSettings,
    TrainSettings,
    nearest,
    yaml_text,
)

# No torch here: --help and a misspelt option must not wait for it.


def usage(program: str, commands: dict[str, str]) -> str:
    """What a program does, a line for each command."""
    lines = "".join(f"  {name:13}{text}\n" for name, text in commands.items())
    return f"usage: {program} COMMAND [options]\n\n{lines}\n  pcpad COMMAND --help explains every option"


USAGE = usage("pcpad", COMMANDS) + "; pcpad --version\n"
GROUPS = {word: [name for name in COMMANDS if name.startswith(f"{word} ")] for word in ("data", "study")}
"""Commands of two words, by the first."""

DATA = {"data list": ListSettings, "data prepare": PrepareSettings}
STUDY = {"study run": StudyRunSettings, "study table": StudyTableSettings, "report": ReportSettings}


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit code.

    0, 1 for a failure, 2 for a mistake in the call, 130 for Ctrl-C, 141 where the reader of its output has closed it
    (`pcpad ... | head`).
    """
    try:
        code = answer(list(sys.argv[1:] if argv is None else argv))
        sys.stdout.flush()
    except KeyboardInterrupt:  # before a command has begun
        code = fail("stopped", 130)
    except OSError as error:
        closed = output_is_closed(error)
        if os.environ.get("PCPAD_TRACEBACK") and not closed:
            raise
        code = 141 if closed else fail(str(error), 1)  # 141: what a shell shows for a program that SIGPIPE has ended
        with contextlib.suppress(OSError):  # a stream without a file
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what Python still writes at its end
    return code


def output_is_closed(error: Exception) -> bool:
    """Whether an error is that nobody reads standard output any more."""
    if not isinstance(error, BrokenPipeError):
        return False
    found = select.poll()
    found.register(sys.stdout, 0)  # what is wrong with it is reported whatever one asks for
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in found.poll(0))


def answer(argv: list[str]) -> int:
    """Print what was asked for without a command, or run the command; returns the exit code."""
    with contextlib.suppress(AttributeError):  # a stream of a test's own
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files may be no text
    if argv[:1] == ["help"] and argv[1:]:
        argv = [*argv[1:], "--help"]
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(USAGE, end="")
        return 0 if argv else 2
    if argv[0] == "--version":
        from pcpad import __version__

        print(f"pcpad {__version__}")
        return 0
    if argv[0] in GROUPS and (len(argv) == 1 or argv[1] in ("-h", "--help")):
        print(usage(f"pcpad {argv[0]}", {name: text for name, text in COMMANDS.items() if name in GROUPS[argv[0]]}))
        return 0 if argv[1:] else 2
    words = 2 if any(name.startswith(f"{argv[0]} ") for name in COMMANDS) else 1
    command, rest = " ".join(argv[:words]), argv[words:]
    try:
        return run(command, rest)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package == "pcpad":
            raise
        return fail(f"{package} is not installed: pcpad {command} needs the harness, pip install 'pcpad[harness]'", 1)


def run(command: str, rest: list[str]) -> int:
    """Run one command with its arguments; returns the exit code."""
    rest = ["--print_config" if word == "--print-config" else word for word in rest]
    if command not in COMMANDS:
        return fail(f"unknown command {command!r}: choose from {', '.join(COMMANDS)}{nearest(command, COMMANDS)}", 2)
    try:
        if command == "adapt" and {"-h", "--help"} & set(rest):
            adapt_help()
            return 0
        if command == "adapt":
            command, rest = "train", adapt_arguments(rest)
        if command == "train":
            settings = train_settings(rest)
        elif command == "eval":
            settings = parse(EvalSettings, rest, command)
        elif command == "border":
            settings = parse(BorderSettings, rest, command)
        elif command == "export":
            settings = parse(ExportSettings, rest, command)
        elif command == "data check":
            settings = parse(CheckSettings, rest, command)
        elif command == "data pack":
            settings = parse(PackSettings, rest, command)
        elif command == "doctor":
            settings = parse(DoctorSettings, rest, command)
        elif command in DATA:
            first = ["--name", *rest] if rest and not rest[0].startswith("-") else rest
            settings = parse(DATA[command], first, command)
        elif command in STUDY:
            first = ["--study", *rest] if rest and not rest[0].startswith("-") else rest
            settings = parse(STUDY[command], first, command)
        else:
            first = ["--model", *rest] if rest and not rest[0].startswith("-") else rest
            settings = parse(InspectSettings, first, command)
        if settings is None:  # after --help
            return 0
        if "--print_config" in rest:
            print(yaml_text(settings), end="")
            return 0
    except (ValueError, OSError) as error:
        if output_is_closed(error):
            raise
        return fail(str(error), 2)
    try:
        if command == "train":
            return start_training(settings, rest)
        if command == "study run":
            from pcpad.study.launch import run_study

            return run_study(settings)
        if command == "doctor":
            from pcpad.doctor import doctor

            return 0 if doctor(settings) else 1
        if command == "inspect":
            from pcpad.inspection import inspect_model

            inspect_model(settings)
        elif command == "border" and settings.redraw:
            from pcpad.evaluation.border.report import report

            for path in report(Path(settings.redraw)):
                print(path)
        elif command == "border":
            from pcpad.evaluation.border.border import border

            with sigterm_as_interrupt():  # so that a folder without a result goes again
                border(settings)
        elif command == "data check":
            from pcpad.data.check import check

            check(settings)
        elif command == "data pack":
            from pcpad.data.pack import pack

            pack(settings)
        elif command == "export":
            from pcpad.export.export import export

            export(settings)
        elif command == "data list":
            from pcpad.data.prepare.command import list_data

            list_data(settings)
        elif command == "data prepare":
            from pcpad.data.prepare.command import prepare

            prepare(settings)
        elif command == "study table":
            from pcpad.study.tables import make_tables

            make_tables(settings.study)
        elif command == "report":
            from pcpad.study.report.report import make_report

            make_report(settings)
        else:
            return start_evaluation(settings)
    except KeyboardInterrupt:
        return fail("stopped", 130)
    except (ValueError, OSError) as error:
        if os.environ.get("PCPAD_TRACEBACK") or output_is_closed(error):
            raise
        return fail(str(error), 1)
    except RuntimeError as error:
        if "gloo/transport" in str(error) or "ncclRemoteError" in str(error):
            return fail("the connection to another process of this training is lost", 1, told=False)
        if "does not have a deterministic implementation" in str(error):
            return fail(f"deterministic=true cannot be kept here: {str(error).split('.')[0]}", 1)
        if type(error).__name__ != "OutOfMemoryError":  # torch's, which is not imported here
            raise
        return fail("the GPU has too little memory: lower --batch_size, or use --amp bf16", 1)
    return 0


@contextlib.contextmanager
def sigterm_as_interrupt() -> Iterator[None]:
    """Let SIGTERM be what Ctrl-C is."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def start_training(settings: TrainSettings, argv: list[str]) -> int:
    """Train here, or start the processes that do; returns the exit code."""
    from pcpad.training.signals import Signals, Stopped

    launched = "TORCHELASTIC_RUN_ID" in os.environ
    if (settings.gpus > 1 or settings.nodes > 1) and not launched:
        from pcpad.training.launch import launch

        return launch(settings, argv)
    signals = Signals()
    try:
        with signals:
            from pcpad.training.run import train

            train(settings, signals)
    except Stopped as stop:
        if launched and signals.waits:  # all stop; the launcher reports it, and takes any other code for a failure
            return 0
        if launched:  # the others may still start: the launcher ends them
            return fail(str(stop), stop.exit_code)
        print(f"pcpad: {stop}", file=sys.stderr, flush=True)
        return stop.exit_code
    return 0


def start_evaluation(settings: EvalSettings) -> int:
    """Evaluate; whatever signal asks it to stop, what was counted is kept. Returns the exit code."""
    from pcpad.training.signals import Signals, Stopped

    told = "and has kept what was counted; with the same --run or --out it goes on"
    try:
        with Signals(told):
            from pcpad.evaluation.run import evaluate

            evaluate(settings)
    except KeyboardInterrupt:
        print(f"pcpad: stopped by SIGINT {told}", file=sys.stderr, flush=True)
        return 130
    except Stopped as stop:
        print(f"pcpad: {stop}", file=sys.stderr, flush=True)
        return stop.exit_code
    return 0


def fail(message: str, code: int, told: bool = True) -> int:
    """Print an error to stderr and return the exit code; a process that was launched leaves it for the launcher.

    Args:
        told: False for what the launcher knows better: which process was the first to end.
    """
    file = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if file and "PCPAD_STATUS" in os.environ:
        import json

        if told:
            Path(file).write_text(json.dumps({"message": message, "timestamp": "0"}))
        os._exit(code)  # at once: the threads of the others' connections do not survive an orderly end
    else:
        print(f"pcpad: error: {message}", file=sys.stderr, flush=True)
    return code
