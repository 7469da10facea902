"""Training with several processes, on one host or many (started by ``torchrun``).

Every rank trains the same net on its own part of the data. Gradients are averaged before they are
clipped, decayed and forced, so all ranks make the same update. Caffe source: parallel.cpp (NCCL).
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from caffe_bridge.errors import SolverError
from caffe_bridge.layers.data_layer import DataLayer
from caffe_bridge.solver.monitor import Monitor, RankLost
from caffe_bridge.solver.ranks import Ranks, world_size
from caffe_bridge.solver.sync_bn import share_statistics

if TYPE_CHECKING:
    from caffe_bridge.solver.engine import Solver

#: Bytes of gradients that travel together.
BUCKET_BYTES = 16 << 20
#: The monitor finds lost ranks; collectives may wait as long as rank 0 tests.
PATIENCE = timedelta(days=7)
FLAGS = ("stop", "snapshot")
ADVICE = "start the run again with --snapshot latest."


class Bucket:
    """Gradients of some blobs in one tensor; each blob's ``grad`` is a part of it."""

    def __init__(self, blobs: Sequence[nn.Parameter]) -> None:
        self.flat = torch.zeros(
            sum(b.numel() for b in blobs), dtype=blobs[0].dtype, device=blobs[0].device
        )
        self.views: dict[nn.Parameter, Tensor] = {}
        start = 0
        for blob in blobs:
            part = self.flat[start : start + blob.numel()]
            self.views[blob] = part.as_strided(blob.shape, blob.stride())
            start += blob.numel()
        self.work: Any = None

    def collect(self, blob: nn.Parameter) -> None:
        """Let the blob's gradient lie in the bucket."""
        view = self.views[blob]
        if blob.grad is None:
            view.zero_()
        elif blob.grad.data_ptr() != view.data_ptr():
            view.copy_(blob.grad)
        blob.grad = view

    def send(self) -> None:
        """Begin to add the gradients of all ranks."""
        for blob in self.views:
            self.collect(blob)
        self.work = dist.all_reduce(self.flat, async_op=True)


def make_buckets(blobs: Sequence[nn.Parameter]) -> list[Bucket]:
    """Buckets in the order in which gradients become ready, last layers first."""
    groups: list[list[nn.Parameter]] = []
    for blob in reversed(blobs):
        size = sum(b.numel() * b.element_size() for b in groups[-1]) if groups else 0
        if not groups or size > BUCKET_BYTES or groups[-1][0].dtype != blob.dtype:
            groups.append([])
        groups[-1].append(blob)
    return [Bucket(group) for group in groups]


class Team(Ranks):
    """The processes of a run that ``torchrun`` (or whatever sets its variables) started.

    Used as a context manager around the training; :func:`start_team` makes it.

    Args:
        rank: this process.
        ranks: number of processes.
        monitor: watches the others.
        sync_bn: BatchNorm takes its statistics over the batches of all ranks.
    """

    def __init__(self, rank: int, ranks: int, monitor: Monitor, sync_bn: bool = False) -> None:
        self.rank, self.ranks = rank, ranks
        self.monitor, self.sync_bn = monitor, sync_bn
        self.flags = dict.fromkeys(FLAGS, False)
        self.buckets: list[Bucket] = []
        self._ready: Counter[int] = Counter()
        self._sent = 0

    def __enter__(self) -> Team:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        if error is not None:
            self.monitor.fail(str(error) or type(error).__name__)
        else:
            self.monitor.finishing = True
            with self._guard():
                dist.barrier()
        self.monitor.finish()
        if error is None:
            dist.destroy_process_group()

    def rescue(self, solver: Solver) -> None:
        """Snapshot the last finished iteration, on rank 0 and without asking the others.

        All ranks have the same weights and history.
        """
        if self.rank == 0:
            solver.ranks = Ranks()
            with self.monitor.unhurried():
                solver.ranks.rescue(solver)

    @contextmanager
    def _guard(self) -> Iterator[None]:
        """Say which rank is lost when a collective fails."""
        try:
            yield
        except RuntimeError as error:
            raise self.monitor.explain(str(error).strip().split("\n")[0][:200]) from error

    def join(self, solver: Solver) -> None:
        """Prepare a new solver: rank 0's weights, own data, own random numbers, averaging.

        Raises:
            SolverError: a rank has another solver, or a net that replays CUDA graphs.
        """
        if getattr(solver.net, "static_gradients", False):
            raise SolverError(
                f"{solver.param.where()}: recorded CUDA graphs hand no gradients to the other "
                "ranks; train in one process, or leave --cuda-graph out."
            )
        shapes = [tuple(blob.value.shape) for blob in solver.net.learnable]
        mine = (solver.param.type, int(solver.param.max_iter), shapes)
        if self.tell(mine) != mine:
            raise SolverError(
                f"{solver.param.where()}: rank {self.rank} has another net or solver than rank 0; "
                "give all hosts the same files."
            )
        self.copy([blob.value for blob in solver.net.learnable])
        for layer in solver.net.built.layers:
            if isinstance(layer, DataLayer):
                layer.divide(self.rank, self.ranks)
        seed = self.tell(torch.initial_seed())
        if self.rank:
            torch.manual_seed(seed + self.rank)
        shared = share_statistics(solver.net.built, self.add, self.ranks) if self.sync_bn else 0
        trained = [b.value for b in solver.net.learnable if b.value.requires_grad]
        self.buckets = make_buckets(trained)
        if solver.param.layer_wise_reduce:
            self._send_early(max(1, int(solver.param.iter_size)))
        solver.on_gradients.insert(0, self.average)
        solver.say(
            f"Training with {self.ranks} ranks"
            + (f", statistics of {shared} BatchNorm layers shared" if shared else "")
        )

    def _send_early(self, passes: int) -> None:
        """Send each bucket as soon as backward has finished it, in the buckets' order."""

        def watch(index: int) -> Callable[[Tensor], None]:
            def ready(_blob: Tensor) -> None:
                self._ready[index] += 1
                while self._sent < len(self.buckets) and (
                    self._ready[self._sent] == passes * len(self.buckets[self._sent].views)
                ):
                    self._send_next()

            return ready

        for index, bucket in enumerate(self.buckets):
            for blob in bucket.views:
                blob.register_post_accumulate_grad_hook(watch(index))

    def _send_next(self) -> None:
        with self._guard():
            self.buckets[self._sent].send()
        self._sent += 1

    def average(self, solver: Solver) -> None:
        """Replace every gradient by the mean over all ranks; agree on what was asked for."""
        wanted = [bool(getattr(solver, f"{name}_requested")) for name in FLAGS]
        asked = torch.tensor(wanted, dtype=torch.int32)
        while self._sent < len(self.buckets):
            self._send_next()
        with self._guard():
            dist.all_reduce(asked)
            for bucket in self.buckets:
                bucket.work.wait()
                bucket.flat.mul_(1.0 / self.ranks)
        self.flags = {name: bool(n) for name, n in zip(FLAGS, asked.tolist(), strict=True)}
        self._sent = 0
        self._ready.clear()

    def agreed(self, what: str, mine: bool) -> bool:
        """What some rank asked for before the last update."""
        return self.flags[what]

    def add(self, tensor: Tensor) -> None:
        """Add a tensor over all ranks, in place."""
        with self._guard():
            dist.all_reduce(tensor)

    def gather(self, value: Any) -> list[Any] | None:
        """Every rank's value on rank 0; None elsewhere."""
        found: list[Any] | None = [None] * self.ranks if self.rank == 0 else None
        with self._guard():
            dist.gather_object(value, found, dst=0)
        return found

    def tell(self, value: Any) -> Any:
        """Rank 0's value on every rank."""
        box = [value]
        with self._guard():
            dist.broadcast_object_list(box, src=0)
        return box[0]

    @torch.no_grad()
    def copy(self, tensors: list[Tensor]) -> None:
        """Overwrite tensors by those of rank 0."""
        with self._guard():
            for tensor in tensors:
                values = tensor.detach().contiguous()
                dist.broadcast(values, src=0)
                tensor.copy_(values)


