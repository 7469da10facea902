"""The latency table: the time of every layer in every form that is worth a try.

Forms are measured in turn with the layer as it is (:mod:`~caffe_bridge.compress.latency.together`),
a few at a time; what a form takes in the table is the whole layer's time multiplied by the form's
ratio. The layers that cost most come first, because measuring ends when its time is spent.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from caffe_bridge.compress.latency.cache import LatencyCache
from caffe_bridge.compress.latency.forms import FORMS, Form, forms_of
from caffe_bridge.compress.latency.single import layer_key, single_net
from caffe_bridge.compress.latency.together import Timed, time_together
from caffe_bridge.compress.target import Target
from caffe_bridge.graph import Shape
from caffe_bridge.net import Net

#: Weights that do not stay in the caches while the rest of the net runs.
_COLD_BYTES = 4 * 2**20
#: Rising ranks of one form that are slower than the whole layer before the form is given up.
_PATIENCE = 2
#: Forms that alternate with the whole layer in one run.
_TOGETHER = 4
_REPEATS = 2
_WHOLE = "whole"
#: Rough speed of a core, only to put the layers in order: operations and bytes a millisecond.
_OPERATIONS, _BYTES = 2e7, 1e7


class Allowance:
    """Seconds that may be spent, counted from its making.

    Args:
        seconds: how many.
        clock: seconds that only grow.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds, self._clock, self._start = seconds, clock, clock()

    @property
    def used(self) -> float:
        """Seconds since the start."""
        return self._clock() - self._start

    @property
    def spent(self) -> bool:
        """Whether nothing is left."""
        return self.used >= self.seconds


@dataclass
class LayerTimes:
    """Milliseconds of a layer as it is, and of its forms in order of rank.

    ``unstable`` names forms whose measurement stayed restless; ``missing`` counts forms for which
    no time was left.
    """

    layer: str
    whole_ms: float
    forms: list[tuple[Form, float]] = field(default_factory=list)
    unstable: list[str] = field(default_factory=list)
    missing: int = 0

    def fastest(self) -> tuple[Form, float] | None:
        """The form with the least time, if there is one."""
        return min(self.forms, key=lambda found: found[1], default=None)


def bottom_shapes(net: Net) -> dict[str, list[Shape]]:
    """The shape of every bottom that a layer reads, by its name."""
    shapes: dict[str, list[Shape]] = {}
    for node, layer in zip(net.built.graph.nodes, net.built.layers, strict=True):
        found = shapes.setdefault(layer.name, [])
        found += [net.built.shapes[value.index] for value in node.inputs]
    return shapes


class LayerTimer:
    """Times of one layer and its forms, from the cache or measured.

    Args:
        target: the layer.
        shapes: shapes of its bottoms, one for every use.
        cache: known times; it takes the new ones.
        threads: threads of one operator.
        device: "cpu" or "cuda".
    """

    def __init__(self, target: Target, shapes: Sequence[Shape], cache: LatencyCache,
                 threads: int, device: str) -> None:  # fmt: skip
        self.target, self.shapes, self.cache = target, shapes, cache
        self.threads, self.device = threads, device
        self.cold = target.is_fc and target.weight.size * 4 > _COLD_BYTES
        self.unstable: set[str] = set()
        self._seen: dict[tuple[Shape, str], Timed] = {}

    def _entry(self, shape: Shape, label: str) -> str:
        return f"{layer_key(self.target, shape)} | {label}"

    def _measure(
        self, shape: Shape, forms: Sequence[Form], effort: float = 1.0
    ) -> dict[str, Timed]:
        nets: dict[str, Callable[[], Net]] = {
            _WHOLE: partial(single_net, self.target, None, shape),
            **{form.label: partial(single_net, self.target, form, shape) for form in forms},
        }
        return time_together(
            nets, shape[0], self.threads, self.device, cold=self.cold, effort=effort
        )

    def _one(self, shape: Shape, forms: Sequence[Form]) -> dict[str, Timed]:
        labels = [_WHOLE, *(form.label for form in forms)]
        known = {
            name: self._seen.get((shape, name)) or self.cache.get(self._entry(shape, name))
            for name in labels
        }
        found = {name: timed for name, timed in known.items() if timed is not None}
        missing = [name for name in labels if name not in found]
        for _ in range(1 + _REPEATS):
            again = [name for name in missing if name not in found or found[name].unstable]
            if not again:
                break
            measured = self._measure(shape, [form for form in forms if form.label in again])
            for name in again:
                if name not in found or measured[name].spread < found[name].spread:
                    found[name] = measured[name]
        for name in missing:
            self._remember(shape, name, found[name])
        return found

    def _remember(self, shape: Shape, label: str, timed: Timed) -> None:
        self._seen[shape, label] = timed
        self.cache.put(self._entry(shape, label), timed)
        if timed.unstable:
            self.unstable.add(label)
        else:
            self.unstable.discard(label)

    def __call__(self, forms: Sequence[Form] = ()) -> dict[str, float]:
        """Milliseconds by the labels of forms and "whole", summed over the layer's uses."""
        total: dict[str, float] = {}
        for shape in self.shapes:
            found = self._one(shape, forms)
            whole = found[_WHOLE].ms
            for name, timed in found.items():
                total[name] = total.get(name, 0.0) + whole * timed.ratio
        return total

    def fresh(self, form: Form) -> float:
        """The ratio of a form's time to the layer's, from new samples only."""
        shape = max(self.shapes, key=math.prod)
        timed = self._measure(shape, [form], effort=3.0)[form.label]
        self._remember(shape, form.label, timed)
        return timed.ratio


