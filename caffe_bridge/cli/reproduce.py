"""``caffe-bridge reproduce``."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console

from caffe_bridge.cli.common import verb
from caffe_bridge.cli.progress import training_bar

#: Experiment -> folder of its recipe inside the recipes' folder.
RECIPES = {
    "lenet": "lenet", "convnet": "cifar10_full", "resnet20": "cifar10_resnet20",
    "alexnet-speed": "alexnet",
}  # fmt: skip


@verb(
    """caffe-bridge reproduce lenet runs/lenet --data data
    caffe-bridge reproduce lenet runs/lenet --report-only"""
)
@click.argument("name", type=click.Choice(list(RECIPES)))
@click.argument("folder", default="")
@click.option("--data", default="data", show_default=True,
              help="Folder of the data bases that 'caffe-bridge dataset' made.")  # fmt: skip
@click.option("--weights", default="", help="Trained baseline, instead of training one a seed.")
@click.option("--deploy", default="", help="Deploy net of --weights, if not the recipe's own.")
@click.option("--recipes", default="solvers", show_default=True,
              help="Folder of the recipes, where experiment.json files lie.")  # fmt: skip
@click.option("--scale", default=1.0, show_default=True, help="Factor on all iteration counts.")
@click.option("--seeds", type=int, default=None, help="How many of the seeds; all by default.")
@click.option("--device", default="cpu", show_default=True, help="cpu or cuda[:N], for training.")
@click.option("--profile", default=None, metavar="NAME",
              help="Lengths and sweep of that name: cpu, gpu, or another of the experiment's file; "
              "by default as --device.")  # fmt: skip
@click.option("--jobs", type=click.IntRange(1), default=1, show_default=True,
              help="How many nets train at a time, one thread each.")  # fmt: skip
@click.option("--adopt", is_flag=True,
              help="Take trainings run by hand that lie in FOLDER/NAME_sSEED.")  # fmt: skip
@click.option("--quick", is_flag=True, help="Time only briefly.")
@click.option("--report-only", is_flag=True, help="Rebuild the report from FOLDER/results.json.")
def command(
    name: str, folder: str, data: str, weights: str, deploy: str, recipes: str, scale: float,
    seeds: int | None, device: str, profile: str | None, jobs: int, adopt: bool, quick: bool,
    report_only: bool,
) -> None:  # fmt: skip
    """Reproduce an experiment of the paper in FOLDER (reproduce/NAME by default).

    Baseline, force over a sweep of strengths, ranks, decomposition, fine-tuning, ONNX, timing and
    a report. Started again, it does only what is not done yet or has changed. alexnet-speed trains
    nothing: it times AlexNet at the paper's ranks.
    """
    from caffe_bridge.cli.runtime import check_device
    from caffe_bridge.errors import DataError, SchemaError
    from caffe_bridge.experiment.page import RESULTS, load_results
    from caffe_bridge.experiment.report import write_report
    from caffe_bridge.experiment.run import reproduce
    from caffe_bridge.experiment.spec import FILE, load_experiment
    from caffe_bridge.experiment.speed import SPEED, load_speed, run_speed

    place = Path(folder or f"reproduce/{name}")
    console = Console(highlight=False, markup=False)
    if report_only:
        document = load_results(place / RESULTS)
        if (document.get("kind") == SPEED) != (name == "alexnet-speed"):
            raise SchemaError(
                f"{place / RESULTS}: holds another experiment than {name}; name that."
            )
        made = write_report(place, document)
        console.print(f"report: {', '.join(map(str, made))}", soft_wrap=True)
        return
    if deploy and not weights:
        raise click.UsageError("--deploy names the net of --weights; give both.")
    check_device(device)
    file = Path(recipes) / RECIPES[name] / FILE
    if not file.is_file():
        raise SchemaError(
            f"{file}: no such experiment file; the recipes lie in 'solvers' of caffe_bridge's "
            "source tree: run there, or name that folder with --recipes."
        )
    if name == "alexnet-speed":
        made = run_speed(
            load_speed(file), place, device, quick,
            lambda text: console.print(text, soft_wrap=True),
        )  # fmt: skip
        console.print(f"report: {', '.join(map(str, made))}", soft_wrap=True)
        return
    experiment = load_experiment(file, profile or ("cpu" if device == "cpu" else "gpu"))
    experiment = experiment.scaled(scale, seeds)
    if not Path(data).is_dir():
        raise DataError(f"--data {data}: no such folder; make it with 'caffe-bridge dataset'.")
    with training_bar(console) as (bar, progress):
        made = reproduce(
            experiment, place, Path(data), weights=weights, deploy=deploy, device=device,
            quick=quick, jobs=jobs, adopt=adopt,
            say=lambda text: bar.console.print(text, soft_wrap=True), progress=progress,
        )  # fmt: skip
    console.print(f"report: {', '.join(map(str, made))}", soft_wrap=True)
