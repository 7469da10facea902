"""Initial values of learnable blobs (Caffe's filler.hpp).

fan_in = count / shape[0]; fan_out = count / shape[1] (count for vectors); n is fan_in, fan_out or
their mean by ``variance_norm``. The same formula serves Deconvolution, unlike torch's.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from caffe_bridge.errors import ShapeError
from caffe_bridge.schema import Record

Filler = Callable[[Tensor, Record, torch.Generator | None], None]
_ALIGN = 64  # bytes, torch's own alignment
_LARGE = 1 << 22  # bytes from which numpy asks the system for huge pages


def zeros(shape: tuple[int, ...]) -> Tensor:
    """A zero tensor whose memory is not touched before it is written.

    Large ones live in numpy's memory: the system clears it page by page when it is first used,
    and numpy asks for huge pages, which makes that first use several times cheaper.
    """
    count = math.prod(shape)
    if torch.get_default_dtype() != torch.float32 or count * 4 < _LARGE:
        return torch.zeros(shape)
    raw = np.zeros(count + _ALIGN // 4, np.float32)
    skip = -raw.ctypes.data % _ALIGN // 4
    return torch.from_numpy(raw[skip : skip + count].reshape(shape))


def _fan(tensor: Tensor, filler: Record) -> float:
    fan_in = tensor.numel() / max(1, tensor.shape[0] if tensor.ndim else 1)
    fan_out = tensor.numel() / max(1, tensor.shape[1]) if tensor.ndim > 1 else tensor.numel()
    return {"FAN_IN": fan_in, "FAN_OUT": fan_out}.get(filler.variance_norm, (fan_in + fan_out) / 2)


def _constant(tensor: Tensor, filler: Record, _generator: torch.Generator | None) -> None:
    tensor.fill_(filler.value)


def _uniform(tensor: Tensor, filler: Record, generator: torch.Generator | None) -> None:
    tensor.uniform_(filler.min, filler.max, generator=generator)


def _gaussian(tensor: Tensor, filler: Record, generator: torch.Generator | None) -> None:
    tensor.normal_(filler.mean, filler.std, generator=generator)
    if filler.sparse >= 0:
        keep = torch.full_like(tensor, filler.sparse / max(1, tensor.shape[0]))
        tensor.mul_(torch.bernoulli(keep, generator=generator))


def _positive_unitball(tensor: Tensor, _filler: Record, generator: torch.Generator | None) -> None:
    rows = tensor.uniform_(0, 1, generator=generator).view(tensor.shape[0], -1)
    rows.div_(rows.sum(1, keepdim=True))


def _xavier(tensor: Tensor, filler: Record, generator: torch.Generator | None) -> None:
    bound = math.sqrt(3.0 / _fan(tensor, filler))
    tensor.uniform_(-bound, bound, generator=generator)


def _msra(tensor: Tensor, filler: Record, generator: torch.Generator | None) -> None:
    tensor.normal_(0.0, math.sqrt(2.0 / _fan(tensor, filler)), generator=generator)


def _bilinear(tensor: Tensor, _filler: Record, _generator: torch.Generator | None) -> None:
    if tensor.ndim != 4 or tensor.shape[2] != tensor.shape[3]:
        raise ShapeError(
            f"the bilinear filler wants a 4-D blob with square kernels, found shape "
            f"{tuple(tensor.shape)}; choose another filler or equal kernel_h and kernel_w."
        )
    factor = math.ceil(tensor.shape[3] / 2)
    centre = (tensor.shape[3] - 1) / (2.0 * factor)
    line = 1 - (torch.arange(tensor.shape[3]) / factor - centre).abs()
    tensor.copy_((line[:, None] * line[None, :]).expand_as(tensor))


FILLERS: dict[str, Filler] = {
    "constant": _constant, "uniform": _uniform, "gaussian": _gaussian, "xavier": _xavier,
    "positive_unitball": _positive_unitball, "msra": _msra, "bilinear": _bilinear,
}  # fmt: skip


@torch.no_grad()
def fill(
    tensor: Tensor, filler: Record, generator: torch.Generator | None = None, who: str = "filler"
) -> None:
    """Fill a blob as its FillerParameter says.

    Raises:
        ShapeError: unknown filler type, or a shape it cannot serve.
    """
    if filler.type not in FILLERS:
        raise ShapeError(
            f"{who}: filler type '{filler.type}' is not known; use one of {', '.join(FILLERS)}."
        )
    if not tensor.numel():
        return
    try:
        FILLERS[filler.type](tensor, filler, generator)
    except ShapeError as error:
        raise ShapeError(f"{who}: {error}") from None
