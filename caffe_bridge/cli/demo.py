"""``caffe-bridge demo``."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console

from caffe_bridge.cli.common import verb
from caffe_bridge.cli.progress import training_bar


@verb("caffe-bridge demo demo")
@click.argument("folder", default="demo")
@click.option("--seed", default=1, show_default=True, help="Seed of all randomness.")
@click.option("--force-type", default="Degradation", show_default=True,
              type=click.Choice(["Degradation", "Constant", "Linear", "Gravity"]))  # fmt: skip
@click.option("--force-decay", default=2.2e-4, show_default=True, help="Strength of the force.")
@click.option("--scale", default=1.0, show_default=True, help="Factor on all iteration counts.")
@click.option("--quick", is_flag=True, help="Time only briefly.")
def command(
    folder: str, seed: int, force_type: str, force_decay: float, scale: float, quick: bool
) -> None:  # fmt: skip
    """Train, force, decompose, fine-tune, export and time a net on real digits in FOLDER.

    Started again, it goes on after the last finished stage. Ends with FOLDER/report.html.
    """
    from caffe_bridge.demo.pipeline import Journey, Settings
    from caffe_bridge.demo.report import write_report
    from caffe_bridge.experiment.stages import inside, run_stages

    default = Settings()
    settings = Settings(
        seed=seed, force_type=force_type, force_decay=force_decay, quick=quick,
        iterations=max(20, int(default.iterations * scale)),
        force_iterations=max(20, int(default.force_iterations * scale)),
        finetune_iterations=max(20, int(default.finetune_iterations * scale)),
    )  # fmt: skip
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    console = Console(highlight=False)
    with training_bar(console) as (bar, progress), inside(place):
        journey = Journey(settings, progress)
        results = run_stages(journey.stages(), settings.as_dict(), bar.console.print)
        report = write_report(results, settings.as_dict())
    console.print(f"report: {place / report}")
