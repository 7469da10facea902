"""Values as strict JSON has them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def strict_json(value: Any) -> Any:
    """The value with ``None`` for every float that JSON lacks: NaN and the infinities."""
    if isinstance(value, Mapping):
        return {key: strict_json(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [strict_json(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
