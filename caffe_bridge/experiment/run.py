"""One experiment from start to report."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from caffe_bridge.errors import SchemaError
from caffe_bridge.experiment.page import RESULTS, VERSION
from caffe_bridge.experiment.pipeline import Reproduction
from caffe_bridge.experiment.report import write_report
from caffe_bridge.experiment.runs import dense_keys, runs_of, variants_of
from caffe_bridge.experiment.spec import Experiment
from caffe_bridge.experiment.stages import inside, run_stages, stage_seconds, write_json
from caffe_bridge.experiment.train import Progress
from caffe_bridge.experiment.workers import trainer
from caffe_bridge.files import require_file


def reproduce(
    experiment: Experiment,
    folder: Path,
    data: Path,
    *,
    weights: str = "",
    deploy: str = "",
    device: str = "cpu",
    quick: bool = False,
    jobs: int = 1,
    adopt: bool = False,
    say: Callable[[str], None],
    progress: Progress,
) -> list[Path]:
    """Run the stages that are not done yet; write results.json and the report.

    Args:
        experiment: what is run.
        folder: where everything is written; made if missing.
        data: folder of the data bases.
        weights: trained baseline instead of training one for each seed.
        deploy: deploy net of these weights, where it is not the recipe's.
        device: torch device for training.
        quick: time only briefly.
        jobs: how many nets train at a time.
        adopt: take over trainings that were run by hand; see :mod:`~caffe_bridge.experiment.adopt`.
        say: told about every stage.
        progress: told how training goes on.

    Returns:
        The paths of the report.

    Raises:
        BridgeError: data, recipe or weights are wrong, or changed since the folder's stages.
    """
    folder.mkdir(parents=True, exist_ok=True)
    start, own = (os.path.relpath(x, folder) if x else "" for x in (weights, deploy))
    source = Path(os.path.relpath(data, folder))
    experiment = _from(experiment, folder)
    with inside(folder), trainer(jobs, progress) as train:
        work = Reproduction(experiment, source, start, own, device, quick, train, adopt)
        _require_same_recipe(experiment, start, own)
        stages = work.stages()
        results = run_stages(stages, work.settings(), say, jobs)
        document = {
            "version": VERSION, "experiment": experiment.as_dict(), "settings": work.settings(),
            "seeds": list(experiment.seeds), "runs": _runs(experiment),
            "variants": variants_of(experiment), "seconds": stage_seconds(stages),
            "results": results,
        }  # fmt: skip
        write_json(Path(RESULTS), document)
    return write_report(folder, document)


def _require_same_recipe(experiment: Experiment, weights: str, own_deploy: str) -> None:
    """Refuse a folder whose stages were made from other nets, solvers or weights."""
    recipe, noted = Path(experiment.folder), Path("stages") / "recipe.json"
    files = {
        "net": recipe / experiment.net, "deploy": recipe / experiment.deploy,
        **{f"{part} solver": recipe / name for part, name in experiment.solvers.items()},
        **({"weights": Path(weights)} if weights else {}),
        **({"deploy net of the weights": Path(own_deploy)} if own_deploy else {}),
    }  # fmt: skip
    found = {
        role: hashlib.sha256(require_file(file, "recipe").read_bytes()).hexdigest()
        for role, file in files.items()
    }
    before = json.loads(noted.read_text(encoding="utf-8")) if noted.is_file() else {}
    for role in files.keys() & before.keys():
        if found[role] != before[role]:
            raise SchemaError(
                f"{files[role]}: is not the {role} that the stages in {Path.cwd()} were made with; "
                f"use another folder, or delete its folder {noted.parent} to run them again."
            )
    noted.parent.mkdir(exist_ok=True)
    write_json(noted, before | found)


def _from(experiment: Experiment, folder: Path) -> Experiment:
    """The experiment with its recipe's folder as seen from ``folder``."""
    return replace(experiment, folder=os.path.relpath(experiment.folder, folder))


def _runs(experiment: Experiment) -> list[dict[str, Any]]:
    keys = dense_keys(experiment)
    base = {"name": "baseline", "kind": "", "force_decay": 0.0, "kept": True, "solver": {}}
    rows = [base, *(vars(run) for run in runs_of(experiment))]
    return [{**row, "seeds": [seed for name, seed in keys if name == row["name"]]} for row in rows]
