"""``caffe-bridge merge-groups``."""

from __future__ import annotations

from caffe_bridge.cli.common import verb
from caffe_bridge.cli.surgery import finish, surgery_arguments


@verb("""caffe-bridge merge-groups split.prototxt split.caffemodel net.prototxt net.caffemodel""")
@surgery_arguments("Slice layer")
def command(
    net: str, weights: str, out_net: str, out_weights: str, layers: tuple[str, ...],
    inputs: tuple[str, ...], as_json: bool,
) -> None:  # fmt: skip
    """Merge parallel convolutions between a Slice and a Concat into grouped ones.

    Undoes split-groups, and merges nets that were split by hand.
    """
    from caffe_bridge.compress.surgery import merge_groups

    finish(
        net, weights, (out_net, out_weights), inputs, as_json,
        lambda _inputs: merge_groups(net, weights, layers),
    )  # fmt: skip
