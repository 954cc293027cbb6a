"""Train on a Slurm cluster: one job for each run, an array for several; queued again when preempted or out of time.

    python scripts/slurm/submit.py --partition gpu --gpus 8 --hours 24 --out runs/r50 -- --model resnet50 --data /data
    python scripts/slurm/submit.py --gpus 8 --each padding=zeros,partial --out runs/r50 -- --model resnet50
    python scripts/slurm/submit.py --study imagenet_table --only '*-partial-*' --at_once 16

What stands behind `--` are the options of `pcpad train`. The last one submits what is missing of a study: its trainings
and, of runs that have ended, its evaluations; `pcpad study table` collects results and failures. A run continues from
its last checkpoint when it is queued again, also by hand (`scontrol requeue JOB`); submitting the same run twice
continues it too.
"""

import argparse
import itertools
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Wanted:
    """One job.

    Attributes:
        out: folder of the run, whole. arguments: of ``pcpad train``, without --out; of ``pcpad eval``, all.
        note: file that the job notes its end in, for a study; None without one.
    """

    out: str
    arguments: tuple[str, ...]
    task: str = "train"
    note: str | None = None


def main(argv: list[str] | None = None) -> int:
    """Submit; prints a line for each job. Returns the exit code: 0, 1 for a failure, 2 for unknown options."""
    argv = list(sys.argv[1:] if argv is None else argv)
    own, train = (argv[: argv.index("--")], argv[argv.index("--") + 1 :]) if "--" in argv else (argv, [])
    options = make_parser().parse_args(own)
    try:
        refuse_unused(options)
        wanted = study_jobs(options, train) if options.study else grid(options.out, options.each, train)
        check(wanted)
        jobs = submit(wanted, options)
    except (ValueError, OSError) as error:
        print(f"submit.py: error: {error}", file=sys.stderr)
        return 1
    for job, one in zip(jobs, wanted, strict=True):
        print(f"job {job.job_id}: {one.task} {one.out}, log {job.paths.stdout}")
    return 0


def make_parser() -> argparse.ArgumentParser:
    """The options of a submission."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--out", help="folder of the run, or of all runs of a grid; seen by all nodes")
    what.add_argument("--study", help="what is missing of this study, a job for each run")
    parser.add_argument("--only", help="with --study: runs whose name matches this pattern")
    parser.add_argument("--data", help="with --study: images, in place of the study's")
    parser.add_argument("--each", action="append", default=[], metavar="NAME=A,B", help="a run for each of the values")
    parser.add_argument("--gpus", type=count, default=1, help="GPUs of a node, one process each (1)")
    parser.add_argument("--nodes", type=count, default=1, help="nodes of one run (1)")
    parser.add_argument("--cpu", action="store_true", help="ask for no GPU: the --gpus processes train on CPU cores")
    parser.add_argument("--cores", type=count, default=8, help="CPU cores of a process, which decode the images (8)")
    parser.add_argument("--hours", type=float, default=24.0, help="time limit; what needs more is queued again (24)")
    parser.add_argument("--warning", type=count, default=120, help="seconds before its end that a job is warned (120)")
    parser.add_argument("--starts", type=count, default=100, help="how often a run may reach its time limit (100)")
    parser.add_argument("--at_once", type=count, default=256, help="jobs of an array that run at the same time (256)")
    parser.add_argument("--partition", help="where to run; Slurm's default if not given")
    parser.add_argument("--slurm", action="append", default=[], metavar="NAME=VALUE", help="any option of sbatch")
    parser.add_argument("--logs", help="folder of the jobs' logs (slurm beside --out)")
    return parser


def refuse_unused(options: argparse.Namespace) -> None:
    """Raise ValueError for an option of a study where there is none."""
    for name in () if options.study else ("only", "data"):
        if getattr(options, name) is not None:
            told = ", and the images of a training stand behind --: -- --data.name DIR" if name == "data" else ""
            raise ValueError(f"--{name} belongs to --study{told}")


def count(text: str) -> int:
    """A whole number from 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1")
    return int(text)


def grid(out: str, each: list[str], train: list[str]) -> list[Wanted]:
    """The training of each combination.

    Raises:
        ValueError: a NAME=A,B that is none, or the arguments hold what is decided here.
    """
    own = {"--out", "--gpus", "--nodes", "--rendezvous", "--resume"}
    taken = own & {word.partition("=")[0] for word in train}
    if taken:
        raise ValueError(f"{' and '.join(sorted(taken))} cannot stand behind --: that is for the submission to say")
    axes = []
    for text in each:
        name, equals, values = text.partition("=")
        if not (name and equals and all(values.split(","))):
            raise ValueError(f"--each {text}: wanted is NAME=A,B with a setting of pcpad train, such as seed=0,1,2")
        if f"--{name}" in own:
            raise ValueError(f"--each {text}: {name} is for the submission to say, the same for all its runs")
        axes.append([(name, value) for value in values.split(",")])
    wanted = []
    for cell in itertools.product(*axes):
        folder = Path(out, "-".join(f"{name}_{value}".replace("/", "_") for name, value in cell)) if cell else Path(out)
        arguments = (*train, *(word for name, value in cell for word in (f"--{name}", value)))
        wanted.append(Wanted(str(folder.resolve()), arguments))
    return wanted


