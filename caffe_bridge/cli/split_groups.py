"""``caffe-bridge split-groups``."""

from __future__ import annotations

from caffe_bridge.cli.common import verb
from caffe_bridge.cli.surgery import finish, surgery_arguments


@verb("""caffe-bridge split-groups net.prototxt net.caffemodel split.prototxt split.caffemodel""")
@surgery_arguments("convolution")
def command(
    net: str, weights: str, out_net: str, out_weights: str, layers: tuple[str, ...],
    inputs: tuple[str, ...], as_json: bool,
) -> None:  # fmt: skip
    """Split convolutions of several groups into parallel ones.

    Writes OUT_NET and OUT_WEIGHTS (HDF5 where the name ends in .h5) if the outputs stay the same.
    """
    from caffe_bridge.compress.surgery import split_groups

    finish(
        net, weights, (out_net, out_weights), inputs, as_json,
        lambda _inputs: split_groups(net, weights, layers),
    )  # fmt: skip
