"""Compile proto/caffe.proto to the descriptor set that caffe_bridge.schema loads.

The package needs no protoc and no generated code: it builds its message classes at import from
caffe_bridge/schema/caffe.desc, a serialized ``FileDescriptorSet`` with one file and no source
information, which is checked in. Run this tool after every edit of the schema. It needs the
package grpcio-tools; the users of caffe_bridge do not.

Usage: ``python tools/build_proto.py [--check]``. Exit status: 0 done or up to date; 1 stale file,
compile error or missing compiler; 2 wrong usage.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "proto" / "caffe.proto"
TARGET = ROOT / "caffe_bridge" / "schema" / "caffe.desc"
NAME = "caffe_bridge/caffe.proto"


def compile_schema(source: Path) -> bytes:
    """Return the serialized descriptor set of a schema file, named `NAME` inside the set.

    Raises:
        RuntimeError: grpcio-tools is missing or protoc refuses the file.
    """
    if find_spec("grpc_tools") is None:
        raise RuntimeError("protoc not found. Install it with: pip install grpcio-tools")
    with tempfile.TemporaryDirectory() as folder:
        copy, out = Path(folder, NAME), Path(folder, "caffe.desc")
        copy.parent.mkdir()
        shutil.copyfile(source, copy)
        command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{folder}"]
        command += [f"--descriptor_set_out={out}", NAME]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"protoc refused {source.name}:\n{done.stderr.strip()}")
        return out.read_bytes()


def main(argv: list[str] | None = None) -> int:
    """Build or check the descriptor set and return the exit status."""
    parser = argparse.ArgumentParser(description="Compile proto/caffe.proto to caffe.desc.")
    parser.add_argument("--check", action="store_true", help="only compare, exit 1 when stale")
    check = parser.parse_args(argv).check
    target = TARGET.relative_to(ROOT)
    try:
        data = compile_schema(SOURCE)
    except (OSError, RuntimeError) as error:
        sys.stderr.write(f"build_proto: {error}\n")
        return 1
    if check:
        if TARGET.is_file() and TARGET.read_bytes() == data:
            return 0
        sys.stderr.write(f"{target} is stale. Run: python tools/build_proto.py\n")
        return 1
    fresh = TARGET.with_suffix(".tmp")
    fresh.write_bytes(data)
    fresh.replace(TARGET)
    sys.stdout.write(f"wrote {target} ({len(data)} bytes)\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
