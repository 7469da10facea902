"""The verbs, their flags and what they have in common."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import click
import pytest

from caffe_bridge import __version__
from caffe_bridge.cli import common
from caffe_bridge.cli.main import VERBS, cli, entry, main
from tests.cli.nets import call

#: The frozen interface: every verb with its arguments and flags.
FLAGS = json.loads((Path(__file__).parent / "flags.json").read_text())


def command(verb: str) -> click.Command:
    found = cli.get_command(click.Context(cli), verb)  # type: ignore[attr-defined]
    assert found is not None
    return found


def test_the_verbs_are_these() -> None:
    assert list(VERBS) == list(FLAGS)


@pytest.mark.parametrize("verb", FLAGS)
def test_the_flags_are_these(verb: str) -> None:
    flags = [name for p in command(verb).params for name in (*p.opts, *p.secondary_opts)]
    assert sorted(flags) == sorted(FLAGS[verb].split())


@pytest.mark.parametrize("flag", ["--help", "-h"])
@pytest.mark.parametrize("verb", FLAGS)
def test_help_starts_with_an_example(
    verb: str, flag: str, capsys: pytest.CaptureFixture[str]
) -> None:
    result = call(capsys, verb, flag)
    assert result.status == 0
    assert result.err == ""
    assert result.out.startswith(f"Example:\n  caffe-bridge {verb} ")
    assert f"Usage: caffe-bridge {verb}" in result.out


@pytest.mark.parametrize("verb", [verb for verb in FLAGS if verb != "py"])
def test_examples_use_flags_that_exist(verb: str) -> None:
    found = command(verb)
    lines = [x.strip() for x in found.example.splitlines()]  # type: ignore[attr-defined]
    words = {word for line in lines if line.startswith("caffe-bridge") for word in line.split()}
    assert {w for w in words if w.startswith("-")} <= set(FLAGS[verb].split())


def test_group_help_lists_all_verbs(capsys: pytest.CaptureFixture[str]) -> None:
    result = call(capsys, "--help")
    assert result.status == 0
    assert "Example:" in result.out
    assert all(f"  {verb} " in result.out for verb in VERBS)


def test_no_verb_is_wrong_usage_that_shows_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    result = call(capsys)
    assert (result.status, result.out) == (2, "")
    assert "Commands:" in result.err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(capsys, "--version").out == f"caffe-bridge, version {__version__}\n"


def test_wrong_verb_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    result = call(capsys, "convrt")
    assert result.status == 2
    assert result.err == "error: No such command 'convrt'. See 'caffe-bridge --help'.\n"


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (OSError(28, "No space left on device", "a.onnx"), "a.onnx: No space left on device."),
        (OSError("pipe gone"), "pipe gone."),
        (MemoryError(), "not enough memory."),
        (ZeroDivisionError("division\nby zero"), "unforeseen ZeroDivisionError (division by zero)"),
    ],
    ids=["file", "other", "memory", "defect"],
)
def test_errors_become_one_sentence(
    error: Exception,
    text: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    folder: Path,
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("caffe_bridge.cli.load.load_net", fail)
    result = call(capsys, "inspect", "net.prototxt")
    assert result.status == 1
    assert result.err.startswith(f"error: {text}")
    assert result.err.count("\n") == 1
    assert ("defect" in result.err) == isinstance(error, ZeroDivisionError)


def test_debug_shows_the_traceback(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    monkeypatch.setenv("CAFFE_BRIDGE_DEBUG", "")
    result = call(capsys, "--debug", "inspect", "nope.prototxt")
    assert result.status == 1
    assert "Traceback" in result.err
    assert result.err.endswith("error: nope.prototxt: no such prototxt file; check the path.\n")


def test_interrupt_is_status_130(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("caffe_bridge.cli.load.load_net", stop)
    result = call(capsys, "inspect", "net.prototxt")
    assert result.status == 130
    assert result.err.strip() == "stopped"


def test_entry_exits_with_the_status(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["caffe-bridge", "--version"])
    with pytest.raises(SystemExit) as stop:
        entry()
    assert stop.value.code == 0


def test_arguments_default_to_the_process(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["caffe-bridge", "--version"])
    assert main() == 0


def test_the_module_runs_as_a_program(folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "caffe_bridge", "inspect", "net.prototxt", "--json"],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["supported"] is True


def test_help_does_not_load_torch(folder: Path) -> None:
    code = (
        "import sys; from caffe_bridge.cli.main import main\n"
        "for verb in (['convert', '-h'], ['train', '-h'], ['bench', '-h'], ['-h']): main(verb)\n"
        "sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=120)
    assert done.returncode == 0


@pytest.mark.parametrize(
    ("count", "text"),
    [(None, "?"), (0, "0"), (999, "999"), (60_970_000, "60.97 M"), (1500, "1.50 k"),
     (2_000_000_000, "2.00 G")],
)  # fmt: skip
def test_human(count: float | None, text: str) -> None:
    assert common.human(count) == text


def test_shapes_of_several_inputs() -> None:
    given = ["data=1,3,8,8", "im_info=1,3"]
    assert common.parse_shapes(given) == {"data": (1, 3, 8, 8), "im_info": (1, 3)}


@pytest.mark.parametrize("text", ["data", "=1", "data=", "data=1,x", "data=0,3", "data=1,-3"])
def test_bad_shapes(text: str) -> None:
    with pytest.raises(click.UsageError, match="--input"):
        common.parse_shapes([text])


def test_an_input_given_twice() -> None:
    with pytest.raises(click.UsageError, match="'a' is given twice"):
        common.parse_shapes(["a=1", "a=2"])


def test_numbers() -> None:
    assert common.parse_numbers("1, 3", "--batch") == [1, 3]
    assert common.parse_floats("104.5,117", "--mean") == [104.5, 117.0]
    assert common.parse_floats("", "--mean") == []
    for text in ("", "x", "0", "1,-2"):
        with pytest.raises(click.UsageError, match="--batch"):
            common.parse_numbers(text, "--batch")
    for text in ("x", "nan", "1,inf"):
        with pytest.raises(click.UsageError, match="--mean"):
            common.parse_floats(text, "--mean")
