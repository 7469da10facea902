"""Several GPUs on one machine: this command again, as one process for each of them."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import NoReturn


def launch_ranks(gpus: Sequence[int], arguments: Sequence[str]) -> NoReturn:
    """Replace this process by ``torchrun`` with a rank for each GPU.

    Args:
        gpus: numbers of GPUs among those that this process sees.
        arguments: the command line of this program, without its name.
    """
    seen = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    names = seen.split(",") if seen else [str(number) for number in range(max(gpus) + 1)]
    threads = max(1, len(os.sched_getaffinity(0)) // len(gpus))
    environment = {
        "OMP_NUM_THREADS": str(threads), **os.environ,
        "CUDA_VISIBLE_DEVICES": ",".join(names[number] for number in gpus),
    }  # fmt: skip
    # Without "--" torchrun takes --log for an abbreviation of its own --log-dir.
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node",
        str(len(gpus)), "-m", "--", "caffe_bridge", *arguments,
    ]  # fmt: skip
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(sys.executable, command, environment)
