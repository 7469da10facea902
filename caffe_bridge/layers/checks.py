"""Checks of values that wait where nobody may look at a value yet.

A layer refuses values (a label outside the classes) with :func:`forbid`. That looks at the numbers,
which a pass that is compiled or recorded cannot do: such a pass runs inside :func:`deferred`,
hands the verdict out with its results and is repeated layer by layer when something was wrong, so
that the layer itself raises the error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import Tensor

from caffe_bridge.errors import BridgeError

#: Verdicts of the passes that are under way inside :func:`deferred`, the innermost last.
_WAITING: list[list[Tensor]] = []


def forbid(wrong: Tensor, error: Callable[[], BridgeError]) -> None:
    """Raise ``error()`` when any value of ``wrong`` is true, now or after the pass.

    Whoever calls it goes on with harmless values in place of the wrong ones.

    Args:
        wrong: booleans of any shape.
        error: makes the error; it may look at values.

    Raises:
        BridgeError: the error, unless the check is deferred.
    """
    if _WAITING:
        _WAITING[-1].append(wrong.any())
    elif bool(wrong.any()):
        raise error()


@contextmanager
def deferred() -> Iterator[list[Tensor]]:
    """Collect the verdicts, () booleans each, instead of looking at them."""
    verdicts: list[Tensor] = []
    _WAITING.append(verdicts)
    try:
        yield verdicts
    finally:
        _WAITING.pop()
