"""``caffe-bridge device_query``."""

from __future__ import annotations

import os
import platform
from typing import Any

import click

from caffe_bridge.cli.common import json_option, print_json, verb
from caffe_bridge.cli.runtime import gpu_numbers
from caffe_bridge.errors import BackendError


@verb("caffe-bridge device_query --gpu all")
@click.option("--gpu", default="all", show_default=True, help="Numbers of GPUs, or all.")
@json_option
def command(gpu: str, as_json: bool) -> None:
    """Show the processors on which nets can run."""
    import torch

    count = torch.cuda.device_count()
    numbers = list(range(count)) if gpu in ("all", "") else gpu_numbers(gpu)
    if any(number >= count for number in numbers):
        raise BackendError(f"--gpu {gpu}: torch sees {count} CUDA devices here.")
    cpu = {
        "name": platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    devices: list[dict[str, Any]] = []
    for number in numbers:
        found = torch.cuda.get_device_properties(number)
        devices.append(
            {
                "id": number,
                "name": found.name,
                "capability": f"{found.major}.{found.minor}",
                "memory": found.total_memory,
                "multiprocessors": found.multi_processor_count,
            }
        )
    if as_json:
        print_json({"cpu": cpu, "gpus": devices})
        return
    click.echo(f"CPU: {cpu['name']}, {cpu['cores']} cores, torch {cpu['torch']} with "
               f"{cpu['threads']} threads")  # fmt: skip
    for device in devices:
        click.echo(f"Device id:                     {device['id']}")
        click.echo(f"Name:                          {device['name']}")
        click.echo(f"Compute capability:            {device['capability']}")
        click.echo(f"Total global memory:           {device['memory']}")
        click.echo(f"Number of multiprocessors:     {device['multiprocessors']}")
    if not devices:
        click.echo("No CUDA devices.")
