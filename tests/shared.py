"""Where real material lies; imports nothing heavy, so that schema tests stay light."""

from __future__ import annotations

from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]
#: Real models, prototxts and numbers computed by a real Caffe; absent on a bare clone.
SHARED = REPO.parent / "shared"
GOLDEN = SHARED / "golden"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="needs the shared real material")
