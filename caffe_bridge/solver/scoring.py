"""Running a test net (Solver::Test)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from caffe_bridge.net import Net
from caffe_bridge.solver.debug_info import forward_lines
from caffe_bridge.solver.events import named_numbers, output_lines

if TYPE_CHECKING:
    from caffe_bridge.solver.engine import Solver


def run_test(solver: Solver, index: int) -> dict[str, float]:
    """Run a test net for its test_iter batches; print and tell the means of its outputs.

    A stop that is asked for meanwhile ends the test at once.

    Returns:
        The mean of every output; vectors give ``name[i]``. Nothing if the test was interrupted.
    """
    net, param = solver.test_nets[index], solver.param
    batches = max(1, int(param.test_iter[index]))
    solver.say(f"Iteration {solver.iteration}, Testing net (#{index})", "solver.cpp:337")
    sums: dict[str, Tensor] = {}
    loss, asked = 0.0, solver.stop_requested
    for _ in range(batches):
        if solver.stop_requested and not asked:
            solver.say("Test interrupted.", "solver.cpp:390")
            return {}
        loss += net.evaluate()
        if isinstance(net, Net) and net.keep_diffs:
            for line in forward_lines(net):
                solver.say(line, "net.cpp:600")
        for value in net.built.graph.outputs:
            got = net.fetch(value.blob).detach().double()
            sums[value.blob] = sums[value.blob] + got if value.blob in sums else got
    if param.test_compute_loss:
        solver.say(f"Test loss: {loss / batches:g}", "solver.cpp:395")
    for line in output_lines(net.built, lambda name: sums[name] / batches):
        solver.say("    Test net output #" + line, "solver.cpp:404")
    means = named_numbers({name: total / batches for name, total in sums.items()})
    known = {"loss": loss / batches} if param.test_compute_loss else {}
    solver.tell("test", net=index, outputs=means, **known)
    return means
