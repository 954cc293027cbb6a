"""pcpad study run: what is missing of a study, one process a run; failures are recorded and the rest goes on."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatch

from pcpad.config.study import StudyRunSettings
from pcpad.progress import say
from pcpad.study.children import Asked, Child, claim, end, start, stop
from pcpad.study.grid import Run
from pcpad.study.listing import lost, notices, show, trained_results
from pcpad.study.plan import FILE, Plan, check_names, load_plan
from pcpad.study.results import collect, covered, results_of, with_folders
from pcpad.study.states import DONE, INTERRUPTED, REFUSED, RUNNABLE, RUNNING, State, state_of
from pcpad.training.signals import STOPPED

STOP_CODES = (STOPPED, 130)
"""Exit codes of a command that was asked to stop and can go on."""
PAUSE = 1.0
"""Seconds between two looks at a run that another process evaluates."""


@dataclass(frozen=True)
class Task:
    """One process to start.

    Attributes:
        kind: ``train`` or ``eval``.
        command: behind ``python -m pcpad``.
        resumed: whether it goes on from a checkpoint.
    """

    kind: str
    run: Run
    command: tuple[str, ...]
    resumed: bool = False


@dataclass
class Outcome:
    """What came of the tasks: names by how they ended."""

    done: list[str]
    failed: list[str]
    stopped: list[str]


def run_study(settings: StudyRunSettings) -> int:
    """Run what is missing of a study; returns the exit code: 0, 1 if a run has failed, 130 if it was stopped.

    A run that was trained, is to be evaluated and has no weights here counts as failed.

    Raises:
        ValueError: the study cannot be run; nothing was started.
    """
    plan = load_plan(settings.study, settings.data)
    check_names(plan)
    runs = chosen(plan, settings.only)
    if not settings.dry_run:
        collect(plan)
    recorded = with_folders(plan) if settings.dry_run else results_of(plan)
    trained = trained_results(plan, recorded)
    states = {run.name: state_of(run, trained.get(("run", run.name, None, None))) for run in runs}
    if settings.dry_run:
        show(plan, runs, states, recorded)
        return 0
    bad = [run.name for run in runs if states[run.name].kind in REFUSED or lost(plan, run, states[run.name], recorded)]
    outcome, slots = Outcome([], bad, []), slots_of(settings)
    tasks = training_tasks(plan, runs, states)
    for line in notices(plan, runs, states, recorded):
        say(line)
    if tasks:
        need_data(plan)
    if any(not task.resumed for task in tasks):  # a run that goes on has images of its own
        check_data(plan.data)
    with Asked() as asked:
        work(plan, tasks, slots, lambda task: training_task(task.run), outcome, asked)
        if not asked.times:
            tasks = evaluation_tasks(plan, runs, outcome)
            work(plan, tasks, slots, lambda task: evaluation_task(plan, task.run), outcome, asked)
    say(f"{plan.name}: {len(outcome.done)} done now, {len(outcome.failed)} failed, {len(outcome.stopped)} stopped")
    for name in outcome.failed:
        say(f"failed: {name}")
    say(f"results: {plan.folder / 'results.jsonl'}; next: pcpad study table {plan.call}")
    if asked.times:
        say("to go on: the same command again")
        return 130
    return 1 if outcome.failed or outcome.stopped else 0


def missing_tasks(study: str, only: str | None, data: str | None) -> tuple[Plan, list[Task]]:
    """What is to be trained or gone on with, and evaluated, for a launcher that is not this one.

    Raises:
        ValueError: the study cannot be run, names no images to train on, or there is nothing to do.
    """
    plan = load_plan(study, data)
    check_names(plan)
    recorded = results_of(plan)
    runs = chosen(plan, only)
    trained = trained_results(plan, recorded)
    states = {run.name: state_of(run, trained.get(("run", run.name, None, None))) for run in runs}
    training = training_tasks(plan, runs, states)
    if training:
        need_data(plan)
    tasks = [*training, *evaluation_tasks(plan, runs, Outcome([], [], []))]
    if not tasks and (gone := [run.name for run in runs if lost(plan, run, states[run.name], recorded)]):
        raise ValueError(
            f"study {plan.name}: evaluations are missing, and {len(gone)} of the runs have no weights here "
            f"({', '.join(gone[:3])}{', ...' if len(gone) > 3 else ''}); pcpad study run {plan.call} says what to do"
        )
    if not tasks and plan.source is not None:
        raise ValueError(f"study {plan.name}: there is nothing to evaluate; study {plan.source_call} trains its runs")
    if not tasks:
        raise ValueError(f"study {plan.name}: no run is missing")
    return plan, tasks


def need_data(plan: Plan) -> None:
    """Raise ValueError unless the study names images, or was given some."""
    if plan.data is None:
        raise ValueError(f"study {plan.name} names no images: --data /path/with/train/and/val")


def check_data(name: str) -> None:
    """Raise ValueError where no training can find its images, before every run finds that out for itself."""
    from pcpad.data.catalogue import locate, splits_of

    splits_of(name, locate(name)[1])


def chosen(plan: Plan, only: str | None) -> list[Run]:
    """The runs whose name matches; raises ValueError if none does."""
    runs = [run for run in plan.runs if only is None or fnmatch(run.name, only)]
    if not runs:
        some = ", ".join(run.name for run in plan.runs[:3])
        raise ValueError(f"--only {only}: no run of {plan.folder / FILE} matches; they are called {some} and so on")
    return runs


def slots_of(settings: StudyRunSettings) -> list[dict[str, str]]:
    """What each of the places for a process adds to its environment: its GPU, its share of the cores."""
    jobs = settings.jobs or settings.gpus or 1
    slots: list[dict[str, str]] = [{} for _ in range(jobs)]
    if settings.gpus is not None:
        check_gpus(settings.gpus)
        seen = os.environ.get("CUDA_VISIBLE_DEVICES")
        names = [str(i) for i in range(settings.gpus)] if seen is None else [n for n in seen.split(",") if n]
        for i, slot in enumerate(slots):
            slot["CUDA_VISIBLE_DEVICES"] = names[i % settings.gpus]
    if jobs > 1:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        for slot in slots:  # torch and the loader would each take all cores
            slot["OMP_NUM_THREADS"] = os.environ.get("OMP_NUM_THREADS", str(max(1, cores // jobs)))
            slot["PCPAD_WORKERS"] = str(max(1, cores // jobs))
    return slots


def check_gpus(wanted: int) -> None:
    """Raise ValueError unless there are so many GPUs."""
    import torch

    seen = os.environ.get("CUDA_VISIBLE_DEVICES")
    slices = [name for name in (seen or "").split(",") if name.startswith("MIG-")]  # of which a process sees one
    found = len(slices) or torch.cuda.device_count()
    if wanted > found:
        where = "on this machine" if seen is None else f"in CUDA_VISIBLE_DEVICES={seen}"
        raise ValueError(f"gpus={wanted}: torch finds {found} {where}; --jobs N runs N at a time without a GPU each")


def training_tasks(plan: Plan, runs: list[Run], states: dict[str, State]) -> list[Task]:
    """The trainings that are to be started; none of another study's runs."""
    if plan.source is not None:
        return []
    return [task for run in runs if states[run.name].kind in RUNNABLE and (task := training_task(run))]


