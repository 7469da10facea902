"""Options that say on what and how a net runs."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from caffe_bridge.errors import BackendError, BridgeError

if TYPE_CHECKING:
    from caffe_bridge.net import Runtime

_NAMES = (
    "device", "gpu", "amp", "channels_last", "compile", "cuda_graph", "deterministic",
    "data_workers",
)  # fmt: skip


@dataclass(frozen=True)
class Choice:
    """What the user gave, unchecked."""

    device: str | None = None
    gpu: str | None = None
    amp: str | None = None
    channels_last: bool = False
    compile: bool = False
    cuda_graph: bool = False
    deterministic: bool = False
    data_workers: int | None = None

    def runtime(self, device: str | None = None) -> Runtime:
        """The settings, checked; on another device than the chosen one if it is given.

        Raises:
            BridgeError: this machine cannot do it.
        """
        from caffe_bridge.net import Runtime

        made = Runtime(
            device or self.place(), self.amp or "", self.channels_last, self.compile,
            self.cuda_graph, self.deterministic, self.data_workers,
        )  # fmt: skip
        made.prepare()
        return made

    def place(self) -> str:
        """The device: ``cpu``, ``cuda`` or ``cuda:N``; the first of several GPUs, as in Caffe.

        Raises:
            click.UsageError: both --device and --gpu, or neither's form.
            BridgeError: no such device here.
        """
        from caffe_bridge.solver.ranks import world_size

        if not self.gpu:
            check_device(self.device or "cpu")
            return self.device or "cpu"
        if self.device is not None:
            raise click.UsageError("--device and --gpu both name a device; give one of them.")
        if world_size() > 1:
            check_device("cuda")
            return "cuda"
        return f"cuda:{self.gpus()[0]}"

    def gpus(self) -> list[int]:
        """The numbers that --gpu names; none without it.

        Raises:
            click.UsageError: neither numbers nor ``all``.
            BridgeError: no such GPU here.
        """
        import torch

        if not self.gpu:
            return []
        count = torch.cuda.device_count()
        numbers = list(range(count)) if self.gpu == "all" else gpu_numbers(self.gpu)
        if not numbers or any(number >= count for number in numbers):
            raise BackendError(
                f"--gpu {self.gpu}: torch sees {count} CUDA devices here; use --device cpu."
            )
        return numbers


def gpu_numbers(text: str) -> list[int]:
    """``0,1`` as numbers.

    Raises:
        click.UsageError: something else, or a number twice.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts) or len(set(parts)) < len(parts):
        raise click.UsageError(f"--gpu {text}: write numbers separated by commas, or all.")
    return [int(part) for part in parts]


def check_device(device: str) -> None:
    """Refuse a device that is unknown or absent.

    Raises:
        click.UsageError: neither cpu nor cuda[:N].
        BridgeError: no such CUDA device here.
    """
    import torch

    kind, _, index = device.partition(":")
    if device != "cpu" and (kind != "cuda" or not (index or "0").isdecimal() or device[-1] == ":"):
        raise click.UsageError(f"--device {device}: write cpu, cuda or cuda:N.")
    count = torch.cuda.device_count() if kind == "cuda" else 0
    if kind == "cuda" and int(index or 0) >= count:
        raise BridgeError(f"--device {device}: torch sees {count} CUDA devices here; use cpu.")


def runtime_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Decorator: add the options; the command gets them as ``choice``."""

    @functools.wraps(command)
    def collected(*args: Any, **given: Any) -> Any:
        choice = Choice(**{name: given.pop(name) for name in _NAMES})
        return command(*args, choice=choice, **given)

    options = [
        click.option("--device", help="cpu (default), cuda or cuda:N."),
        click.option("--gpu", help="As Caffe's tool: a GPU's number, several, or all."),
        click.option("--amp", type=click.Choice(["bf16", "fp16"]), help="Mixed precision."),
        click.option("--channels-last", is_flag=True, help="Keep images as NHWC in memory."),
        click.option("--compile", is_flag=True, help="Compile the net with torch.compile."),
        click.option("--cuda-graph", is_flag=True, help="Replay recorded passes; fixed shapes."),
        click.option("--deterministic", is_flag=True, help="The same numbers in every run."),
        click.option("--data-workers", type=click.IntRange(0), help="Processes to read data."),
    ]
    for option in reversed(options):
        collected = option(collected)
    return collected
