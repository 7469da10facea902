"""Write the CIFAR-10 ResNet recipe as train_test and deploy prototxt, or check it.

The nets come from :mod:`caffe_bridge.graph.resnet`; ``--check`` compares them with the files in the
repository.

Example:
    python tools/make_resnet.py --n 3 --force --check
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from caffe_bridge.graph.resnet import resnet


def main(argv: list[str] | None = None) -> int:
    """Write or check the two files; returns the exit status (1: a checked file differs)."""
    parser = argparse.ArgumentParser(description="Write the CIFAR-10 ResNet-(6n+2) nets.")
    parser.add_argument("--n", type=int, choices=(3, 5, 9), default=3, help="blocks in a group")
    parser.add_argument("--force", action="store_true", help="force_mult: 1 on the block convs")
    parser.add_argument(
        "-o", "--output", type=Path, help="folder (default solvers/cifar10_resnetN)"
    )
    parser.add_argument(
        "--check", action="store_true", help="compare with the files, write nothing"
    )
    args = parser.parse_args(argv)
    recipes = Path(__file__).resolve().parents[1] / "solvers"
    folder: Path = args.output or recipes / f"cifar10_resnet{6 * args.n + 2}"
    status = 0
    for file_name, deploy in (("train_test.prototxt", False), ("deploy.prototxt", True)):
        path = folder / file_name
        text = resnet(args.n, forced=args.force, deploy=deploy)
        if args.check:
            same = path.is_file() and path.read_text(encoding="utf-8") == text
            sys.stdout.write(f"{path}: {'up to date' if same else 'differs from the generator'}\n")
            status |= not same
            continue
        folder.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp")
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
        sys.stdout.write(f"{path}\n")
    return int(status)


if __name__ == "__main__":
    sys.exit(main())
