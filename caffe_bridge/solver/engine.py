"""The training loop: Caffe's Solver::Step, read from top to bottom."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable

import torch
from torch import Tensor

from caffe_bridge.errors import DataError, SchemaError
from caffe_bridge.files import atomic_paths
from caffe_bridge.graph import NetSpec
from caffe_bridge.log import Sink, glog_line, silent
from caffe_bridge.net import Net, share_weights
from caffe_bridge.schema import Record
from caffe_bridge.solver.collapse import CollapseGuard
from caffe_bridge.solver.debug_info import debug_lines
from caffe_bridge.solver.events import Listener, named_numbers, output_lines
from caffe_bridge.solver.force import check_force, decay_at
from caffe_bridge.solver.health import advice, check_loss, check_weights, write_failed
from caffe_bridge.solver.lr_policy import check_policy, current_step, learning_rate
from caffe_bridge.solver.monitor import RankLost
from caffe_bridge.solver.nets import test_specs, train_spec
from caffe_bridge.solver.ranks import Ranks
from caffe_bridge.solver.resume import (
    apply_side,
    check_side,
    rank_state,
    read_side,
    side_path,
    write_side,
)
from caffe_bridge.solver.scoring import run_test
from caffe_bridge.solver.snapshot import (
    State,
    check_history,
    read_state,
    restore_history,
    snapshot_paths,
    weights_beside,
    write_state,
)
from caffe_bridge.solver.solvable import SolvableNet
from caffe_bridge.solver.start import begin, load_weights, make_folder, required_prefix, seed_data
from caffe_bridge.solver.terms import gradient_terms
from caffe_bridge.solver.terms.decay import check_regularization
from caffe_bridge.solver.updates import update_rule


class Solver:
    """Trains a net as Caffe's solvers do.

    Args:
        solver: SolverParameter in the current format.
        make_net: builds an executor from a spec; the whole-graph one by default.
        device: torch device of the whole-graph executor.
        log: receives glog-like lines.
        ranks: the processes that train together; this one alone by default.

    Raises:
        BridgeError: the solver or its nets are wrong.
    """

    def __init__(
        self,
        solver: Record,
        make_net: Callable[[NetSpec], SolvableNet] = Net,
        device: str = "cpu",
        log: Sink = silent,
        ranks: Ranks | None = None,
    ) -> None:
        self.ranks = ranks or Ranks()
        self.param, self.log = solver, log if self.ranks.rank == 0 else silent
        self.rule = update_rule(solver)
        check_policy(solver)
        check_regularization(solver)
        check_force(solver)
        if solver.random_seed >= 0:
            torch.manual_seed(int(solver.random_seed))
        self.net = make_net(train_spec(solver))
        self.test_nets = [make_net(s) for s in test_specs(solver)] if self.ranks.rank == 0 else []
        for net in (self.net, *self.test_nets):
            if isinstance(net, Net) and device != "cpu":
                net.to(device)
        for test_net in self.test_nets:
            share_weights(test_net.built, self.net.built)
        load_weights(self)
        seed_data(self)
        self.iteration = 0
        self.step_index = 0
        self.terms = gradient_terms(solver, self.net.built)
        self.stop_requested = False
        self.snapshot_requested = False
        self.on_start: list[Callable[[Solver], None]] = []
        self.on_gradients: list[Callable[[Solver], None]] = []
        self.callbacks: list[Callable[[Solver], None]] = []
        #: Called with the gradients before they are clipped; False skips the update.
        self.gates: list[Callable[[Solver, list[Tensor]], bool]] = []
        self.listeners: list[Listener] = []
        self.guard = CollapseGuard(solver, self.net.learnable)
        self.last_snapshot, self.safe_iteration = "", 0
        #: What the last update took off the weights; kept for ``snapshot_diff`` only.
        self.updates: list[Tensor] = []
        for net in self.test_nets:
            if isinstance(net, Net):
                net.keep_diffs = bool(solver.debug_info)
        self.loss = 0.0
        self.resumed = False
        self.recent: deque[float] = deque(maxlen=max(1, int(solver.average_loss)))
        self.test_results: list[dict[str, float]] = []
        self.test_iteration = -1
        blobs = self.net.learnable
        self.history = [[torch.zeros_like(b.value, requires_grad=False) for b in blobs]
                        for _ in range(self.rule.histories)]  # fmt: skip
        self.ranks.join(self)

    @property
    def force_decay(self) -> float:
        """The strength of the force in the coming iteration."""
        return decay_at(self.param, self.iteration)

    def say(self, message: str, place: str = "solver.cpp:1") -> None:
        """Log one line."""
        self.log(glog_line(message, place))

    def step(self, iterations: int) -> None:
        """Train for a number of iterations."""
        end = self.iteration + iterations
        if not self.resumed:
            self.recent.clear()
        self.resumed = False
        started, since = time.monotonic(), self.iteration
        while self.iteration < end and not self.ranks.agreed("stop", self.stop_requested):
            self._clear_gradients()
            if self._test_due():
                self.test_all()
                if self.ranks.agreed("stop", self.stop_requested):
                    break
            for callback in self.on_start:
                callback(self)
            display = bool(self.param.display) and self.iteration % int(self.param.display) == 0
            loss = 0.0
            for _ in range(max(1, int(self.param.iter_size))):
                loss += self._pass(display and bool(self.param.debug_info))
            self.loss = loss / max(1, int(self.param.iter_size))
            check_loss(self)
            self.recent.append(self.loss)
            if display:
                now = time.monotonic()
                self._display(now - started, self.iteration - since)
                started, since = now, self.iteration
            for callback in self.on_gradients:
                callback(self)
            self.apply_update()
            self.iteration += 1
            for callback in self.callbacks:
                callback(self)
            every = int(self.param.snapshot)
            asked = self.ranks.agreed("snapshot", self.snapshot_requested)
            if (every and self.iteration % every == 0) or asked:
                self.snapshot_requested = False
                self.snapshot()

    def _pass(self, debug: bool) -> float:
        if not isinstance(self.net, Net):
            return self.net.forward_backward()
        self.net.keep_diffs = debug
        loss = self.net.forward_backward()
        for line in debug_lines(self.net) if debug else ():
            self.say(line, "net.cpp:600")
        return loss

    def train(self, iterations: int) -> None:
        """As :meth:`step`; if the data or another rank fails, a snapshot is taken first.

        Raises:
            DataError: names the iteration and the snapshot.
            RankLost: another rank is gone.
        """
        try:
            self.step(iterations)
        except RankLost:
            self.ranks.rescue(self)
            raise
        except DataError as error:
            self.ranks.rescue(self)
            text = f"iteration {self.iteration}: {error} {advice(self)}."
            raise DataError(text) from error

    def solve(self) -> None:
        """Train to ``max_iter``, with the last snapshot, display and test as Caffe."""
        begin(self, bool(self.param.snapshot or self.param.snapshot_after_train))
        self.train(max(0, int(self.param.max_iter) - self.iteration))
        self.finish()

    def finish(self) -> None:
        """The last snapshot, display and test of a run that is trained or was stopped."""
        every = int(self.param.snapshot)
        if self.param.snapshot_after_train and (not every or self.iteration % every):
            self.snapshot()
        if self.ranks.agreed("stop", self.stop_requested):
            self.say("Optimization stopped early.", "solver.cpp:295")
            return
        if self.param.display and self.iteration % self.param.display == 0:
            self.recent.append(self.net.evaluate())
            average = sum(self.recent) / max(1, len(self.recent))
            self.say(f"Iteration {self.iteration}, loss = {average:g}", "solver.cpp:310")
        if self.test_nets and self.iteration % self.param.test_interval == 0:
            self.test_all()
        self.say("Optimization Done.", "solver.cpp:320")

    def _test_due(self) -> bool:
        interval = int(self.param.test_interval)
        if not self.test_nets or interval < 1 or self.iteration % interval:
            return False
        return self.iteration > 0 or bool(self.param.test_initialization)

    def _clear_gradients(self) -> None:
        # A forgotten gradient is handed over by the backward pass instead of being added to zeros;
        # only the whole-graph executor makes new ones, and only where no graph is recorded.
        forget = isinstance(self.net, Net) and not getattr(self.net, "static_gradients", False)
        for blob in self.net.learnable:
            if blob.value.grad is None:
                continue
            if forget and blob.value.requires_grad:
                blob.value.grad = None
            else:
                blob.value.grad.zero_()

    @torch.no_grad()
    def apply_update(self) -> None:
        """Clip, normalise, regularise, force, update: SGDSolver::ApplyUpdate's order."""
        solver, blobs = self.param, self.net.learnable
        step = current_step(solver, self.iteration, self.step_index)
        if solver.lr_policy == "multistep" and step != self.step_index:
            self.say(f"MultiStep Status: Iteration {self.iteration}, step = {step}",
                     "sgd_solver.cpp:60")  # fmt: skip
        self.step_index = step
        rate = learning_rate(solver, self.iteration, self.step_index)
        if solver.display and self.iteration % solver.display == 0:
            self.say(f"Iteration {self.iteration}, lr = {rate:g}", "sgd_solver.cpp:112")
        weights: list[Tensor] = [b.value.detach() for b in blobs]
        grads = []
        for blob in blobs:
            if blob.value.grad is None:
                blob.value.grad = torch.zeros_like(blob.value)
            grads.append(blob.value.grad)
        if not grads or not all(gate(self, grads) for gate in self.gates):
            return
        self._clip(grads)
        if solver.iter_size > 1:
            torch._foreach_mul_(grads, 1.0 / solver.iter_size)
        for term in self.terms:
            term.add(weights, grads, self.iteration)
        rates = [rate * blob.lr_mult for blob in blobs]
        updates = self.rule.apply(solver, grads, self.history, rates, self.iteration)
        torch._foreach_sub_(weights, updates)
        self.updates = updates if solver.snapshot_diff else []
        for term in self.terms:
            term.project(weights, self.iteration)

    def _clip(self, grads: list[Tensor]) -> None:
        limit = self.param.clip_gradients
        if limit < 0:
            return
        norm = float(torch.stack(torch._foreach_norm(grads)).norm())
        if norm > limit:
            self.say(f"Gradient clipping: scaling down gradients (L2 norm {norm:g} > {limit:g}) "
                     f"by scale factor {limit / norm:g}", "sgd_solver.cpp:95")  # fmt: skip
            torch._foreach_mul_(grads, limit / norm)

    def _display(self, seconds: float, iterations: int) -> None:
        average = sum(self.recent) / max(1, len(self.recent))
        rate = iterations / seconds if seconds > 0 else 0.0
        speed = f"({rate:g} iter/s, {seconds:g}s/{self.param.display} iters)"
        self.say(f"Iteration {self.iteration} {speed}, loss = {average:g}", "solver.cpp:228")
        for line in output_lines(self.net.built, self.net.fetch):
            self.say("    Train net output #" + line, "solver.cpp:244")
        self._warn()
        if self.listeners:
            step = current_step(self.param, self.iteration, self.step_index)
            rate = learning_rate(self.param, self.iteration, step)
            outputs = {v.blob: self.net.fetch(v.blob) for v in self.net.built.graph.outputs}
            self.tell("display", loss=average, lr=rate, outputs=named_numbers(outputs))

    def _warn(self) -> None:
        for line in self.guard.warnings():
            self.say(line, "solver.cpp:250")

    def tell(self, kind: str, **more: object) -> None:
        """Send an event to the listeners."""
        for listener in self.listeners:
            listener({"event": kind, "iteration": self.iteration, **more})

    def test_all(self) -> list[dict[str, float]]:
        """Run every test net for its test_iter batches.

        Returns:
            For each test net the mean of every output; vectors give ``name[i]``.
        """
        self.test_iteration = self.iteration
        self.test_results = [run_test(self, index) for index in range(len(self.test_nets))]
        self._warn()
        return self.test_results

    def snapshot(self) -> str:
        """Write caffemodel, side file and solverstate; returns the solverstate's path.

        Names are Caffe's. The solverstate appears last: with it the snapshot is whole. All ranks
        call this, rank 0 writes.

        Raises:
            SolverError: no snapshot_prefix is set, weights are not finite, or the files cannot be
                written; older snapshots stay.
        """
        use_hdf5 = self.param.snapshot_format == "HDF5"
        weights, state = snapshot_paths(required_prefix(self.param), self.iteration, use_hdf5)
        everyone = self.ranks.gather(rank_state(self))
        if everyone is None:
            return state
        check_weights(self)
        make_folder(self.param)
        kind = "HDF5" if use_hdf5 else "binary proto"
        self.say(f"Snapshotting to {kind} file {weights}", "solver.cpp:454")
        history = [h.cpu().numpy() for block in self.history for h in block]
        self.say(f"Snapshotting solver state to {kind} file {state}", "sgd_solver.cpp:273")
        files: list[str | os.PathLike[str]] = [weights, side_path(state), state]
        try:
            with atomic_paths(files) as (new_weights, new_side, new_state):
                self.net.save(new_weights, self._diffs())
                write_side(new_side, self, everyone)
                write_state(new_state, State(self.iteration, self.step_index, weights, history))
        except (OSError, RuntimeError, SchemaError) as error:
            raise write_failed(self, state, error) from error
        self.last_snapshot, self.safe_iteration = state, self.iteration
        self.tell("snapshot", path=state)
        return state

    def _diffs(self) -> list[Tensor]:
        """What ``snapshot_diff`` stores beside the weights: the last update, as in Caffe."""
        if not self.param.snapshot_diff:
            return []
        return self.updates or [torch.zeros_like(blob.value) for blob in self.net.learnable]

    @torch.no_grad()
    def restore(self, path: str | os.PathLike[str], exact: bool = True) -> None:
        """Resume from a solverstate and the weights that it names.

        Nothing changes unless both fit; a side file of another run is found out afterwards.
        Several ranks resume with :func:`caffe_bridge.solver.resume.resume`.

        Args:
            path: the solverstate.
            exact: use the side file, if there is one: data and random numbers go on where they
                were. Caffe starts the data from its beginning.

        Raises:
            SolverError: the state belongs to another net or solver type.
            SchemaError: the state or its weights are missing or damaged.
            WeightError: the weights do not fit.
        """
        state = read_state(path)
        history = [h for block in self.history for h in block]
        check_history(str(path), state, history)
        side = side_path(path)
        found = read_side(side) if exact and side.is_file() else None
        if state.learned_net:
            self.net.load(weights_beside(state.learned_net, path))
        restore_history(state, history)
        self.iteration, self.step_index = state.iteration, state.step
        self.last_snapshot, self.safe_iteration = os.fspath(path), self.iteration
        if found is not None:
            check_side(side, self, found)
            apply_side(side, self, found)
