"""One thread for torch: test machines are shared and the tensors are tiny."""

from __future__ import annotations

import sys

import pytest


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Keep torch on one thread once a test has imported it; never import it here."""
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(1)
