"""``caffe-bridge VERB``: each verb is one module, imported only when it is used."""

from __future__ import annotations

import importlib
import io
import os
import sys
import traceback
from collections.abc import Sequence

import click

from caffe_bridge import __version__
from caffe_bridge.cli.caffe_flags import normalise
from caffe_bridge.cli.common import import_option, warn
from caffe_bridge.errors import BridgeError

#: Verb -> (module, one-line help).
VERBS = {
    "inspect": ("inspect", "Describe a net: layers, shapes, parameters, what is unsupported."),
    "init": ("init", "Write random weights made by a net's fillers."),
    "run": ("run", "Run a net on arrays or pictures."),
    "convert": ("convert", "Convert a Caffe model to ONNX, and prove that it is the same."),
    "verify": ("verify", "Compare an ONNX file with the Caffe model it came from."),
    "train": ("train", "Train with a solver prototxt."),
    "test": ("test", "Score a trained model on its test data."),
    "time": ("time", "Time every layer of a net forward and backward."),
    "force-scan": ("force_scan", "Propose values of force_decay for a net and its data."),
    "device_query": ("device_query", "Show the processors on which nets can run."),
    "ranks": ("ranks", "Show the rank of every layer at a given energy."),
    "sensitivity": ("sensitivity", "What each layer alone at a lower rank costs the net, on data."),
    "plan": ("plan", "Choose forms and ranks by measured time, for a speed-up or a budget."),
    "decompose": ("decompose", "Decompose layers to low rank; write prototxt, weights and ONNX."),
    "tradeoff": ("tradeoff", "Draw error or accuracy against time, from plans or results."),
    "prune": ("prune", "Set the smallest weights, rows, columns or filters to zero."),
    "sparsity": ("sparsity", "Show how many elements, rows, columns and filters are zero."),
    "shrink": ("shrink", "Take zero filters and channels out; write prototxt, weights and ONNX."),
    "quantize": ("quantize", "Convert to int8 ONNX, calibrated on data, and compare with float."),
    "bench": ("bench", "Time ONNX files against each other in onnxruntime."),
    "draw": ("draw", "Draw a net: SVG, PNG, PDF or DOT."),
    "classify": ("classify", "Label pictures, as pycaffe's classify.py."),
    "detect": ("detect", "Score windows of pictures, as pycaffe's detect.py."),
    "py": ("py", "Run a script in which 'import caffe' means this package."),
    "upgrade-net": ("upgrade_net", "Bring a net of any age to the current format."),
    "upgrade-solver": ("upgrade_solver", "Bring a solver prototxt to the current format."),
    "convert-weights": ("convert_weights", "Rewrite weights: caffemodel to HDF5 and back."),
    "split-groups": ("split_groups", "Grouped convolutions as parallel ones, exactly."),
    "merge-groups": ("merge_groups", "Parallel convolutions as grouped ones, exactly."),
    "fc-to-conv": ("fc_to_conv", "Fully connected layers as convolutions, for larger images."),
    "fold-bn": ("fold_bn", "BatchNorm and Scale folded into the layer before them."),
    "convert-imageset": ("convert_imageset", "Write a list of pictures to a data base."),
    "compute-image-mean": ("compute_image_mean", "Mean picture of a data base."),
    "extract-features": ("extract_features", "Write blobs of many batches to data bases."),
    "dataset": ("dataset", "Data bases of MNIST and CIFAR-10 from the official files."),
    "resnet": ("resnet", "Write a CIFAR-10 ResNet of any depth."),
    "parse-log": ("parse_log", "Training log to CSV tables."),
    "plot-log": ("plot_log", "Plot training logs."),
    "demo": ("demo", "The whole journey on real handwritten digits, with a report."),
    "reproduce": ("reproduce", "Experiments of the paper: sweep, decompose, time, report."),
}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called."""

    def list_commands(self, _ctx: click.Context) -> list[str]:
        """All verbs in the order of a typical journey."""
        return list(VERBS)

    def get_command(self, _ctx: click.Context, name: str) -> click.Command | None:
        """Import the verb's module and return its command."""
        if name not in VERBS:
            return None
        module = importlib.import_module(f"caffe_bridge.cli.{VERBS[name][0]}")
        command: click.Command = module.command
        return command

    def format_commands(self, _ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the verbs without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in VERBS.items()])


@click.command(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="caffe-bridge")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.option("--allow-python", is_flag=True, help="Let nets run the code of their Python layers.")
@import_option
def cli(debug: bool, allow_python: bool) -> None:
    """Caffe models and training recipes in PyTorch and ONNX, with Caffe's own numbers.

    \b
    Example:
      caffe-bridge convert deploy.prototxt net.caffemodel -o net.onnx --verify
    """  # noqa: D301
    if debug:
        os.environ["CAFFE_BRIDGE_DEBUG"] = "1"
    if allow_python:
        from caffe_bridge.layers.python import allow_python_layers

        before = allow_python_layers()
        click.get_current_context().call_on_close(lambda: allow_python_layers(before))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status (0 good, 1 refused, 2 wrong usage)."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names need not be UTF-8
    try:
        given = normalise(sys.argv[1:] if arguments is None else arguments, warn)
        # A verb that starts itself again, once for each GPU, needs the whole command line.
        result = cli.main(
            args=list(given), prog_name="caffe-bridge", standalone_mode=False, obj=given
        )
        return result if isinstance(result, int) else 0
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.Abort:
        click.echo("stopped", err=True)
        return 130
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return error.exit_code
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        hint = f" See '{context.command_path} --help'." if context else ""
        click.echo(f"error: {' '.join(error.format_message().split())}{hint}", err=True)
        return error.exit_code
    except Exception as error:
        if os.environ.get("CAFFE_BRIDGE_DEBUG"):
            traceback.print_exc()
        click.echo(f"error: {_sentence(error)}", err=True)
        return 1


def _sentence(error: Exception) -> str:
    """What an error says to a user; anything unforeseen is called a defect of this program."""
    text = " ".join(str(error).split())
    if isinstance(error, BridgeError):
        return text
    if isinstance(error, OSError) and error.filename is not None:
        return f"{os.fsdecode(error.filename)}: {error.strerror}."
    if isinstance(error, (OSError, MemoryError)):
        return f"{text or 'not enough memory'}."
    return (
        f"unforeseen {type(error).__name__} ({text}); this is a defect of caffe-bridge, please "
        "report it with what 'caffe-bridge --debug VERB ...' prints."
    )


def entry() -> None:
    """Console-script entry: exit with :func:`main`'s status."""
    sys.exit(main())
