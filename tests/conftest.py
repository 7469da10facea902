"""One thread for torch: test machines are shared and the tensors are tiny."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.golden.archive import extract


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Keep torch on one thread once a test has imported it; never import it here."""
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(1)


@pytest.fixture(scope="session")
def golden(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked cases of a real Caffe: ``layers``, ``nets``, ``solvers``."""
    return extract(tmp_path_factory.mktemp("golden"))