def expense(target: Target, shapes: Sequence[Shape]) -> float:
    """A guess of a layer's milliseconds, good enough to put layers in order."""
    weights = target.weight.size
    uses = 0.0
    for shape in shapes:
        places = float(shape[0])
        if not target.is_fc:
            places *= math.prod(shape[-len(target.kernel) :]) / math.prod(target.window.stride)
        uses += places
    return weights * uses / _OPERATIONS + weights * 4 / _BYTES


def _layer_times(
    timer: LayerTimer, forms: Mapping[str, Sequence[Form]], allowance: Allowance
) -> LayerTimes:
    times = LayerTimes(timer.target.name, timer()[_WHOLE])
    for ranks in forms.values():
        slower = 0
        for begin in range(0, len(ranks), _TOGETHER):
            chunk = ranks[begin : begin + _TOGETHER]
            if allowance.spent:
                times.missing += len(ranks) - begin
                break
            found = timer(chunk)
            for form in chunk:
                ms = found[form.label]
                times.forms.append((form, ms))
                slower = slower + 1 if ms >= times.whole_ms else 0
            if slower >= _PATIENCE:
                break
    times.unstable = sorted(timer.unstable)
    return times


def latency_table(
    targets: Mapping[str, Target],
    shapes: Mapping[str, Sequence[Shape]],
    cache: LatencyCache,
    *,
    threads: int = 1,
    device: str = "cpu",
    block: int = 16,
    methods: Sequence[str] = FORMS,
    allowance: Allowance | None = None,
    progress: Callable[[str], None] | None = None,
) -> tuple[dict[str, LayerTimes], dict[str, LayerTimer]]:
    """Time layers and their forms; what the cache knows is not measured again.

    Args:
        targets: layers by name.
        shapes: shapes of the bottoms of every layer, batch first (:func:`bottom_shapes`).
        cache: known times; it takes the new ones and is saved after every layer.
        threads: threads of one operator.
        device: "cpu" or "cuda".
        block: channel block of the runtime.
        methods: decompositions to try.
        allowance: the time for all of it; forms beyond it are not measured.
        progress: called with a line for every layer.

    Returns:
        The times by layer in the order of ``targets``, and what can measure each again.

    Raises:
        BackendError: the device is not available.
    """
    allowance = allowance or Allowance(math.inf)
    made: dict[str, LayerTimes] = {}
    timers: dict[str, LayerTimer] = {}
    order = sorted(targets, key=lambda name: -expense(targets[name], shapes[name]))
    for number, name in enumerate(order, 1):
        timers[name] = LayerTimer(targets[name], shapes[name], cache, threads, device)
        times = _layer_times(timers[name], forms_of(targets[name], block, methods), allowance)
        cache.save()
        made[name] = times
        if progress is not None:
            progress(f"[{number}/{len(order)}, {allowance.used:.0f} s] {_line(times)}")
    return {name: made[name] for name in targets}, timers


def _line(times: LayerTimes) -> str:
    best = times.fastest()
    text = f"{times.layer}: {times.whole_ms:.3f} ms, {len(times.forms)} forms"
    if best:
        text += f", fastest {best[0].label} {best[1]:.3f} ms"
    if times.unstable:
        text += f", {len(times.unstable)} unstable"
    return f"{text}, {times.missing} not measured (time is up)" if times.missing else text