def _number(name: str) -> int:
    try:
        return int(os.environ[name])
    except (KeyError, ValueError):
        raise SolverError(
            f"the environment sets WORLD_SIZE but {name} is "
            f"{os.environ.get(name, 'missing')!r}; start the ranks with torchrun."
        ) from None


def start_team(device: str, sync_bn: bool = False, limit: float = 60.0) -> tuple[Ranks, str]:
    """Join the other ranks of the run; an ordinary run has none.

    Args:
        device: ``cpu`` (gloo) or ``cuda`` (nccl).
        sync_bn: share BatchNorm statistics.
        limit: seconds without a sign of life after which a rank counts as lost.

    Returns:
        The ranks, and this rank's device: ``cuda:LOCAL_RANK`` for ``cuda``.

    Raises:
        SolverError: incomplete environment, more ranks on this host than it has GPUs, or a rank
            does not appear within ``limit``.
    """
    ranks = world_size()
    if ranks < 2:
        return Ranks(), device
    rank, port = _number("RANK"), _number("MASTER_PORT")
    host = os.environ.get("MASTER_ADDR", "localhost")
    if device.startswith("cuda"):
        local, count = _number("LOCAL_RANK"), torch.cuda.device_count()
        if local >= count:
            raise SolverError(
                f"rank {rank} of {ranks} is rank {local} of its host, where torch sees {count} "
                "CUDA devices; start one rank for each (--nproc-per-node)."
            )
        device = f"cuda:{local}"
        torch.cuda.set_device(device)
    keeps_store = rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    prefix = f"caffe_bridge/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
    wait = timedelta(seconds=limit)
    try:
        first = dist.TCPStore(host, port, None, keeps_store, wait)
        second = dist.TCPStore(host, port, None, False, wait)
    except RuntimeError as error:
        raise SolverError(
            f"rank {rank} of {ranks} cannot reach {host}:{port}, where the ranks meet; check "
            "MASTER_ADDR, MASTER_PORT and the firewall."
        ) from error
    monitor = Monitor(dist.PrefixStore(prefix, second), rank, ranks, limit, ADVICE)
    store = dist.PrefixStore(prefix, first)
    try:
        store.wait([Monitor.key(other) for other in range(ranks)], wait)
    except RuntimeError as error:
        raise SolverError(
            f"rank {rank} of {ranks}: not all ranks appeared within {limit:g} s; start as many as "
            "--nnodes times --nproc-per-node says."
        ) from error
    monitor.start()
    backend = "cpu:gloo,cuda:nccl" if device.startswith("cuda") else "gloo"
    try:
        dist.init_process_group(
            backend, store=dist.PrefixStore("group", store), rank=rank, world_size=ranks,
            timeout=PATIENCE,
        )  # fmt: skip
    except RuntimeError as error:
        raise monitor.explain(str(error).split("\n")[0]) from error
    return Team(rank, ranks, monitor, sync_bn), device


__all__ = ["Bucket", "RankLost", "Team", "make_buckets", "start_team"]
