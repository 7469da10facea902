"""The latency table: the time of every layer in every form that is worth a try."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from caffe_bridge.compress.latency.cache import LatencyCache
from caffe_bridge.compress.latency.forms import FORMS, Form, forms_of
from caffe_bridge.compress.latency.single import layer_key, single_net, time_net
from caffe_bridge.compress.target import Target
from caffe_bridge.graph import Shape
from caffe_bridge.net import Net

#: Weights that do not stay in the caches while the rest of the net runs.
_COLD_BYTES = 4 * 2**20
#: Rising ranks of one form that are slower than the whole layer before the form is given up.
_PATIENCE = 2


@dataclass
class LayerTimes:
    """Milliseconds of a layer as it is, and of its forms in order of rank."""

    layer: str
    whole_ms: float
    forms: list[tuple[Form, float]] = field(default_factory=list)

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


class _Timer:
    def __init__(self, target: Target, shapes: Sequence[Shape], cache: LatencyCache,
                 threads: int, device: str) -> None:  # fmt: skip
        self.target, self.shapes, self.cache = target, shapes, cache
        self.threads, self.device = threads, device

    def __call__(self, form: Form | None) -> float:
        return sum(self._one(form, shape) for shape in self.shapes)

    def _one(self, form: Form | None, shape: Shape) -> float:
        entry = f"{layer_key(self.target, shape)} | {form.label if form else 'whole'}"
        known = self.cache.get(entry)
        if known is not None:
            return known
        cold = self.target.is_fc and self.target.weight.size * 4 > _COLD_BYTES
        net = single_net(self.target, form, shape)
        ms = time_net(net, shape[0], self.threads, self.device, cold)
        self.cache.put(entry, ms)
        return ms


def latency_table(
    targets: Mapping[str, Target],
    shapes: Mapping[str, Sequence[Shape]],
    cache: LatencyCache,
    *,
    threads: int = 1,
    device: str = "cpu",
    block: int = 16,
    methods: Sequence[str] = FORMS,
    progress: Callable[[str], None] | None = None,
) -> dict[str, LayerTimes]:
    """Time layers and their forms; what the cache knows is not measured again.

    Args:
        targets: layers by name.
        shapes: shapes of the bottoms of every layer, batch first (:func:`bottom_shapes`).
        cache: known times; it takes the new ones and is saved after every layer.
        threads: threads of one operator.
        device: "cpu" or "cuda".
        block: channel block of the runtime.
        methods: decompositions to try.
        progress: called with a line for every layer.

    Raises:
        BackendError: the device is not available.
    """
    made = {}
    for name, target in targets.items():
        timer = _Timer(target, shapes[name], cache, threads, device)
        times = LayerTimes(name, timer(None))
        for forms in forms_of(target, block, methods).values():
            slower = 0
            for form in forms:
                ms = timer(form)
                times.forms.append((form, ms))
                slower = slower + 1 if ms >= times.whole_ms else 0
                if slower == _PATIENCE:
                    break
        cache.save()
        made[name] = times
        if progress is not None:
            best = times.fastest()
            shown = f", fastest {best[0].label} {best[1]:.3f} ms" if best else ", no form"
            progress(f"{name}: {times.whole_ms:.3f} ms{shown}")
    return made
