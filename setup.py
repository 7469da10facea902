"""Package metadata; tool settings live in pyproject.toml."""

from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = next(
    line.split('"')[1]
    for line in (ROOT / "caffe_bridge" / "__init__.py").read_text().splitlines()
    if line.startswith("__version__")
)

setup(
    name="caffe-bridge",
    version=VERSION,
    description="Caffe-compatible model converter and trainer: PyTorch, low rank, ONNX",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="BSD-2-Clause",
    packages=find_packages(include=["caffe_bridge", "caffe_bridge.*"]),
    package_data={
        "caffe_bridge": ["py.typed"],
        "caffe_bridge.schema": ["caffe.desc"],
        "caffe_bridge.demo": ["*.prototxt", "*.j2"],
        "caffe_bridge.experiment": ["*.j2"],
    },
    python_requires=">=3.10",
    install_requires=[
        "click>=8.1",
        "h5py>=3.8",
        "jinja2>=3.1",
        "lmdb>=1.4",
        "matplotlib>=3.7",
        "numpy>=1.24",
        "onnx>=1.16",
        "onnxruntime>=1.18",
        "opencv-python-headless>=4.8",
        "protobuf>=4.25",
        "rich>=13",
        "scikit-learn>=1.3",
        "torch>=2.2",
    ],
    extras_require={
        "leveldb": ["plyvel>=1.5"],
        "tensorboard": ["tensorboard>=2.10"],
        "dev": [
            "grpcio-tools>=1.60",
            "mypy>=1.10",
            "pytest>=8",
            "pytest-xdist>=3.5",
            "ruff>=0.6",
            "setuptools>=70.1",
            "tensorboard>=2.10",
        ],
    },
    entry_points={"console_scripts": ["caffe-bridge = caffe_bridge.cli.main:entry"]},
    classifiers=[
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
