"""One ONNX file ready to be timed: an onnxruntime session with explicit settings, and its feeds.

Every setting that moves a time is stated, none is left to a default: threads, sequential
execution, all graph optimisations, and no spinning. Idle threads that spin take the cores of the
other sessions of the same process, so two models could not be compared in one run.
"""

from __future__ import annotations

import os
import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from caffe_bridge.errors import BackendError, DataError, SchemaError
from caffe_bridge.files import require_file

_TYPES = {
    "tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(float16)": np.float16,
    "tensor(int64)": np.int64, "tensor(int32)": np.int32, "tensor(uint8)": np.uint8,
    "tensor(int8)": np.int8, "tensor(bool)": np.bool_,
}  # fmt: skip
_PROVIDERS = {
    "cpu": ["CPUExecutionProvider"],
    "cuda": ["CUDAExecutionProvider", "CPUExecutionProvider"],
}


@dataclass
class BenchSession:
    """A session with its feeds; :meth:`run` is the call that is timed.

    ``session_ms`` is the time to load and optimise the model, ``first_run_ms`` that of the first
    run (memory planning, algorithm search). Both happen once and belong to no average.
    """

    path: Path
    session: Any
    feeds: dict[str, np.ndarray]
    batch: int
    threads: int
    device: str
    session_ms: float
    first_run_ms: float = 0.0
    providers: list[str] = field(default_factory=list)
    binding: Any = None

    def run(self) -> None:
        """One forward pass; on a GPU without copies to and from the host."""
        if self.binding is None:
            self.session.run(None, self.feeds)
        else:
            self.session.run_with_iobinding(self.binding)
            self.binding.synchronize_outputs()

    def outputs(self) -> dict[str, np.ndarray]:
        """The outputs for the session's feeds."""
        names = [value.name for value in self.session.get_outputs()]
        return dict(zip(names, self.session.run(names, self.feeds), strict=True))


def make_feeds(
    session: Any,
    batch: int,
    seed: int = 0,
    feeds: Mapping[str, np.ndarray] | None = None,
    source: str = "model",
) -> dict[str, np.ndarray]:
    """Arrays for all inputs of a session.

    Args:
        session: the onnxruntime session.
        batch: size of a dynamic first axis.
        seed: seed of the random inputs (standard normal, or 0/1 for integers); the same input
            name and shape gets the same numbers in every model.
        feeds: given arrays by input name; they are cast to the model's type.
        source: file name for messages.

    Raises:
        DataError: a given array does not fit, a type or an axis is unknown, or the model has a
            fixed batch size other than ``batch``.
    """
    inputs = session.get_inputs()
    given = dict(feeds or {})
    unknown = sorted(set(given) - {value.name for value in inputs})
    if unknown:
        raise DataError(
            f"{source}: has no input {', '.join(map(repr, unknown))}; its inputs are "
            f"{', '.join(value.name for value in inputs)}."
        )
    made: dict[str, np.ndarray] = {}
    for value in inputs:
        if value.type not in _TYPES:
            raise DataError(
                f"{source}: input '{value.name}' has type {value.type}; only dense number tensors "
                "can be fed."
            )
        dtype = np.dtype(_TYPES[value.type])
        if value.name in given:
            made[value.name] = _check(value, np.asarray(given[value.name]), source).astype(
                dtype, copy=False
            )
            continue
        shape = _shape(value, batch, source)
        generator = np.random.default_rng([seed, zlib.crc32(value.name.encode())])
        if dtype.kind == "f":
            made[value.name] = generator.standard_normal(shape).astype(dtype)
        else:
            made[value.name] = generator.integers(0, 2, shape).astype(dtype)
    return made


def _shape(value: Any, batch: int, source: str) -> tuple[int, ...]:
    shape = list(value.shape)
    if shape and not isinstance(shape[0], int):
        shape[0] = batch
    elif shape and shape[0] != batch:
        raise DataError(
            f"{source}: input '{value.name}' has a fixed batch size of {shape[0]}, asked for "
            f"{batch}; use batch={shape[0]}, or export the net with a dynamic batch."
        )
    if not all(isinstance(size, int) for size in shape):
        raise DataError(
            f"{source}: input '{value.name}' has shape {value.shape}, more axes than the first "
            "are open; give an array for it."
        )
    return tuple(shape)


