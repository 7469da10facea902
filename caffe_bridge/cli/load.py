"""Building a net from command-line arguments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from caffe_bridge.cli.common import warn
from caffe_bridge.errors import BlobError, DataError, GraphError, WeightError
from caffe_bridge.graph import NetSpec, Shape, load_net
from caffe_bridge.layers.registry import layer_class
from caffe_bridge.net import Net, with_inputs


def load_spec(
    net: str, phase: str = "TEST", level: int = 0, stages: Sequence[str] = (),
    inputs: Mapping[str, Shape] | None = None, outputs: Sequence[str] = (),
) -> NetSpec:  # fmt: skip
    """Read and filter a net.

    Args:
        net: prototxt.
        phase: phase to filter for.
        level: level of the state.
        stages: stages of the state.
        inputs: data layers that make these blobs become inputs of these shapes.
        outputs: keep only the layers that lead to these blobs; all when empty.

    Raises:
        BridgeError: the file cannot be read, has no layers, or the names do not fit.
    """
    spec = load_net(net, phase, level, tuple(stages))
    if not spec.layers:
        raise GraphError(_no_layers(spec))
    changed = with_inputs(spec, inputs) if inputs else spec
    if outputs:
        changed = leading_to(changed, outputs)
    _check_lost(spec, changed)
    return changed


def _no_layers(spec: NetSpec) -> str:
    unknown = {field.name: str(field.value) for field in spec.record.unknown}
    if "base_lr" in unknown or "lr_policy" in unknown:
        named = unknown.get("net") or unknown.get("train_net")
        hint = f"give the net that it names, {named}" if named else "give its net"
        return f"{spec.source}: is a solver prototxt, expected a net; {hint}."
    state = spec.state
    return (
        f"{spec.source}: has no layers for phase {state.phase}, level {state.level}, stages "
        f"{', '.join(state.stages) or 'none'}; is it a net prototxt?"
    )


def leading_to(spec: NetSpec, blobs: Sequence[str]) -> NetSpec:
    """The net with only the layers that the named blobs depend on.

    Raises:
        BlobError: a blob that no layer makes.
    """
    made = list(dict.fromkeys(top for layer in spec.layers for top in layer.tops))
    for blob in blobs:
        if blob not in made:
            raise BlobError(
                f"{spec.source}: has no blob '{blob}'; blobs are {', '.join(made)[:300]}."
            )
    needed = set(blobs)
    kept = []
    for layer in reversed(spec.layers):
        if needed & set(layer.tops):
            needed = (needed - set(layer.tops)) | set(layer.bottoms)
            kept.append(layer)
    return spec.with_layers(tuple(reversed(kept)))


def _check_lost(before: NetSpec, after: NetSpec) -> None:
    """Refuse layers that read what only a replaced data layer made."""
    made = {top for layer in after.layers for top in layer.tops}
    lost = {top for layer in before.layers for top in layer.tops} - made
    for layer in after.layers:
        for blob in layer.bottoms:
            if blob in lost:
                raise BlobError(
                    f"{layer.label()}: reads '{blob}', which the replaced data layer made too; add "
                    f"--input {blob}=N, or convert only up to some blob with --output-blob NAME."
                )


def load_model(
    net: str, weights: str | None, phase: str = "TEST", level: int = 0,
    stages: Sequence[str] = (), inputs: Mapping[str, Shape] | None = None, seed: int | None = None,
    outputs: Sequence[str] = (),
) -> Net:  # fmt: skip
    """Build a net with its weights; warns about layers that have none.

    Args:
        net: prototxt.
        weights: caffemodel; fillers run when None.
        phase: phase to filter for.
        level: level of the state.
        stages: stages of the state.
        inputs: see :func:`load_spec`; None for verbs without the option --input.
        seed: seed of the fillers.
        outputs: see :func:`load_spec`.

    Raises:
        BridgeError: a file cannot be read or does not fit.
    """
    spec = load_spec(net, phase, level, stages, inputs, outputs)
    try:
        model = Net(spec, weights=weights, seed=seed)
    except DataError as error:
        tops = [x.tops[0] for x in spec.layers if x.tops and layer_class(x).has_source]
        if inputs is None or not tops:
            raise
        raise DataError(
            f"{error} To do without the data, replace it: --input {tops[0]}=N,C,H,W."
        ) from error
    model.eval()
    if weights is not None:
        _check_missing(model, net, weights)
    return model


def _check_missing(model: Net, net: str, weights: str) -> None:
    built = model.built
    owners = {s.layer for number, s in enumerate(built.slots) if s.owner == number}
    needing = dict.fromkeys(built.layers[index].name for index in sorted(owners))
    missing = [name for name in needing if name in model.missing]
    if not missing:
        return
    shown = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
    if len(missing) == len(needing):
        raise WeightError(
            f"{weights}: has weights for none of the layers of {net} that need them ({shown}); use "
            "the weights that belong to this net."
        )
    warn(f"{weights} has no weights for {shown}; they keep the values of their fillers.")