def training_task(run: Run) -> Task | None:
    """The task that begins a run or goes on with it; None where there is nothing to do, or another process does it."""
    state = state_of(run)
    if state.kind not in RUNNABLE:
        return None
    if state.kind == INTERRUPTED:
        return Task("train", run, ("train", "--resume", str(run.folder)), resumed=True)
    return Task("train", run, ("train", *run.arguments, "--out", str(run.folder)))


def evaluation_tasks(plan: Plan, runs: list[Run], outcome: Outcome) -> list[Task]:
    """The evaluations that are to be made of finished runs."""
    wanted = [run for run in runs if plan.sizes and run.name not in outcome.failed]
    return [task for run in wanted if (task := evaluation_task(plan, run))]


def evaluation_task(plan: Plan, run: Run) -> Task | None:
    """The task that fills the cells which a finished run has no record of; None where there are none."""
    state = state_of(run)
    if state.kind != DONE or not (run.folder / "checkpoints/last.pt").is_file():
        return None
    there = covered(plan, run, state)
    missing = [cell for cell in plan.cells(run) if cell not in there]
    if not missing:
        return None
    paddings, sizes = (",".join(dict.fromkeys(part)) for part in zip(*missing, strict=True))
    data = () if plan.data is None else ("--data.name", plan.data)
    return Task("eval", run, ("eval", "--run", str(run.folder), "--paddings", paddings, "--sizes", sizes, *data))


