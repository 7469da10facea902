"""``caffe-bridge fold-bn``."""

from __future__ import annotations

from caffe_bridge.cli.common import verb
from caffe_bridge.cli.surgery import Shapes, finish, surgery_arguments


@verb("""caffe-bridge fold-bn deploy.prototxt net.caffemodel folded.prototxt folded.caffemodel""")
@surgery_arguments("")
def command(
    net: str, weights: str, out_net: str, out_weights: str, inputs: tuple[str, ...], as_json: bool
) -> None:
    """Fold BatchNorm and Scale of the TEST net into the layer before them."""
    from caffe_bridge.compress.batch_norm import fold_batch_norm
    from caffe_bridge.compress.surgery import Surgery
    from caffe_bridge.compress.surgery.result import spec_of

    def operate(shapes: Shapes) -> Surgery:
        made = fold_batch_norm(spec_of(net, shapes), weights)
        return Surgery(made.net, made.blobs, made.folded, made.kept)

    finish(net, weights, (out_net, out_weights), inputs, as_json, operate)
