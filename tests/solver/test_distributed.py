"""Two ranks with batch b train as one process with batch 2b; a dead rank ends the run."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.distributed import HashStore

from caffe_bridge.data import write_datums
from caffe_bridge.errors import SolverError
from caffe_bridge.net import Runtime, RuntimeNet
from caffe_bridge.schema import load_weights
from caffe_bridge.solver import Solver, read_solver
from caffe_bridge.solver.distributed import Team, make_buckets
from caffe_bridge.solver.monitor import Monitor
from caffe_bridge.solver.ranks import Ranks
from caffe_bridge.solver.resume import resume
from tests.shared import REPO

CLOSE = 1e-5
COUNT = 37
NET = """
name: 'two'
layer {{ name: 'data' type: 'Data' top: 'x' top: 'label'
  transform_param {{ crop_size: 6 mirror: true scale: 0.01 }}
  data_param {{ source: '{folder}/db' backend: LMDB batch_size: {batch} }} }}
layer {{ name: 'conv' type: 'Convolution' bottom: 'x' top: 'c'
  param {{ force_mult: 1 }} param {{ lr_mult: 2 decay_mult: 0 }}
  convolution_param {{ num_output: 4 kernel_size: 3 weight_filler {{ type: 'xavier' }} }} }}
{bn}
layer {{ name: 'act' type: 'TanH' bottom: 'c' top: 'c' }}
layer {{ name: 'ip' type: 'InnerProduct' bottom: 'c' top: 'y' param {{ force_mult: 2 }}
  inner_product_param {{ num_output: 5 weight_filler {{ type: 'xavier' }} }} }}
layer {{ name: 'loss' type: 'SoftmaxWithLoss' bottom: 'y' bottom: 'label' top: 'loss' }}
"""
BN = "layer {{ name: 'bn' type: 'BatchNorm' bottom: 'c' top: 'c' }}"
COMMON = """
net: '{folder}/{net}_{batch}.prototxt' base_lr: 0.05 lr_policy: 'fixed' weight_decay: 0.001
iter_size: 2 random_seed: 5 max_iter: 20 snapshot_prefix: '{folder}/{name}_{batch}'
test_iter: 1 test_interval: 9 display: 4 average_loss: 3
"""
FORCE = " force_decay: 0.01 force_type: 'Constant' force_direction: 'same'"
CASES = {
    "sgd": "type: 'SGD' momentum: 0.9 clip_gradients: 0.5",
    "sgd_force": "type: 'SGD' momentum: 0.9" + FORCE,
    "adam": "type: 'Adam' momentum: 0.9 delta: 0.001 layer_wise_reduce: false",
    "adam_force": "type: 'Adam' momentum: 0.9 delta: 0.001 force_decay_type: 'adaptive'" + FORCE,
    "nesterov": "type: 'Nesterov' momentum: 0.9" + FORCE,
    "adagrad": "type: 'AdaGrad' delta: 0.001" + FORCE,
    "rmsprop": "type: 'RMSProp' delta: 1" + FORCE,
    "adadelta": "type: 'AdaDelta' momentum: 0.9 delta: 0.001" + FORCE,
    "sync_bn": "type: 'SGD' momentum: 0.9",
}
ALL = """
import sys
from pathlib import Path
import torch
from caffe_bridge.solver import Solver, read_solver
from caffe_bridge.solver.distributed import start_team
torch.set_num_threads(1)
ranks, device = start_team("cpu", sync_bn=True)
with ranks:
    for path in sys.argv[1:]:
        Solver(read_solver(path), device=device, ranks=ranks).solve()
        Path(path + f".rank{ranks.rank}").write_text(f"{ranks.rank} of {ranks.ranks}")
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("ranks")
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (COUNT, 3, 8, 8), np.uint8)
    write_datums(made / "db", images, rng.integers(0, 5, COUNT))
    for batch in (3, 6):
        for net, bn in (("plain", ""), ("norm", BN.format())):
            path = made / f"{net}_{batch}.prototxt"
            path.write_text(NET.format(folder=made, batch=batch, bn=bn))
        for name, text in CASES.items():
            net = "norm" if name == "sync_bn" else "plain"
            common = COMMON.format(folder=made, net=net, batch=batch, name=name)
            (made / f"{name}_{batch}.solver").write_text(common + text)
    return made


