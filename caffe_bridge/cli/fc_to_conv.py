"""``caffe-bridge fc-to-conv``."""

from __future__ import annotations

from caffe_bridge.cli.common import verb
from caffe_bridge.cli.surgery import finish, surgery_arguments


@verb("""caffe-bridge fc-to-conv deploy.prototxt net.caffemodel conv.prototxt conv.caffemodel""")
@surgery_arguments("InnerProduct layer")
def command(
    net: str, weights: str, out_net: str, out_weights: str, layers: tuple[str, ...],
    inputs: tuple[str, ...], as_json: bool,
) -> None:  # fmt: skip
    """Turn fully connected layers of the TEST net into convolutions.

    The result is fully convolutional: give its input a larger shape, and it slides over the image.
    """
    from caffe_bridge.compress.surgery import fc_to_conv

    finish(
        net, weights, (out_net, out_weights), inputs, as_json,
        lambda inputs: fc_to_conv(net, weights, layers, inputs),
    )  # fmt: skip
