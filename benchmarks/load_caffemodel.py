"""How fast and how lean a caffemodel becomes torch parameters, against plain protobuf.

Every measurement runs in a fresh process, the two ways in turn:

* peer: ``NetParameter().ParseFromString(open(file).read())`` of an ordinary schema (``repeated
  float data``) and ``numpy.array(blob.data)`` for every blob, as Python readers do;
* ours: ``Net.load``; the net is built before without running fillers, and its memory counts.

Both start alike: same imports, and just before the clock starts another process has touched and
freed more memory than either needs, in huge and in small pages. On a virtual machine the first use
of memory that the host has taken back costs more than either way of loading, and would fall on one
or the other by chance; ``--cold`` leaves this step out.

Memory is the peak of the process minus what it used after its imports. The exit status is 1 if a
target is missed: 0.35 of the peer's time, 1.3 times the file's size.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
MAX_TIME_RATIO = 0.35
MAX_MEMORY_RATIO = 1.3
WAYS = ("peer", "ours")
#: Touched before each measurement, in sizes of the file, in huge and again in small pages.
TOUCHED = 3


def _status(key: str) -> int:
    """A field of /proc/self/status in bytes."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    raise KeyError(key)


def memory_now() -> int:
    """Resident bytes now; the peak counter starts again from here where the system allows."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    try:
        return _status("VmRSS")
    except OSError:
        return memory_peak()


def memory_peak() -> int:
    """Peak of the resident bytes."""
    try:
        return _status("VmHWM")
    except OSError:
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def prepare(touch_bytes: int) -> int:
    """Import what either way needs and bring memory into the same state; returns bytes in use."""
    import torch

    from caffe_bridge.layers.registry import LAYERS

    torch.set_num_threads(1)
    LAYERS.load()
    if touch_bytes:
        code = "import numpy, sys; n = int(sys.argv[1]); x = numpy.ones(n, 'u1'), b'1' * n"
        subprocess.run([sys.executable, "-c", code, str(touch_bytes)], check=True)
    return memory_now()


def run_peer(weights: Path, touch_bytes: int) -> dict[str, Any]:
    """Parse with protobuf and copy every blob to numpy."""
    import numpy as np
    from google.protobuf.internal import api_implementation

    from caffe_bridge.schema.messages import message_class

    message = message_class("NetParameter")()
    before = prepare(touch_bytes)
    start = time.perf_counter()
    with weights.open("rb") as stream:
        message.ParseFromString(stream.read())
    arrays = [np.array(blob.data, np.float32) for layer in message.layer for blob in layer.blobs]
    seconds = time.perf_counter() - start
    return {
        "load_s": seconds,
        "memory_bytes": memory_peak() - before,
        "values": sum(a.size for a in arrays),
        "checksum": sum(float(a.sum(dtype=np.float64)) for a in arrays),
        "protobuf": api_implementation.Type(),
    }


def run_ours(net_path: Path, weights: Path, touch_bytes: int) -> dict[str, Any]:
    """Build the net with zero blobs, then load."""
    import numpy as np

    from caffe_bridge.graph import load_net
    from caffe_bridge.net import Net, build

    before = prepare(touch_bytes)
    start = time.perf_counter()
    spec = load_net(net_path)
    net = Net(spec, built=build(spec, fill=False))
    built = time.perf_counter()
    missing = net.load(weights)
    seconds = time.perf_counter() - built
    peak = memory_peak() - before
    if missing:
        raise SystemExit(f"{weights} has no weights for {', '.join(missing)}.")
    arrays = [blob.value.detach().numpy() for blob in net.learnable]
    return {
        "load_s": seconds,
        "build_s": built - start,
        "memory_bytes": peak,
        "values": sum(a.size for a in arrays),
        "checksum": sum(float(a.sum(dtype=np.float64)) for a in arrays),
    }


def fresh(way: str, net: Path, weights: Path, touch_bytes: int) -> dict[str, Any]:
    """One measurement in a process of its own."""
    command = [sys.executable, __file__, "--child", way, "--net", str(net)]
    command += ["--weights", str(weights), "--touch", str(touch_bytes)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def compare(net: Path, weights: Path, repeats: int, cold: bool = False) -> dict[str, Any]:
    """Medians of both ways, measured in turn."""
    weights.read_bytes()  # both ways find the file in the page cache
    size = weights.stat().st_size
    touch_bytes = 0 if cold else TOUCHED * size
    found: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
    for number in range(repeats):
        for way in WAYS if number % 2 == 0 else WAYS[::-1]:
            found[way].append(fresh(way, net, weights, touch_bytes))
    for key in ("values", "checksum"):
        seen = {way: found[way][0][key] for way in WAYS}
        if abs(seen["peer"] - seen["ours"]) > 1e-6 * max(1.0, abs(seen["peer"])):
            raise SystemExit(f"the two ways read different weights: {key} {seen}.")
    result: dict[str, Any] = {
        "net": net.name, "file_bytes": size, "repeats": repeats, "cold": cold,
        "machine": platform.platform(),
        "cores": os.cpu_count(), "python": platform.python_version(),
        "protobuf": found["peer"][0]["protobuf"],
    }  # fmt: skip
    for way in WAYS:
        runs = found[way]
        result[way] = {
            key: statistics.median(run[key] for run in runs)
            for key in ("load_s", "build_s", "memory_bytes")
            if key in runs[0]
        }
        result[way]["load_s_all"] = [run["load_s"] for run in runs]
        result[way]["memory_ratio"] = result[way]["memory_bytes"] / size
    result["time_ratio"] = result["ours"]["load_s"] / result["peer"]["load_s"]
    result["targets"] = {"time_ratio": MAX_TIME_RATIO, "memory_ratio": MAX_MEMORY_RATIO}
    result["met"] = (
        result["time_ratio"] <= MAX_TIME_RATIO
        and result["ours"]["memory_ratio"] < MAX_MEMORY_RATIO
    )  # fmt: skip
    return result


def show(result: dict[str, Any]) -> None:
    """Print the table."""
    print(f"{result['net']}, {result['file_bytes'] / 1e6:.1f} MB, {result['repeats']} repeats each")
    print(f"{'':6}{'load s':>10}{'build s':>10}{'peak MB':>10}{'peak/file':>11}")
    for way in WAYS:
        row = result[way]
        build = f"{row['build_s']:.3f}" if "build_s" in row else "-"
        print(
            f"{way:6}{row['load_s']:10.3f}{build:>10}{row['memory_bytes'] / 1e6:10.1f}"
            f"{row['memory_ratio']:11.2f}"
        )
    print(
        f"time ratio {result['time_ratio']:.3f} (target <= {MAX_TIME_RATIO}), "
        f"memory {result['ours']['memory_ratio']:.2f} of the file (target < {MAX_MEMORY_RATIO}): "
        f"{'met' if result['met'] else 'MISSED'}"
    )


def main() -> int:
    """Parse the arguments and run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--net", type=Path, default=ROOT / "solvers/alexnet/deploy.prototxt")
    parser.add_argument("--weights", type=Path, help="caffemodel; made from the fillers if absent")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", type=Path, help="write the result here too")
    parser.add_argument("--cold", action="store_true", help="touch no memory before measuring")
    parser.add_argument("--touch", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--child", choices=WAYS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        if args.child == "peer":
            run = run_peer(args.weights, args.touch)
        else:
            run = run_ours(args.net, args.weights, args.touch)
        print(json.dumps(run))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        weights = args.weights
        if weights is None:
            from caffe_bridge.net import Net

            weights = Net(args.net, seed=0).save(Path(folder) / "made.caffemodel")
        result = compare(args.net, weights, args.repeats, args.cold)
    show(result)
    text = json.dumps(result, indent=2) + "\n"
    print(text, end="")
    if args.json:
        args.json.write_text(text, encoding="utf-8")
    return 0 if result["met"] else 1


if __name__ == "__main__":
    sys.exit(main())