def work(
    plan: Plan,
    tasks: list[Task],
    slots: list[dict],
    again: Callable[[Task], Task | None],
    outcome: Outcome,
    asked: Asked,
) -> None:
    """Do the tasks, as many at a time as there are slots; Ctrl-C stops what runs, and starts nothing more.

    So does an error of the bookkeeping, a full disk for example: what runs saves before the error goes on.
    A run that another process evaluates is waited for: it may be of another study, which fills other cells.

    Args:
        again: looks anew at a task just before it is started: another process may have done it.
    """
    queue, held, children, look, told = list(tasks), [], {}, 0.0, set()
    try:
        while children or ((queue or held) and not asked.times):
            if not queue and time.monotonic() >= look:
                queue, held = held, []
            for place in [i for i in range(len(slots)) if i not in children][: len(queue)]:
                if asked.times:
                    break
                first = queue.pop(0)
                task = again(first)
                if task is None:
                    if first.run.name in told:  # what the other process has brought
                        collect(plan, (first.run,))
                    continue
                if (hold := claim(task)) is None:
                    held, look = [*held, task], time.monotonic() + PAUSE
                    if task.run.name not in told:
                        say(f"{task.run.name} waits until another process has evaluated it")
                    told.add(task.run.name)
                    continue
                children[place] = start(plan, task, slots[place], hold)
                say(f"started {task.kind} {task.run.name} ({len(queue)} more to start), log {children[place].log}")
            if asked.times and children:
                say(f"stopping {len(children)}: each saves after its step; Ctrl-C again ends them at once")
                stop([child.process for child in children.values()], asked)
            for place in [i for i, child in children.items() if child.process.poll() is not None]:
                finish(plan, children.pop(place), outcome, stopping=asked.times > 0)
            if children or held:
                time.sleep(0.05)
    except BaseException:
        stop([child.process for child in children.values()], asked)
        raise


def finish(plan: Plan, child: Child, outcome: Outcome, stopping: bool = False) -> None:
    """Note how a process has ended, and collect what it has brought."""
    task, code = child.task, child.process.returncode
    name = task.run.name
    child.hold.close()
    state = state_of(task.run)
    if code != 0 and state.kind == RUNNING:
        say(f"left {name}: another process has it")
        return
    # An evaluation all of whose cells cannot be ends with an error, and there is nothing left to do.
    empty = (
        task.kind == "eval" and state.kind == DONE and not set(plan.cells(task.run)) - covered(plan, task.run, state)
    )
    done = empty or (task.kind == "train" and state.kind == DONE and code == 0)
    error = None
    if done:
        outcome.done.append(name)
    elif code in STOP_CODES or (stopping and code < 0):
        outcome.stopped.append(name)
        say(f"stopped {name}")
    else:
        error = child.error() if code else "it ended without an error, and is not complete"
        if not code and task.kind == "eval" and plan.given is not None:
            error += f": {plan.given} holds other images than the run was trained with, which the study has to state"
        outcome.failed.append(name)
        say(f"failed {name}: exit code {code}: {error}")
    end(plan, child, error)
    collect(plan, (task.run,))
    if done:
        detail = f": {state.detail}" if task.kind == "train" else ""
        say(f"done {task.kind} {name}{detail}, {child.seconds():.0f} s")
