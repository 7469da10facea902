"""The time of whole nets: the original, and what a choice of forms makes of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from caffe_bridge.bench import BenchSession, Schedule, measure, speed_up
from caffe_bridge.compress.latency.forms import Form
from caffe_bridge.compress.latency.single import fill_small
from caffe_bridge.compress.latency.together import UNSTABLE, open_session
from caffe_bridge.graph import NetSpec, Shape, layer_spec
from caffe_bridge.net import Net, with_inputs
from caffe_bridge.schema import Weights

#: Short, because it is repeated for every correction; interleaved, so that drift meets both.
SCHEDULE = Schedule(
    min_runs=24, min_seconds=0.6, warmup_runs=2, warmup_seconds=0.1, block=2, max_seconds=4.0
)
#: For the numbers that a plan is judged by; never the samples that selected it.
FRESH = Schedule(
    min_runs=60, min_seconds=1.5, warmup_runs=3, warmup_seconds=0.1, block=3, max_seconds=12.0
)


@dataclass(frozen=True)
class Measured:
    """Median milliseconds of two nets in one interleaved run, and the ratio of the medians.

    ``low`` and ``high`` bound the ratio's 95 % interval; ``unstable`` says that the 90 % quantile
    of either is too far above its median.
    """

    before_ms: float
    after_ms: float
    speed_up: float
    low: float
    high: float
    unstable: bool = False


def original(spec: NetSpec, weights: Weights, batch: int) -> Net:
    """The net at a batch size, with its weights.

    Raises:
        BridgeError: it cannot be built.
    """
    inputs = Net(spec, weights=weights).inputs
    shapes: dict[str, Shape] = {name: (batch, *shape[1:]) for name, shape in inputs.items()}
    net = Net(with_inputs(spec, shapes), weights=weights)
    return net.eval()


def replaced(net: Net, forms: Mapping[str, Form], weights: Weights | None) -> Net:
    """The net with layers in other forms, whose weights are random: only time counts here.

    Without ``weights`` all layers get random ones.
    """
    layers = []
    fresh: list[str] = []
    for layer in net.spec.layers:
        form = forms.get(layer.name)
        if form is None:
            layers.append(layer)
            continue
        made = form.method.records(layer.record, form.rank)
        fresh += [record.name for record in made]
        layers += [layer_spec(record) for record in made]
    small = Net(net.spec.with_layers(tuple(layers)), weights=weights, seed=0)
    fill_small(small, None if weights is None else fresh)
    return small.eval()


class WholeNet:
    """The original net, ready to be timed against what could become of it.

    Args:
        net: the original.
        weights: its weights.
        batch: images of one run.
        threads: threads of one operator.
        device: "cpu" or "cuda".
        export_for: the target of the export.

    Raises:
        BridgeError: it cannot be exported or run.
    """

    def __init__(
        self, net: Net, weights: Weights, batch: int, threads: int, device: str = "cpu",
        export_for: str = "portable",
    ) -> None:  # fmt: skip
        self.net, self.weights = net, weights
        self.batch, self.threads, self.device = batch, threads, device
        self.export_for = export_for
        self.session = open_session(net, batch, threads, device, export_for)

    def alone(self) -> float:
        """Median milliseconds of the original."""
        return self._measure({"before": self.session}, SCHEDULE).before_ms

    def against(self, forms: Mapping[str, Form], schedule: Schedule = SCHEDULE) -> Measured:
        """The original and the net with layers in other forms, interleaved."""
        after = replaced(self.net, forms, self.weights)
        session = open_session(after, self.batch, self.threads, self.device, self.export_for)
        return self._measure({"before": self.session, "after": session}, schedule)

    def _measure(self, sessions: Mapping[str, BenchSession], schedule: Schedule) -> Measured:
        timings = measure(
            sessions, schedule.min_runs, schedule.min_seconds, schedule.warmup_runs,
            schedule.warmup_seconds, schedule.block, schedule.max_seconds,
        )  # fmt: skip
        first = timings["before"]
        last = timings.get("after", first)
        gain = speed_up(first, last, draws=400)
        stats = [timing.stats(self.device) for timing in (first, last)]
        return Measured(
            stats[0].median_ms, stats[1].median_ms, gain.ratio, gain.low, gain.high,
            any(each.p90_ms > UNSTABLE * each.median_ms for each in stats),
        )  # fmt: skip
