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

from caffe_bridge.bench import BenchSession
from caffe_bridge.compress.latency.cache import LatencyCache
from caffe_bridge.compress.latency.forms import FORMS, Form, forms_of
from caffe_bridge.compress.latency.single import layer_key, single_net
from caffe_bridge.compress.latency.together import Timed, open_session, time_together
from caffe_bridge.compress.target import Target
from caffe_bridge.graph import Shape
from caffe_bridge.net import Net

#: Weights that do not stay in the caches while the rest of the net runs.
_COLD_BYTES = 4 * 2**20
#: A rank this much slower than the whole layer ends a method: larger ones have no chance.
_HOPELESS = 1.1
#: Forms that alternate with the whole layer in one run.
_TOGETHER = 4
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

    def share(self, part: float) -> Allowance:
        """A part of what is left, counted from now."""
        return Allowance(part * (self.seconds - self.used), self._clock)

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
        export_for: the target of the exports.
    """

    def __init__(self, target: Target, shapes: Sequence[Shape], cache: LatencyCache,
                 threads: int, device: str, export_for: str = "portable") -> None:  # fmt: skip
        self.target, self.shapes, self.cache = target, shapes, cache
        self.threads, self.device, self.export_for = threads, device, export_for
        self.cold = target.is_fc and target.weight.size * 4 > _COLD_BYTES
        self.unstable: set[str] = set()
        self._seen: dict[tuple[Shape, str], Timed] = {}
        self._open: dict[Shape, BenchSession] = {}

    def _entry(self, shape: Shape, label: str) -> str:
        return f"{layer_key(self.target, shape)} | {label}"

    def _measure(
        self, shape: Shape, forms: Sequence[Form], effort: float = 1.0
    ) -> dict[str, Timed]:
        if shape not in self._open:
            self._open[shape] = self._session(shape, None)
        sessions = {_WHOLE: self._open[shape]}
        for form in forms:
            sessions[form.label] = self._session(shape, form)
        return time_together(sessions, cold=self.cold, effort=effort)

    def _session(self, shape: Shape, form: Form | None) -> BenchSession:
        net = single_net(self.target, form, shape)
        return open_session(net, shape[0], self.threads, self.device, self.export_for)

    def close(self) -> None:
        """Let go of the sessions that stay open between measurements."""
        self._open.clear()

    def _one(self, shape: Shape, forms: Sequence[Form]) -> dict[str, Timed]:
        labels = [_WHOLE, *(form.label for form in forms)]
        known = {
            name: self._seen.get((shape, name)) or self.cache.get(self._entry(shape, name))
            for name in labels
        }
        found = {name: timed for name, timed in known.items() if timed is not None}
        missing = [name for name in labels if name not in found]
        if missing:
            measured = self._measure(shape, [form for form in forms if form.label in missing])
            for name in missing:
                found[name] = measured[name]
                self._remember(shape, name, measured[name])
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
        self.close()
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


def coarse_first(count: int) -> list[int]:
    """Positions of a row, so that every beginning of the list covers the row evenly.

    >>> coarse_first(7)
    [0, 4, 2, 6, 1, 3, 5]
    """
    step = 1 << max(count - 1, 0).bit_length()
    order: list[int] = []
    while step:
        order += [i for i in range(0, count, step) if i not in order]
        step //= 2
    return order


class _Ranks:
    """The ranks of one method of a layer: which to measure next, and which have no chance."""

    def __init__(self, forms: Sequence[Form]) -> None:
        self.forms = forms
        self.left = coarse_first(len(forms))
        self.end = len(forms)
        self.ms: dict[int, float] = {}

    def next(self) -> list[int]:
        self.left = [i for i in self.left if i < self.end]
        return self.left[:_TOGETHER]

    def take(self, position: int, ms: float, whole_ms: float) -> None:
        self.ms[position] = ms
        self.left.remove(position)
        if ms >= whole_ms * _HOPELESS:
            self.end = min(self.end, position)


def _layer_times(
    timer: LayerTimer, forms: Mapping[str, Sequence[Form]], allowance: Allowance
) -> LayerTimes:
    methods = [_Ranks(ranks) for ranks in forms.values()]
    whole: float | None = None
    # In turn, so that where time is short every method has some ranks; the first handful always.
    while any(ranks.next() for ranks in methods) and not (whole and allowance.spent):
        for ranks in methods:
            chunk = ranks.next()
            if not chunk or (whole and allowance.spent):
                continue
            found = timer([ranks.forms[i] for i in chunk])
            whole = found[_WHOLE]
            for i in chunk:
                ranks.take(i, found[ranks.forms[i].label], whole)
    times = LayerTimes(timer.target.name, whole or timer()[_WHOLE])
    for ranks in methods:
        times.forms += [(ranks.forms[i], ms) for i, ms in sorted(ranks.ms.items())]
        times.missing += len([i for i in ranks.left if i < ranks.end])
    times.unstable = sorted(timer.unstable)
    timer.close()
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
    export_for: str = "portable",
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
        export_for: the target of the exports.

    Returns:
        The times by layer in the order of ``targets``, and what can measure each again.

    Raises:
        BackendError: the device is not available.
    """
    allowance = allowance or Allowance(math.inf)
    made: dict[str, LayerTimes] = {}
    timers: dict[str, LayerTimer] = {}
    costs = {name: expense(target, shapes[name]) for name, target in targets.items()}
    order = sorted(targets, key=lambda name: -costs[name])
    for number, name in enumerate(order, 1):
        left = order[number - 1 :]
        part = max(costs[name] / sum(costs[other] for other in left), 1.0 / len(left))
        timers[name] = LayerTimer(targets[name], shapes[name], cache, threads, device, export_for)
        forms = forms_of(targets[name], block, methods)
        times = _layer_times(timers[name], forms, allowance.share(part))
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
