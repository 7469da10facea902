"""What a measurement ran on: the facts without which a time means nothing."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnxruntime as ort

_FLAGS = ("avx2", "fma", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8")
_GOVERNOR = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")


@dataclass(frozen=True)
class Machine:
    """The machine and the versions of a measurement.

    ``channel_block`` is the width of onnxruntime's blocked convolution layout on this CPU (16 with
    AVX-512, else 8; 0 where it has none): ranks that are multiples of it waste nothing.
    """

    cpu: str
    flags: tuple[str, ...]
    cores: int
    load_average: tuple[float, ...]
    governor: str
    system: str
    channel_block: int
    providers: tuple[str, ...]
    versions: dict[str, str] = field(default_factory=dict)


#: Channels that the tensor cores of a GPU take together in half precision.
_CUDA_BLOCK = 8


def channel_block(device: str = "cpu") -> int:
    """The number of channels to which ranks are rounded on a device; 0 where none is known."""
    return _CUDA_BLOCK if device.startswith("cuda") else machine_info().channel_block


def _cpu_info() -> dict[str, str]:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    first: dict[str, str] = {}
    for line in text.splitlines():
        key, _, value = line.partition(":")
        first.setdefault(key.strip(), value.strip())
    return first


def machine_info() -> Machine:
    """Facts of this machine; what the system does not tell is empty."""
    info = _cpu_info()
    present = set(info.get("flags", info.get("Features", "")).split())
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    x86 = platform.machine().lower() in ("x86_64", "amd64", "i686")
    governor = _GOVERNOR.read_text(encoding="utf-8").strip() if _GOVERNOR.exists() else ""
    return Machine(
        cpu=info.get("model name") or platform.processor() or platform.machine(),
        flags=tuple(flag for flag in _FLAGS if flag in present),
        cores=cores or 1,
        load_average=tuple(round(x, 2) for x in os.getloadavg())
        if hasattr(os, "getloadavg")
        else (),
        governor=governor,
        system=platform.platform(),
        channel_block=(16 if "avx512f" in present else 8) if x86 else 0,
        providers=tuple(ort.get_available_providers()),
        versions={
            "python": platform.python_version(),
            "onnxruntime": ort.__version__,
            "numpy": np.__version__,
        },
    )