def study_jobs(options: argparse.Namespace, train: list[str]) -> list[Wanted]:
    """The trainings and evaluations that a study lacks; sets where the logs of all go.

    Raises:
        ValueError: the study cannot be run, or nothing of it is missing.
    """
    from pcpad.study.launch import missing_tasks
    from pcpad.study.results import JOBS

    if train or options.each:
        raise ValueError("the runs of a study have the settings of its study.yaml: nothing stands behind --study NAME")
    plan, tasks = missing_tasks(options.study, options.only, options.data)
    options.out = str(Path("runs", plan.name))
    wanted = []
    for task in tasks:
        out = str(task.run.folder.resolve())
        evaluation = tuple(out if word == str(task.run.folder) else word for word in task.command[1:])
        note = str(Path(options.out, JOBS, f"{task.run.name}.jsonl").resolve())
        wanted.append(Wanted(out, task.run.arguments if task.kind == "train" else evaluation, task.kind, note))
    return wanted


def check(wanted: list[Wanted]) -> None:
    """Let pcpad look at the settings of every training, so that a mistake does not wait in the queue.

    Raises:
        ValueError: in its words.
    """
    from pcpad.cli import train_settings

    for one in wanted:
        if one.task != "train":
            continue
        shows = {"--print_config", "--print-config"} & set(one.arguments)
        if train_settings(list(one.arguments)) is None or shows:
            raise ValueError("what stands behind -- asks for help or shows settings, and would train nothing")


def submit(wanted: list[Wanted], options: argparse.Namespace) -> list:
    """Submit the jobs, trainings as one array and evaluations as another; returns submitit's jobs in their order."""
    if shutil.which("sbatch") is None:
        raise ValueError("there is no sbatch here: submit from a machine of a Slurm cluster")
    try:
        import submitit
        from submitit.core.utils import FailedJobError, FailedSubmissionError
    except ModuleNotFoundError:
        raise ValueError("submitit is not installed: pip install 'pcpad[slurm]'") from None
    sys.path.insert(0, str(HERE))
    import cloudpickle
    import job

    cloudpickle.register_pickle_by_value(job)  # the nodes need pcpad, and not this folder
    extra = dict(text.partition("=")[::2] for text in options.slurm)
    if not all(extra.values()):
        raise ValueError(f"--slurm {' '.join(options.slurm)}: wanted is NAME=VALUE, such as qos=high")
    extra = {"requeue": True, **extra}
    trainings = [
        job.Training(w.out, [*w.arguments], options.gpus, options.nodes, w.note) for w in wanted if training(w)
    ]
    evaluations = [job.Evaluation(w.out, [*w.arguments], w.note) for w in wanted if not training(w)]
    jobs = []
    try:
        for tasks, nodes, processes in ((trainings, options.nodes, options.gpus), (evaluations, 1, 1)):
            executor = submitit.SlurmExecutor(
                folder=options.logs or Path(options.out).resolve().parent / "slurm" / "%j",
                max_num_timeout=options.starts,
            )
            executor.update_parameters(
                job_name="pcpad",
                time=max(1, round(60 * options.hours)),
                nodes=nodes,
                ntasks_per_node=1,
                cpus_per_task=options.cores * processes,
                signal_delay_s=options.warning,
                array_parallelism=options.at_once,
                additional_parameters=extra,
                **({} if options.cpu else {"gpus_per_node": processes}),
                **({"partition": options.partition} if options.partition else {}),
            )
            if len(tasks) == 1:
                jobs.append(executor.submit(tasks[0]))
            elif tasks:
                with executor.batch():
                    array = [executor.submit(task) for task in tasks]
                jobs += array
    except (FailedJobError, FailedSubmissionError) as error:
        told = f"; submitted before it: {', '.join(one.job_id for one in jobs)}" if jobs else ""
        raise ValueError(f"sbatch has refused the job: {str(error).strip().splitlines()[-1]}{told}") from None
    return jobs


def training(wanted: Wanted) -> bool:
    """Whether a job trains; else it evaluates."""
    return wanted.task == "train"


if __name__ == "__main__":
    sys.exit(main())
