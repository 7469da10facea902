"""Rank clipping: low-rank layers lose filters while they train.

Wang et al., "Group Scissor", DAC 2017, as the reference's lowrank_netsolver.py does it. A pair is
``<name>_lowrank`` with weight L (r, K), and ``<name>_linear`` with weight U (N, r) on its top; each
group of a convolution has its own L and U. Either of them may hold the kernel (pca, weight_svd): U
is then one matrix for every position. With L = V S Q^T,

    V_M   the first M columns of V, M the least rank with s_1^2 + .. + s_M^2 >= energy |L|^2
    L' = V_M^T L,    b_L' = V_M^T b_L,    U' = U V_M,    b_U stays

so that the pair computes U V_M V_M^T (L x + b_L) + b_U. V_M has orthonormal columns, hence
gradients follow the same maps, dE/dL' = V_M^T dE/dL and dE/dU' = dE/dU V_M, and so does momentum,
which is a sum of gradients. Second moments are sums of squares: they follow the maps with every
entry squared, which is exact where a layer's gradients are uncorrelated.

Differences from the reference: momentum is kept; the iteration goes on, so that any lr_policy,
force_iter and max_iter keep their meaning; groups and biases are allowed; one process.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from caffe_bridge.compress.decompose.base import LINEAR, LOWRANK
from caffe_bridge.compress.rank import check_ratio, rank_for
from caffe_bridge.errors import PlanError, SchemaError
from caffe_bridge.graph import NetSpec, read_net
from caffe_bridge.net import LearnableBlob
from caffe_bridge.schema import Record, load_weights, upgrade_net, write_text
from caffe_bridge.solver import Solver
from caffe_bridge.solver.nets import train_spec
from caffe_bridge.solver.resume import rank_state, set_rank_state, snapshots
from caffe_bridge.solver.snapshot import read_state, weights_beside
from caffe_bridge.solver.start import begin

#: Solver type -> which of its history blocks are sums of gradients; the others are of squares.
FIRST_MOMENTS: dict[str, tuple[bool, ...]] = {
    "SGD": (True,), "Nesterov": (True,), "AdaGrad": (False,), "RMSProp": (False,),
    "AdaDelta": (False, False), "Adam": (True, False),
}  # fmt: skip


@dataclass(frozen=True)
class Pair:
    """A low-rank pair of a net; ``transposed`` weights are stored inputs first."""

    name: str
    group: int
    rank: int
    transposed: bool

    @property
    def lowrank(self) -> str:
        """The layer with the basis filters."""
        return self.name + LOWRANK

    @property
    def linear(self) -> str:
        """The layer that combines them."""
        return self.name + LINEAR


def find_pairs(spec: NetSpec, excepted: Collection[str] = ()) -> list[Pair]:
    """The pairs of a net that can be clipped.

    Args:
        spec: the training net.
        excepted: names of pairs, without the endings, that keep their rank.

    Raises:
        PlanError: something stands between the two layers or reads what the first makes, their
            weights are shared, or an excepted name is no pair.
    """
    layers = {layer.name: layer for layer in spec.layers}
    found = []
    for layer in spec.layers:
        name = layer.name.removesuffix(LOWRANK)
        other = layers.get(name + LINEAR)
        if name == layer.name or other is None or name in excepted:
            continue
        top = layer.tops[0]
        readers = [x for x in spec.layers if top in x.bottoms or (top in x.tops and x is not layer)]
        if other.bottoms != (top,) or readers != [other]:
            raise PlanError(
                f"{layer.label()}: its top '{top}' must be read by '{other.name}' alone to be "
                f"clipped; except '{name}'."
            )
        if any(param.name for x in (layer, other) for param in x.params):
            raise PlanError(f"{layer.label()}: shares weights, so its rank is fixed; except it.")
        fc = layer.type == "InnerProduct"
        param = layer.record.inner_product_param if fc else layer.record.convolution_param
        found.append(Pair(name, 1 if fc else int(param.group), int(param.num_output),
                          bool(fc and param.transpose)))  # fmt: skip
    names = {pair.name for pair in found} | {
        x.name.removesuffix(LOWRANK) for x in spec.layers if x.name.endswith(LOWRANK)
    }
    for name in excepted:
        if name not in names:
            raise PlanError(f"except: '{name}' is no low-rank pair; pairs are {', '.join(names)}.")
    return found


def _basis(pair: Pair, weight: Tensor, energy: float) -> Tensor | None:
    """V_M (group, r / group, M), or None when the rank stays."""
    matrix = weight.detach().cpu().double()
    matrix = matrix.T if pair.transposed else matrix.reshape(len(matrix), -1)
    rows = matrix.reshape(pair.group, pair.rank // pair.group, -1)
    left, values, _ = torch.linalg.svd(rows, full_matrices=False)
    rank = rank_for([s.square().numpy() for s in values], energy) // pair.group
    return left[:, :, :rank] if rank < rows.shape[1] else None


def _clip_rows(values: Tensor, basis: Tensor, pair: Pair) -> Tensor:
    """V^T L of each group; also of a bias (r,)."""
    turned = values.T if pair.transposed and values.ndim == 2 else values
    rows = turned.double().reshape(pair.group, pair.rank // pair.group, -1)
    made = (basis.transpose(1, 2) @ rows).reshape(-1, *turned.shape[1:])
    return made.T if pair.transposed and values.ndim == 2 else made


def _clip_columns(values: Tensor, basis: Tensor, pair: Pair) -> Tensor:
    """U V of each group, at every position of the kernel."""
    turned = values.T if pair.transposed else values
    filters, ranks = turned.shape[:2]
    columns = turned.double().reshape(pair.group, filters // pair.group, ranks, -1)
    made = torch.einsum("gnrk,grm->gnmk", columns, basis).reshape(filters, -1, *turned.shape[2:])
    return made.T if pair.transposed else made


def clipped(values: Tensor, blob: LearnableBlob, pair: Pair, basis: Tensor) -> Tensor:
    """A blob of a pair, or anything that follows it linearly, with fewer ranks."""
    values = values.detach().cpu()
    if blob.layer == pair.lowrank:
        return _clip_rows(values, basis, pair).to(values.dtype).contiguous()
    if blob.index == 0:
        return _clip_columns(values, basis, pair).to(values.dtype).contiguous()
    return values


def _rewritten(net: Record, ranks: dict[str, int]) -> Record:
    """The net with the new ranks; layers of both phases."""
    made = net.copy()
    for layer in made.layer:
        if layer.name in ranks:
            field = "inner_product_param" if layer.type == "InnerProduct" else "convolution_param"
            layer.mutable(field).num_output = ranks[layer.name]
    return made


def clipped_before(param: Record, what: str, excepted: Collection[str] = ()) -> Record:
    """The parameters with the net that a clipped run had when it took a snapshot.

    So a run that was ended goes on with the very command that began it.

    Args:
        param: the parameters of the beginning.
        what: a solverstate, ``latest``, or a snapshot prefix.
        excepted: names of pairs that keep their rank.

    Returns:
        ``param`` itself where the ranks are those of its net, or nothing there can be read.
    """
    prefix = str(param.snapshot_prefix) if what == "latest" else what
    pairs = find_pairs(train_spec(param), excepted)
    for state in [what] if Path(what).is_file() else snapshots(prefix):
        try:
            blobs = load_weights(weights_beside(read_state(state).learned_net, state)).blobs
        except SchemaError:
            continue
        shapes = {pair: next(iter(blobs.get(pair.lowrank, ())), None) for pair in pairs}
        ranks = {p.name: b.shape[1 if p.transposed else 0] for p, b in shapes.items() if b}
        path = Path(f"{param.snapshot_prefix}_{'_'.join(map(str, ranks.values()))}_net.prototxt")
        if all(pair.rank == ranks.get(pair.name) for pair in pairs) or not path.is_file():
            return param
        made = param.copy()
        made.clear("net_param")
        made.net = str(path)
        return made
    return param


class RankClipper:
    """Trains a solver and clips its low-rank pairs every ``test_interval`` iterations.

    At each clip that shrinks a rank it writes, beside the snapshots, a net and a solver prototxt
    and a caffemodel named ``<snapshot_prefix>_<ranks>...``, and a snapshot; the run resumes with
    the new solver prototxt and that snapshot, or from what :func:`clipped_before` gives.

    Args:
        solver: the solver to start with.
        rebuild: makes a solver from changed parameters, as the first one was made.
        energy: share of a basis's energy to keep, in (0, 1].
        until: iteration after which ranks stay; -1 = never.
        excepted: names of pairs that keep their rank.

    Raises:
        PlanError: no pairs, or a setting that does not fit.
    """

    def __init__(
        self,
        solver: Solver,
        rebuild: Callable[[Record], Solver],
        energy: float,
        until: int = -1,
        excepted: Sequence[str] = (),
    ) -> None:
        self.solver, self.rebuild, self.energy = solver, rebuild, check_ratio(energy)
        self.until, self.excepted = until, tuple(excepted)
        self.first = solver
        #: (iteration, rank by pair) after each check.
        self.ranks: list[tuple[int, dict[str, int]]] = []
        param = solver.param
        if solver.ranks.ranks > 1:
            raise PlanError("rank clipping runs in one process; start it without torchrun.")
        if param.test_interval < 1 or not (param.has("net") or param.has("net_param")):
            raise PlanError(
                f"{param.where()}: rank clipping needs a test_interval and a 'net' that serves "
                "training and testing."
            )
        if not find_pairs(solver.net.built.spec, self.excepted):
            raise PlanError(
                f"{solver.net.built.spec.source}: has no layers NAME{LOWRANK} and NAME{LINEAR}; "
                "decompose the net first, at full rank if you like."
            )

    def solve(self) -> Solver:
        """Train to the end; returns the solver of the last net.

        Raises:
            SolverError: ``snapshot_prefix`` is not set or cannot be written.
        """
        begin(self.solver)
        every = int(self.solver.param.test_interval)
        while self.solver.iteration < int(self.solver.param.max_iter):
            left = int(self.solver.param.max_iter) - self.solver.iteration
            self.solver.train(min(every - self.solver.iteration % every, left))
            if self.solver.stop_requested:
                break
            at = self.solver.iteration
            if at % every == 0 and (self.until == -1 or at <= self.until):
                self.clip()
            self.solver.resumed = True  # the window of average_loss goes on
        self.solver.finish()
        return self.solver

    def clip(self) -> bool:
        """Shrink what can be shrunk; whether anything was."""
        old = self.solver
        by_layer = {(b.layer, b.index): b for b in old.net.learnable}
        bases: dict[str, tuple[Pair, Tensor]] = {}
        ranks: dict[str, int] = {}
        for pair in find_pairs(old.net.built.spec, self.excepted):
            basis = _basis(pair, by_layer[pair.lowrank, 0].value, self.energy)
            ranks[pair.name] = pair.rank if basis is None else pair.group * basis.shape[2]
            if basis is not None:
                bases[pair.lowrank] = bases[pair.linear] = (pair, basis)
        self.ranks.append((old.iteration, ranks))
        old.tell("clip", ranks=ranks)
        if not bases:
            return False
        changes = ", ".join(
            f"{pair.name} {pair.rank} -> {ranks[pair.name]}"
            for name, (pair, _) in bases.items() if name == pair.lowrank
        )  # fmt: skip
        self.solver = self._successor(bases, ranks)
        self.solver.say(f"Iteration {old.iteration}, ranks clipped: {changes}", "clip.cpp:1")
        self.solver.snapshot()
        return True

    def _successor(self, bases: dict[str, tuple[Pair, Tensor]], ranks: dict[str, int]) -> Solver:
        old = self.solver
        state = rank_state(old)
        param = self._write_nets(ranks)
        new = self.rebuild(param)
        first = FIRST_MOMENTS[old.rule.name]
        with torch.no_grad():
            for index, (before, after) in enumerate(
                zip(old.net.learnable, new.net.learnable, strict=True)
            ):
                self._carry(before.value, after.value, before, bases, squared=False)
                for block, (source, target) in enumerate(
                    zip(old.history, new.history, strict=True)
                ):
                    self._carry(source[index], target[index], before, bases, not first[block])
        new.iteration, new.step_index = old.iteration, old.step_index
        set_rank_state(new, [state])
        for name in ("on_start", "callbacks", "listeners", "test_results", "last_snapshot"):
            setattr(new, name, getattr(old, name))
        if self._follow not in new.callbacks:
            new.callbacks.append(self._follow)
        weights = self._stem(ranks).with_name(self._stem(ranks).name + (
            ".caffemodel.h5" if param.snapshot_format == "HDF5" else ".caffemodel"
        ))  # fmt: skip
        new.net.save(weights)
        return new

    def _carry(
        self, source: Tensor, target: Tensor, blob: LearnableBlob,
        bases: dict[str, tuple[Pair, Tensor]], squared: bool,
    ) -> None:  # fmt: skip
        if blob.layer in bases:
            pair, basis = bases[blob.layer]
            source = clipped(source, blob, pair, basis.square() if squared else basis)
        target.copy_(source)

    def _follow(self, solver: Solver) -> None:
        """Signals reach the first solver; hand their wishes on."""
        solver.stop_requested |= self.first.stop_requested
        if self.first.snapshot_requested and solver is not self.first:
            solver.snapshot_requested, self.first.snapshot_requested = True, False

    def _stem(self, ranks: dict[str, int]) -> Path:
        prefix = self.first.param.snapshot_prefix
        return Path(f"{prefix}_{'_'.join(map(str, ranks.values()))}")

    def _write_nets(self, ranks: dict[str, int]) -> Record:
        """Write net and solver prototxt; returns the new solver's parameters."""
        old = self.solver.param
        net = read_net(old.net) if old.has("net") else upgrade_net(old.net_param.copy())
        made = _rewritten(net, {name + LOWRANK: rank for name, rank in ranks.items()})
        stem = self._stem(ranks)
        stem.parent.mkdir(parents=True, exist_ok=True)
        path = stem.with_name(stem.name + "_net.prototxt")
        write_text(made, path)
        param = old.copy()
        param.clear("net_param")
        param.clear("weights")
        param.net = str(path)
        write_text(param, stem.with_name(stem.name + "_solver.prototxt"))
        return param