def _check(value: Any, array: np.ndarray, source: str) -> np.ndarray:
    fits = array.ndim == len(value.shape) and all(
        not isinstance(want, int) or want == size
        for want, size in zip(value.shape, array.shape, strict=True)
    )
    if not fits:
        raise DataError(
            f"{source}: input '{value.name}' wants shape {value.shape}, the given array has "
            f"{array.shape}."
        )
    return np.ascontiguousarray(array)


def session_options(
    threads: int, profile_prefix: str | os.PathLike[str] | None = None
) -> ort.SessionOptions:
    """The options of all sessions that are timed; a prefix switches the node profile on.

    Raises:
        BackendError: less than one thread.
    """
    if threads < 1:
        raise BackendError(f"threads is {threads}; give 1 or more, so that the time is defined.")
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    if profile_prefix is not None:
        options.enable_profiling = True
        options.profile_file_prefix = os.fspath(profile_prefix)
    return options


def _require_provider(device: str) -> list[str]:
    if device not in _PROVIDERS:
        raise BackendError(f"device '{device}' is not known; use {' or '.join(_PROVIDERS)}.")
    wanted = _PROVIDERS[device]
    available = ort.get_available_providers()
    if wanted[0] not in available:
        raise BackendError(
            f"onnxruntime {ort.__version__} has no {wanted[0]} here (it has "
            f"{', '.join(available)}); install onnxruntime-gpu, or measure with device 'cpu'."
        )
    return wanted


def make_session(
    path: str | os.PathLike[str],
    threads: int = 1,
    device: str = "cpu",
    *,
    batch: int = 1,
    seed: int = 0,
    feeds: Mapping[str, np.ndarray] | None = None,
    profile_prefix: str | os.PathLike[str] | None = None,
) -> BenchSession:
    """Load an ONNX file, make its feeds and run it once.

    Args:
        path: the ONNX file.
        threads: intra-op threads.
        device: "cpu" or "cuda".
        batch: size of a dynamic first axis; of the first given array if there is one.
        seed: seed of random feeds.
        feeds: arrays by input name instead of random ones.
        profile_prefix: path prefix of onnxruntime's node profile; none is written when None.

    Raises:
        SchemaError: no such file, or onnxruntime cannot load it.
        BackendError: unknown device, or its provider is missing or did not start.
        DataError: the feeds do not fit.
    """
    found = require_file(path, "ONNX")
    providers = _require_provider(device)
    options = session_options(threads, profile_prefix)
    start = time.perf_counter_ns()
    try:
        session = ort.InferenceSession(os.fspath(found), options, providers=providers)
    except Exception as error:  # onnxruntime's own classes share no public base
        reason = str(error).strip().splitlines()[0]
        raise SchemaError(f"{found}: onnxruntime cannot load it ({reason}).") from error
    session_ms = (time.perf_counter_ns() - start) / 1e6
    if session.get_providers()[0] != providers[0]:
        raise BackendError(
            f"{providers[0]} did not start (onnxruntime uses {session.get_providers()[0]}); check "
            "the CUDA and cuDNN versions that this onnxruntime wants."
        )
    if feeds:
        first = next(iter(feeds.values()))
        batch = int(np.shape(first)[0]) if np.ndim(first) else batch
    arrays = make_feeds(session, batch, seed, feeds, str(found))
    made = BenchSession(
        path=found, session=session, feeds=arrays, batch=batch, threads=threads, device=device,
        session_ms=session_ms, providers=list(session.get_providers()),
    )  # fmt: skip
    if device == "cuda":
        made.binding = _bind(session, arrays)
    start = time.perf_counter_ns()
    made.run()
    made.first_run_ms = (time.perf_counter_ns() - start) / 1e6
    return made


def _bind(session: Any, feeds: Mapping[str, np.ndarray]) -> Any:
    """Inputs and outputs in device memory, so that a run copies nothing."""
    binding = session.io_binding()
    for name, array in feeds.items():
        binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(array, "cuda", 0))
    for value in session.get_outputs():
        binding.bind_output(value.name, "cuda")
    return binding