def torchrun(*arguments: object) -> subprocess.Popen[str]:
    """Two ranks on this machine."""
    code = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return subprocess.Popen(
        [*code, *(str(part) for part in arguments)], cwd=REPO, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def wait_until(run: subprocess.Popen[str], happened: Callable[[], bool]) -> None:
    """Wait for something that a run does, however busy the machine is."""
    deadline = time.monotonic() + 200
    while not happened():
        assert run.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture(scope="module")
def trained(folder: Path) -> Path:
    """Every case trained with two ranks of batch 3, in one pair of processes."""
    (folder / "all.py").write_text(ALL)
    run = torchrun(folder / "all.py", *(folder / f"{name}_3.solver" for name in CASES))
    output, _ = run.communicate(timeout=120)
    assert run.returncode == 0, output
    return folder


@pytest.mark.parametrize("name", CASES)
def test_two_ranks_equal_one_process_with_twice_the_batch(name: str, trained: Path) -> None:
    assert (trained / f"{name}_3.solver.rank1").read_text() == "1 of 2"
    alone = Solver(read_solver(trained / f"{name}_6.solver"))
    start = [blob.value.detach().clone() for blob in alone.net.learnable]
    alone.solve()
    want, got = (
        load_weights(trained / f"{name}_{batch}_iter_20.caffemodel").blobs for batch in (6, 3)
    )
    for blob, before in zip(alone.net.learnable, start, strict=True):
        one, two = (np.array(w[blob.layer][blob.index].array()) for w in (want, got))
        assert not np.array_equal(one.reshape(before.shape), before.numpy())
        assert np.abs(one - two).max() <= CLOSE * max(1.0, np.abs(one).max()), blob.layer


def test_batch_norm_keeps_the_statistics_of_rank_0(folder: Path) -> None:
    """Without --sync-bn, as Caffe: those of the items that rank 0 reads."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (COUNT, 3, 8, 8), np.uint8)
    write_datums(folder / "even", images[::2], rng.integers(0, 5, COUNT)[::2])
    text = (folder / "norm_3.prototxt").read_text().replace("crop_size: 6 mirror: true", "")
    common = COMMON.format(folder=folder, net="NET", batch=3, name="NET").replace("0.05", "0")
    for net, source in (("both", "db"), ("half", "even")):
        (folder / f"{net}_3.prototxt").write_text(text.replace("/db'", f"/{source}'"))
        solver = common.replace("max_iter: 20", "max_iter: 3").replace("NET", net)
        (folder / f"{net}_3.solver").write_text(solver)
    run = torchrun("-m", "caffe_bridge", "train", "--quiet", "--solver", folder / "both_3.solver")
    alone = Solver(read_solver(folder / "half_3.solver"))
    alone.solve()
    output, _ = run.communicate(timeout=120)
    assert run.returncode == 0, output
    one, two = (load_weights(folder / f"{name}_3_iter_3.caffemodel").blobs["bn"]
                for name in ("half", "both"))  # fmt: skip
    for mine, theirs in zip(one, two, strict=True):
        assert mine is not None and theirs is not None and np.abs(mine.array()).min() > 0
        np.testing.assert_allclose(theirs.array(), mine.array(), rtol=1e-5)


def test_resuming_with_two_ranks_is_exact_and_with_one_possible(trained: Path) -> None:
    solver = trained / "sgd_3.solver"
    state = trained / "sgd_3_iter_20.solverstate"
    text = solver.read_text().replace("max_iter: 20", "max_iter: 26")
    (trained / "straight.solver").write_text(text.replace("sgd_3'", "straight'"))
    (trained / "resumed.solver").write_text(text.replace("sgd_3'", "resumed'"))
    base = ("-m", "caffe_bridge", "train", "--quiet", "--solver")
    runs = [
        torchrun(*base, trained / "straight.solver"),
        torchrun(*base, trained / "resumed.solver", "--snapshot", state),
    ]
    for run in runs:
        output, _ = run.communicate(timeout=120)
        assert run.returncode == 0, output
    straight, resumed = (
        load_weights(trained / f"{name}_iter_26.caffemodel").blobs
        for name in ("straight", "resumed")
    )
    for layer, blobs in straight.items():
        for one, other in zip(blobs, resumed[layer], strict=True):
            np.testing.assert_array_equal(one.array(), other.array())
    alone = Solver(read_solver(trained / "straight.solver"))
    resume(alone, str(state))
    assert alone.iteration == 20
    assert alone.net.layer("data").source.state()["at"] == 20 * 2 * 6 % COUNT


def test_a_dead_rank_ends_the_run_and_its_snapshot_resumes(folder: Path) -> None:
    text = COMMON.format(folder=folder, net="plain", batch=3, name="dead") + CASES["sgd"]
    path = folder / "dead.solver"
    path.write_text(text.replace("max_iter: 20", "max_iter: 1000000 snapshot: 50"))
    (folder / "dead.py").write_text(PIDS)
    run = torchrun(folder / "dead.py", "train", "--quiet", "--solver", path)
    wait_until(run, (folder / "dead_3_iter_50.solverstate").exists)
    os.kill(int((folder / "pid1").read_text()), signal.SIGKILL)
    output, _ = run.communicate(timeout=120)
    assert run.returncode != 0
    errors = [line for line in output.splitlines() if line.startswith("error: ")]
    assert errors == [
        "error: rank 0 of 2 stops: rank 1 died or lost its connection; start the run again with "
        "--snapshot latest."
    ]
    alone = Solver(read_solver(path))
    resume(alone, "latest")
    before = alone.iteration
    assert before >= 50
    alone.step(2)
    assert alone.iteration == before + 2


def test_a_dead_rank_leaves_the_last_iteration(folder: Path) -> None:
    """Without a single snapshot before: rank 0 writes one as it ends."""
    text = COMMON.format(folder=folder, net="plain", batch=3, name="rescued") + CASES["adam"]
    path = folder / "rescued.solver"
    path.write_text(text.replace("max_iter: 20", "max_iter: 1000000"))
    (folder / "dead.py").write_text(PIDS)
    log = folder / "rescued.log"
    (folder / "pid1").unlink(missing_ok=True)
    run = torchrun("--", folder / "dead.py", "train", "--quiet", "--log", log, "--solver", path)
    wait_until(run, lambda: log.exists() and "Iteration 40 " in log.read_text())
    os.kill(int((folder / "pid1").read_text()), signal.SIGKILL)
    output, _ = run.communicate(timeout=120)
    assert run.returncode != 0
    assert "rank 1 died or lost its connection" in output
    alone = Solver(read_solver(path))
    state = resume(alone, "latest")
    reached = [int(n) for n in re.findall(r"Iteration (\d+) \(", log.read_text())]
    assert reached[-1] <= alone.iteration <= reached[-1] + 4
    assert len(list(folder.glob("rescued_3_iter_*.solverstate"))) == 1
    before = alone.iteration
    (folder / "on.solver").write_text(text.replace("max_iter: 20", f"max_iter: {before + 2}"))
    again = torchrun("-m", "caffe_bridge", "train", "--quiet", "--solver", folder / "on.solver",
                     "--snapshot", state)  # fmt: skip
    output, _ = again.communicate(timeout=120)
    assert again.returncode == 0, output
    assert (folder / f"rescued_3_iter_{before + 2}.solverstate").is_file()


PIDS = """
import os, sys
from pathlib import Path
from caffe_bridge.cli.main import main
place = Path(__file__).parent / ("pid" + os.environ["RANK"])
place.with_suffix(".new").write_text(str(os.getpid()))
place.with_suffix(".new").rename(place)
sys.exit(main(sys.argv[1:]))
"""


def test_a_rank_that_fails_says_why_on_all(folder: Path) -> None:
    """Rank 1 reads a prototxt that names a missing data base."""
    text = (folder / "sgd_3.solver").read_text()
    (folder / "bad.prototxt").write_text(
        (folder / "plain_3.prototxt").read_text().replace("/db'", "/gone'")
    )
    for rank, net in enumerate(("plain_3", "bad")):
        changed = text.replace("plain_3", net).replace("sgd_3", "failed")
        (folder / f"fails{rank}.solver").write_text(changed)
    (folder / "fails.py").write_text(
        "import os, sys\nfrom caffe_bridge.cli.main import main\n"
        "sys.exit(main(['train', '--quiet', '--solver', "
        "sys.argv[1] + os.environ['RANK'] + '.solver']))\n"
    )
    run = torchrun(folder / "fails.py", folder / "fails")
    output, _ = run.communicate(timeout=120)
    assert run.returncode != 0
    errors = sorted(line for line in output.splitlines() if line.startswith("error: "))
    assert len(errors) == 2, output
    assert errors[0].startswith("error: data (Data) at ") and "no LMDB data base" in errors[0]
    assert errors[1].startswith("error: rank 0 of 2 stops: rank 1 failed: data (Data) at ")


def test_one_process_alone() -> None:
    ranks = Ranks()
    assert ranks.gather(3) == [3] and ranks.tell(4) == 4
    assert ranks.agreed("stop", True) and not ranks.agreed("snapshot", False)


def test_recorded_graphs_are_refused(folder: Path) -> None:
    """Replayed gradients would reach the buckets too late, without a word."""
    param = read_solver(folder / "sgd_3.solver")
    solver = Solver(param, make_net=lambda spec: RuntimeNet(spec, Runtime(cuda_graph=True)))
    team = Team(0, 2, Monitor(HashStore(), 0, 2, 60.0, ""))
    with pytest.raises(SolverError, match="train in one process, or leave --cuda-graph out"):
        team.join(solver)


def test_gradients_lie_in_buckets() -> None:
    blobs = [torch.nn.Parameter(torch.ones(size)) for size in ((2, 3), (4,), (1,))]
    blobs[0].grad = torch.full((2, 3), 7.0)
    (bucket,) = make_buckets(blobs)
    for blob in blobs:
        bucket.collect(blob)
    assert bucket.flat.tolist() == [0.0] * 5 + [7.0] * 6
    bucket.flat.mul_(2)
    assert blobs[0].grad.tolist() == [[14.0] * 3] * 2
    assert blobs[2].grad is not None and blobs[2].grad.tolist() == [0.0]
