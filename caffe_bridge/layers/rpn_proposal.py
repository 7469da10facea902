"""The region proposals of py-faster-rcnn, whose Python layer needs no user's code here."""

from __future__ import annotations

import ast
import re
from typing import Any

from caffe_bridge.layers.proposal import Proposal, base_anchors
from caffe_bridge.layers.registry import register

_ENTRY = re.compile(
    r"['\"]?(\w+)['\"]?\s*:\s*(?:!!python/tuple\s*)?(\[[^\]]*\]|\([^)]*\)|[^,\s}]+)"
)
#: RPN_PRE_NMS_TOP_N and RPN_POST_NMS_TOP_N of fast_rcnn/config.py by phase.
_COUNTS = {"TRAIN": (12000, 2000), "TEST": (6000, 300)}
#: RPN_NMS_THRESH and RPN_MIN_SIZE, of both phases.
_OVERLAP, _LEAST_SIDE = 0.7, 16.0
_BASE, _RATIOS, _SCALES = 16, (0.5, 1.0, 2.0), (8.0, 16.0, 32.0)


def read_settings(text: str) -> dict[str, Any]:
    """The entries of a ``param_str`` in YAML's form ``'key': number or list``.

    Raises:
        ValueError, SyntaxError: a value is neither.
    """
    return {key: ast.literal_eval(value) for key, value in _ENTRY.findall(text)}


@register("rpn.proposal_layer.ProposalLayer")
class RPNProposal(Proposal):
    """``Proposal`` with the settings of py-faster-rcnn's Python layer.

    A layer of type Python with the module ``rpn.proposal_layer`` and the layer ``ProposalLayer`` is
    this one unless Python layers are allowed to run; nothing is imported.

    Bottoms:
        scores: (N, 2 A, H, W), background first, for the A anchors of each cell.
        deltas: (N, 4 A, H, W): dx, dy, dw, dh of each anchor.
        info: (N, 3): height, width and scale of each image.
    Tops:
        rois: (R, 5): image index, x1, y1, x2, y2 in pixels, by image and falling score; the
        declared R is N.
        scores (optional): (R, 1).
    Parameters:
        python_param.param_str: feat_stride in pixels; scales (8, 16, 32) of the anchors, whose
        base_size is 16 and whose ratios are 0.5, 1 and 2.
        fixed: min_size 16, nms_thresh 0.7, pre_nms_topn 6000 and post_nms_topn 300; 12000 and 2000
        in the TRAIN phase.
    Gradient:
        none.
    ONNX:
        as Proposal.
    Caffe source:
        lib/rpn/proposal_layer.py and lib/fast_rcnn/config.py of rbgirshick/py-faster-rcnn
    Differences:
        the fixed settings are the defaults of config.py, which a file given to py-faster-rcnn's
        tools may change; takes several images, too; regions of equal score stay in the order of
        cells and anchors.
    """

    param_field = "python_param"

    def configure(self) -> None:
        """Read ``param_str`` and list the anchors."""
        try:
            settings = read_settings(self.p.param_str)
            self.stride = int(settings.pop("feat_stride"))
            scales = [float(scale) for scale in settings.pop("scales", _SCALES)]
        except (KeyError, ValueError, SyntaxError, TypeError):
            self.fail(
                f"param_str \"{self.p.param_str}\" cannot be read; give 'feat_stride': 16 and "
                "perhaps 'scales': [8, 16, 32]."
            )
        if settings:
            self.fail(
                f"param_str names {', '.join(sorted(settings))}, but the built-in layer has only "
                "feat_stride and scales; allow Python layers to run your own class."
            )
        if self.stride < 1 or not scales or min(scales) <= 0:
            self.fail(f"feat_stride {self.stride} and scales {scales} must be positive.")
        self.base = base_anchors(_BASE, _RATIOS, scales)
        self.before, self.after = _COUNTS[self.phase]
        self.least, self.threshold = _LEAST_SIDE, _OVERLAP
