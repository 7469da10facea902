"""Whatever is wrong with the input: one clear sentence, and nothing left behind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from caffe_bridge.schema import write_blob
from tests.cli.nets import NET, SOLVER, call

Capture = pytest.CaptureFixture[str]
LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 12345\n"
HTML = "<!DOCTYPE html>\n<html><body>404</body></html>\n"
CONVERT = ("-o", "out.onnx")


def listing() -> list[str]:
    return sorted(str(path) for path in Path().rglob("*"))


def refused(capsys: Capture, words: list[str], *arguments: object, status: int = 1) -> str:
    """The one sentence, after checking its form and that the folder is as before."""
    before = listing()
    result = call(capsys, *arguments)
    assert result.status == status, result
    assert result.out == ""
    assert result.err.startswith("error: ")
    assert result.err.endswith((".\n", "'\n", "?)\n", "?\n"))
    assert result.err.count("\n") == 1
    assert "Traceback" not in result.err
    assert "defect" not in result.err
    for word in words:
        assert word in result.err, result.err
    assert listing() == before
    return result.err


def spoil(folder: Path, weights: bytes) -> None:
    """One file of every kind that goes wrong."""
    write = {
        "lfs.prototxt": LFS, "lfs.caffemodel": LFS, "html.prototxt": HTML, "html.caffemodel": HTML,
        "empty.prototxt": "", "empty.caffemodel": "", "blank.prototxt": "# nothing\n",
        "syntax.prototxt": NET.replace('top: "ip"', "top: ip {"),
        "brace.prototxt": NET.rstrip().removesuffix("}"),
        "type.prototxt": NET.replace('"Convolution"', '"Convolutoin"'),
        "shape.prototxt": NET.replace("num_output: 5", "num_output: 6"),
        "bottom.prototxt": NET.replace('bottom: "conv1" top: "ip"', 'bottom: "conv2" top: "ip"'),
        "count.prototxt": NET.replace("num_output: 5", "num_output: 5 bias_term: false"),
        "twice.prototxt": NET.replace('top: "prob"', 'top: "conv1"'),
        "foreign.prototxt": NET.replace('name: "conv1"', 'name: "a"').replace(
            'name: "ip"', 'name: "b"'
        ),
        "enum.prototxt": NET.replace("kernel_size: 3", "kernel_size: three"),
        "large.prototxt": NET.replace("kernel_size: 3", "kernel_size: 9"),
    }  # fmt: skip
    for name, text in write.items():
        Path(name).write_text(text)
    Path("half.caffemodel").write_bytes(weights[: len(weights) // 2])
    Path("noise.caffemodel").write_bytes(np.random.default_rng(0).bytes(3000))
    write_blob(np.zeros((1, 3, 6, 6), np.float32), "mean.binaryproto")
    np.save("x.npy", np.zeros((2, 3, 6, 6), np.float32))


NETS = {
    "missing": ("nope.prototxt", ["nope.prototxt: no such prototxt file"]),
    "folder": (".", ["is a folder, expected a prototxt file"]),
    "lfs": ("lfs.prototxt", ["lfs.prototxt: is a Git-LFS pointer", "git lfs pull"]),
    "html": ("html.prototxt", ["html.prototxt: is a web page", "fetch the file again"]),
    "empty": ("empty.prototxt", ["empty.prototxt: the prototxt file is empty"]),
    "blank": ("blank.prototxt", ["blank.prototxt: has no layers for phase TEST"]),
    "syntax": ("syntax.prototxt", ["syntax.prototxt:9:", "ip"]),
    "brace": ("brace.prototxt", ["brace.prototxt:12:", "'}'", "opened on line 12"]),
    "value": ("enum.prototxt", ["enum.prototxt:5:", "three"]),
    "type": ("type.prototxt", ["conv1 (Convolutoin) at type.prototxt:3", "Did you mean Conv"]),
    "shape": ("shape.prototxt", ["ip (InnerProduct) at shape.prototxt:8", "net.caffemodel",
                                 "(5, 64)", "(6, 64)", "use the matching prototxt"]),
    "bottom": ("bottom.prototxt", ["ip (InnerProduct) at bottom.prototxt:8", "'conv2'",
                                   "conv1, data", "Correct the name"]),
    "count": ("count.prototxt", ["ip (InnerProduct)", "stores 2 blobs for it, the net has 1"]),
    "twice": ("twice.prototxt", ["prob (Softmax)", "already made by relu1", "rename it"]),
    "foreign": ("foreign.prototxt", ["net.caffemodel: has weights for none of the layers of "
                                     "foreign.prototxt", "(a, b)"]),
    "large": ("large.prototxt", ["conv1 (Convolution)", "(9, 9)", "(2, 3, 6, 6)"]),
    "solver": ("solver.prototxt", ["is a solver prototxt, expected a net", '"train.prototxt"']),
    "data": ("train_val.prototxt", ["data (Data) at train_val.prototxt:6", "'test_lmdb'",
                                    "--input data=N,C,H,W"]),
}  # fmt: skip
WEIGHTS = {
    "missing": ("nope.caffemodel", ["nope.caffemodel: no such caffemodel file"]),
    "half": ("half.caffemodel", ["half.caffemodel: not a whole NetParameter", "truncated"]),
    "noise": ("noise.caffemodel", ["noise.caffemodel: not a whole NetParameter"]),
    "lfs": ("lfs.caffemodel", ["lfs.caffemodel: is a Git-LFS pointer", "git lfs pull"]),
    "html": ("html.caffemodel", ["html.caffemodel: is a web page", "fetch the file again"]),
    "empty": ("empty.caffemodel", ["empty.caffemodel: the caffemodel file is empty"]),
    "mean": ("mean.binaryproto", ["mean.binaryproto"]),
    "npy": ("x.npy", ["x.npy"]),
    "solver": ("solver.prototxt", ["solver.prototxt: is a text file", "did you swap"]),
}


@pytest.mark.parametrize("case", NETS)
def test_nets(case: str, folder: Path, capsys: Capture, weights: bytes) -> None:
    spoil(folder, weights)
    net, words = NETS[case]
    refused(capsys, words, "convert", net, "net.caffemodel", *CONVERT)


@pytest.mark.parametrize("case", WEIGHTS)
def test_weights(case: str, folder: Path, capsys: Capture, weights: bytes) -> None:
    spoil(folder, weights)
    found, words = WEIGHTS[case]
    refused(capsys, words, "convert", "net.prototxt", found, *CONVERT, "--verify")
    refused(capsys, words, "run", "net.prototxt", found, "--feed", "data=x.npy", "--save", "o.npz")
    refused(capsys, words, "test", "--model", "train.prototxt", "--weights", found)
    refused(capsys, words, "ranks", "net.prototxt", found)
    refused(capsys, words, "decompose", "net.prototxt", found, "--energy", 0.6, "-o", "low")


def test_swapped_arguments(folder: Path, capsys: Capture) -> None:
    words = ["net.caffemodel: is a binary file, expected prototxt text", "did you swap"]
    swapped = ("net.caffemodel", "net.prototxt")
    refused(capsys, words, "convert", *swapped, *CONVERT)
    refused(capsys, words, "ranks", *swapped)
    refused(capsys, words, "decompose", *swapped, "--energy", 0.9, "-o", "low")
    refused(capsys, words, "inspect", "net.caffemodel")


@pytest.mark.parametrize(
    ("output", "word"), [("no/out.onnx", "no/out.onnx: its folder does not exist; make it first"),
                         (".", "is a folder; give the name of a file")],
)  # fmt: skip
def test_outputs(output: str, word: str, folder: Path, capsys: Capture) -> None:
    np.save("x.npy", np.zeros((2, 3, 6, 6), np.float32))
    Path("m.onnx").write_bytes(b"\x08\x08")
    refused(capsys, [word], "convert", "net.prototxt", "net.caffemodel", "-o", output)
    refused(capsys, [word], "init", "net.prototxt", "-o", output)
    refused(capsys, [word], "run", "net.prototxt", "net.caffemodel", "--feed", "data=x.npy",
            "--save", output)  # fmt: skip
    refused(capsys, [word], "bench", "m.onnx", "--save", output)
    refused(capsys, [word], "train", "--solver", "solver.prototxt", "--log", output)


def test_an_output_folder_that_is_a_file(folder: Path, capsys: Capture) -> None:
    refused(capsys, ["net.prototxt: cannot make this folder"], "decompose", "net.prototxt",
            "net.caffemodel", "--energy", 0.6, "-o", "net.prototxt")  # fmt: skip


def spoil_onnx() -> None:
    Path("noise.onnx").write_bytes(np.random.default_rng(0).bytes(500))
    Path("html.onnx").write_text(HTML)
    Path("lfs.onnx").write_text(LFS)
    Path("text.onnx").write_text("net")
    Path("empty.onnx").write_bytes(b"")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nope.onnx", ["nope.onnx: no such ONNX file"]),
        ("noise.onnx", ["noise.onnx", "onnxruntime", "cannot load it"]),
        ("html.onnx", ["html.onnx: is a web page, not an ONNX model"]),
        ("lfs.onnx", ["lfs.onnx: is a Git-LFS pointer"]),
        ("text.onnx", ["text.onnx: is a text file, expected an ONNX model"]),
        ("empty.onnx", ["empty.onnx: the ONNX file is empty"]),
        (".", ["is a folder, expected an ONNX file"]),
    ],
)
def test_unreadable_onnx(name: str, words: list[str], folder: Path, capsys: Capture) -> None:
    spoil_onnx()
    refused(capsys, words, "verify", "net.prototxt", "net.caffemodel", name)
    refused(capsys, words, "bench", name, "--quick")


def small_onnx(name: str, into: str, out: str, shape: list[int | str]) -> None:
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n in (into, out)]
    graph = helper.make_graph(
        [helper.make_node("Relu", [into], [out])], "g", values[:1], values[1:]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, name)


@pytest.mark.parametrize(
    ("into", "out", "shape", "words"),
    [
        ("data", "other", ["N", 3, 6, 6], ["its output 'other' is none of the outputs", "conv1"]),
        ("image", "conv1", ["N", 3, 6, 6], ["its input 'image' is none of the inputs", "(data)"]),
        ("data", "conv1", ["N", 3, 9, 9], ["('N', 3, 9, 9)", "(1, 3, 6, 6)", "--input"]),
        ("data", "conv1", ["N", 3], ["shape ('N', 3)", "(1, 3, 6, 6)"]),
    ],
    ids=["output", "input", "size", "axes"],
)
def test_onnx_of_another_net(
    into: str, out: str, shape: list[int | str], words: list[str], folder: Path, capsys: Capture
) -> None:
    small_onnx("other.onnx", into, out, shape)
    given = ("net.prototxt", "net.caffemodel", "other.onnx")
    refused(capsys, ["other.onnx", *words], "verify", *given)


USAGE = {
    "opset": (["--opset", "abc"], ["--opset abc", "'latest'"]),
    "input without sizes": (["--input", "data"], ["--input data", "NAME=1,3,224,224"]),
    "input of words": (["--input", "data=1,x"], ["--input data=1,x"]),
    "batch": (["--verify", "--batch", "0"], ["--batch '0'", "1 or more"]),
    "flag": (["--nope"], ["No such option '--nope'"]),
    "level": (["--level", "x"], ["--level", "'x'"]),
}


@pytest.mark.parametrize("case", USAGE)
def test_usage(case: str, folder: Path, capsys: Capture) -> None:
    more, words = USAGE[case]
    text = refused(capsys, words, "convert", "net.prototxt", "net.caffemodel", *CONVERT, *more,
                   status=2)  # fmt: skip
    assert text.endswith("See 'caffe-bridge convert --help'.\n")


def test_missing_arguments(folder: Path, capsys: Capture) -> None:
    refused(capsys, ["Missing argument 'WEIGHTS'"], "convert", "net.prototxt", status=2)
    refused(capsys, ["Missing option '-o'"], "convert", "net.prototxt", "net.caffemodel", status=2)
    refused(capsys, ["Missing option '--solver'"], "train", status=2)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--opset", "12"], ["opset 12", "use 13 to"]),
        (["--opset", "99"], ["opset 99", "use 13 to"]),
        (["--input", "nope=1,3,6,6"], ["'nope'", "inputs are data"]),
        (["--input", "data=1,3,2,2"], ["conv1 (Convolution)", "(1, 3, 2, 2)"]),
        (["--input", "data=1,1,6,6"], ["conv1 (Convolution)", "(4, 3, 3, 3)", "(4, 1, 3, 3)"]),
        (["--output-blob", "nope"], ["'nope'", "data, conv1, ip, prob"]),
        (["--output-blob", "data"], ["'data' is an input"]),
    ],
    ids=lambda value: "=".join(value)[2:] if value[0].startswith("--") else "",
)
def test_options_of_convert(
    more: list[str], words: list[str], folder: Path, capsys: Capture
) -> None:
    refused(capsys, words, "convert", "net.prototxt", "net.caffemodel", *CONVERT, *more)


def test_a_lost_label_is_explained(folder: Path, capsys: Capture) -> None:
    words = ["loss (SoftmaxWithLoss)", "--input label=N", "--output-blob NAME"]
    given = ("train_val.prototxt", "net.caffemodel", "--input", "data=1,3,6,6")
    refused(capsys, words, "convert", *given, *CONVERT)


PLANS = {
    "words": (["--ranks", "a,b"], ["--ranks 'a,b'"], 2),
    "none": (["--ranks", ""], ["--ranks ''"], 2),
    "many": (["--ranks", "2,3"], ["2 ranks are given for 1 layers (conv1)"], 1),
    "high": (["--ranks", "99"], ["conv1 (Convolution)", "rank 99 is above 4"], 1),
    "energy": (["--energy", "1.5"], ["1.5", "above 0 and up to 1"], 1),
    "method": (["--energy", "0.5", "--method", "qr"], ["'qr' is not one of 'pca'"], 2),
    "broken": (["--config", "broken.json"], ["broken.json: is no valid JSON", "column 11"], 1),
    "list": (["--config", "list.json"], ["list.json: should hold ranks", '["conv1"]'], 1),
    "text": (["--config", "text.json"], ['conv1: rank is "x"'], 1),
    "name": (["--config", "name.json"], ["no layer 'conv11'", "Did you mean conv1?"], 1),
    "relu": (["--config", "relu.json"], ["relu1 (ReLU) cannot be decomposed"], 1),
    "binary": (["--config", "net.caffemodel"], ["net.caffemodel: is a binary file"], 1),
    "missing": (["--config", "nope.json"], ["nope.json: no such rank file"], 1),
    "plan": (["--plan", "name.json"], ["name.json: is no plan"], 1),
    "broken plan": (["--plan", "broken.json"], ["broken.json:1:11: is not JSON"], 1),
    "except": (["--energy", "0.5", "--except", "name.json"], ["should hold layers as"], 1),
}


@pytest.mark.parametrize("case", PLANS)
def test_ranks_and_configs(case: str, folder: Path, capsys: Capture) -> None:
    files = {"broken": '{"conv1": }', "list": '["conv1"]', "text": '{"conv1": "x"}',
             "name": '{"conv11": 2}', "relu": '{"relu1": 2}'}  # fmt: skip
    for name, text in files.items():
        Path(f"{name}.json").write_text(text)
    more, words, status = PLANS[case]
    refused(capsys, words, "decompose", "net.prototxt", "net.caffemodel", "-o", "low", *more,
            status=status)  # fmt: skip


TRAIN = {
    "lmdb": (SOLVER.replace("train.prototxt", "train_val.prototxt"),
             ["data (Data) at train_val.prototxt:2", "'train_lmdb'", "write it first"]),
    "net": (NET, ["given.prototxt: is a net prototxt", "needs 'net:"]),
    "no net": ("base_lr: 1\n", ["given.prototxt: is without a net", "needs 'net:"]),
    "lost net": (SOLVER.replace("train.prototxt", "lost.prototxt"),
                 ["given.prototxt:1", "net file 'lost.prototxt' does not exist"]),
    "policy": (SOLVER.replace('"fixed"', '"fixxed"'), ["fixxed"]),
    "syntax": (SOLVER.replace("max_iter: 6", "max_iter: six"), ["given.prototxt:5:", "six"]),
    "binary": (None, ["given.prototxt: is a binary file"]),
}  # fmt: skip


@pytest.mark.parametrize("case", TRAIN)
def test_solvers(case: str, folder: Path, capsys: Capture, weights: bytes) -> None:
    text, words = TRAIN[case]
    Path("given.prototxt").write_bytes(weights if text is None else text.encode())
    refused(capsys, words, "train", "--solver", "given.prototxt", "--quiet")


def test_starts_of_training(folder: Path, capsys: Capture) -> None:
    train = ("train", "--solver", "solver.prototxt")
    refused(capsys, ["nope.solverstate"], *train, "--snapshot", "nope.solverstate")
    refused(capsys, ["nope.caffemodel: no such"], *train, "--weights", "nope.caffemodel")
    refused(capsys, ["solver.prototxt: is a text file"], *train, "--weights", "solver.prototxt")
    refused(capsys, ["net.caffemodel"], *train, "--snapshot", "net.caffemodel")
    refused(capsys, ["give one of them"], *train, "--weights", "a", "--snapshot", "b", status=2)


def test_test_needs_data(folder: Path, capsys: Capture) -> None:
    given = ("test", "--weights", "net.caffemodel", "--model")
    refused(capsys, ["data (Input)", "has no data of its own"], *given, "net.prototxt")
    text = refused(capsys, ["'test_lmdb'"], *given, "train_val.prototxt")
    assert "--input" not in text
    refused(capsys, ["0 is not in the range"], *given, "net.prototxt", "--iterations", 0, status=2)


def test_feeds(folder: Path, capsys: Capture) -> None:
    np.save("wide.npy", np.zeros((2, 4, 6, 6)))
    np.save("big.npy", np.zeros((2, 3, 9, 9)))
    np.save("tiny.npy", np.zeros((2, 3, 1, 1)))
    np.save("flat.npy", np.zeros(7))
    np.save("words.npy", np.array(["a"]))
    Path("fake.npy").write_text("1 2 3")
    Path("fake.jpg").write_text("1 2 3")
    cases = {
        "data=wide.npy": ["wide.npy", "(2, 4, 6, 6)", "conv1 (Convolution)", "(2, 3, 6, 6)"],
        "data=big.npy": ["big.npy", "(2, 3, 9, 9)", "ip (InnerProduct)"],
        "data=tiny.npy": ["tiny.npy", "(2, 3, 1, 1)", "conv1"],
        "data=flat.npy": ["flat.npy", "data (2, 3, 6, 6)"],
        "data=words.npy": ["words.npy: is no .npy file of numbers"],
        "data=fake.npy": ["fake.npy: is no .npy file of numbers"],
        "data=fake.jpg": ["fake.jpg: OpenCV cannot decode it"],
        "data=nope.npy": ["nope.npy: no such input data file"],
        "data=net.prototxt": ["net.prototxt: give a .npy file or a picture"],
        "image=wide.npy": ["--feed image=wide.npy: the inputs of net.prototxt are data"],
    }
    run = ("run", "net.prototxt", "net.caffemodel", "--save", "o.npz", "--feed")
    for feed, words in cases.items():
        refused(capsys, words, *run, feed)
    for feed in ("data", "data=", "=x.npy"):
        refused(capsys, [f"--feed {feed}: write it as BLOB=FILE"], *run, feed, status=2)


def test_means(folder: Path, capsys: Capture) -> None:
    import cv2

    cv2.imwrite("cat.png", np.zeros((6, 6, 3), np.uint8))
    run = ("run", "net.prototxt", "net.caffemodel", "--feed", "data=cat.png", "--mean")
    refused(capsys, ["--mean has 2 numbers, the input has 3 channels"], *run, "1,2")
    refused(capsys, ["--mean 'x'"], *run, "x", status=2)
    Path("two.prototxt").write_text(NET.replace("dim: 3", "dim: 2"))
    call(capsys, "init", "two.prototxt", "-o", "two.caffemodel")
    refused(capsys, ["cat.png: a picture needs an input of 1 or 3 channels"], "run", "two.prototxt",
            "two.caffemodel", "--feed", "data=cat.png")  # fmt: skip


def test_libraries_add_nothing_to_the_sentence(folder: Path) -> None:
    """A real process: what native code prints counts as well."""
    spoil_onnx()
    Path("fake.jpg").write_bytes(b"\xff\xd8\xff\xe0 no picture")
    for arguments in (
        ["verify", "net.prototxt", "net.caffemodel", "noise.onnx"],
        ["run", "net.prototxt", "net.caffemodel", "--feed", "data=fake.jpg"],
    ):
        done = subprocess.run([sys.executable, "-m", "caffe_bridge", *arguments],
                              capture_output=True, text=True, timeout=120)  # fmt: skip
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith("error: ")
        assert done.stderr.count("\n") == 1


@pytest.mark.usefixtures("folder")
def test_reproduce_without_the_recipes(capsys: Capture) -> None:
    words = ["lenet/experiment.json: no such experiment file", "name that folder with --recipes"]
    refused(capsys, words, "reproduce", "lenet", "out", "--recipes", "elsewhere")
