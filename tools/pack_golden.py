"""Pack the cases computed by a real Caffe into tests/golden/golden.zip.

Takes the folders ``layers``, ``nets`` and ``solvers`` of a golden folder. The same files always
give the same archive.

Usage: ``python tools/pack_golden.py FOLDER``. Exit status: 0 done; 1 folder incomplete or archive
too large; 2 wrong usage.
"""

from __future__ import annotations

import argparse
import sys
import zipfile
from pathlib import Path

TARGET = Path(__file__).resolve().parent.parent / "tests" / "golden" / "golden.zip"
FOLDERS = ("layers", "nets", "solvers")
LIMIT = 8 * 2**20
_EPOCH = (1980, 1, 1, 0, 0, 0)


def pack(source: Path, target: Path) -> int:
    """Write the archive, whole or not at all; returns its size in bytes.

    Raises:
        RuntimeError: a folder is missing, or the archive would exceed the limit.
    """
    missing = [name for name in FOLDERS if not (source / name).is_dir()]
    if missing:
        raise RuntimeError(f"{source} has no folder {', '.join(missing)}.")
    fresh = target.with_suffix(".tmp")
    with zipfile.ZipFile(fresh, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name in FOLDERS:
            for path in sorted(p for p in (source / name).rglob("*") if p.is_file()):
                entry = zipfile.ZipInfo(path.relative_to(source).as_posix(), _EPOCH)
                entry.compress_type = zipfile.ZIP_DEFLATED
                entry.external_attr = 0o644 << 16
                archive.writestr(entry, path.read_bytes())
    size = fresh.stat().st_size
    if size > LIMIT:
        fresh.unlink()
        raise RuntimeError(f"the archive takes {size} bytes, more than {LIMIT}.")
    fresh.replace(target)
    return size


def main(argv: list[str] | None = None) -> int:
    """Pack and return the exit status."""
    parser = argparse.ArgumentParser(description="Pack golden cases for the tests.")
    parser.add_argument("folder", type=Path, help="folder with layers, nets and solvers")
    try:
        size = pack(parser.parse_args(argv).folder, TARGET)
    except (OSError, RuntimeError) as error:
        sys.stderr.write(f"pack_golden: {error}\n")
        return 1
    sys.stdout.write(f"wrote {TARGET.name} ({size} bytes)\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
