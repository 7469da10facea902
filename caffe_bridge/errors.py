"""Every error that this package raises on purpose.

::

    BridgeError                      catch-all of this package
     +- SchemaError                  a file is not what it should be
     |   +- TextParseError           file, line, column and what was expected
     |   +- UpgradeError             legacy construct without a modern equivalent
     +- GraphError                   the net makes no sense
     |   +- UnknownLayerError        type, near matches, how to plug it in
     |   +- BlobError                unknown, duplicate or unused blob
     |   +- ShapeError               layer, the shapes found and the rule broken
     +- WeightError                  layer, blob index, shape found and shape wanted
     +- DataError                    source path, key or line, reason
     |   +- UnsupportedDataError     a data layer asks for what only a fork has
     +- SolverError                  bad solver field and what is allowed
     +- ExportError                  layer and the ONNX limit
     |   +- VerifyError              first diverging blob and by how much
     +- PlanError                    a compression plan does not fit the net
     +- BackendError                 optional dependency or provider is missing

Messages say who, where, with which numbers, and what to do.
"""

from __future__ import annotations


def printable(text: str) -> str:
    r"""Text with the bytes of names that are not UTF-8 written as ``\xb2``, to print anywhere.

    Args:
        text: such bytes stand in it as Python's ``surrogateescape`` writes them.
    """
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # half a pair of UTF-16, which only a caller's own text can hold
        return text.encode("utf-8", "backslashreplace").decode()


class BridgeError(Exception):
    """Base of all errors that a user can cause and repair."""

    def __str__(self) -> str:
        """The message, fit for any terminal and file."""
        return printable(super().__str__())


class SchemaError(BridgeError):
    """A file is not what its name or the caller says it is."""


class TextParseError(SchemaError):
    """Prototxt text breaks the grammar or the schema."""


class UpgradeError(SchemaError):
    """A legacy construct has no modern equivalent."""


class GraphError(BridgeError):
    """The layers do not form a valid net."""


class UnknownLayerError(GraphError):
    """No class is registered for a layer type."""


class BlobError(GraphError):
    """A blob is missing, made twice or never used."""


class ShapeError(GraphError):
    """Shapes break a layer's rule."""


class WeightError(BridgeError):
    """Stored weights do not fit the net."""


class DataError(BridgeError):
    """A data source cannot deliver what the net needs."""


class UnsupportedDataError(DataError):
    """A data layer asks for something that is not supported, whatever its source."""


class SolverError(BridgeError):
    """A solver definition is wrong."""


class ExportError(BridgeError):
    """A layer cannot be stated in ONNX."""


class VerifyError(ExportError):
    """The exported model computes something else than the net."""


class PlanError(BridgeError):
    """A compression plan does not fit the net."""


class BackendError(BridgeError):
    """An optional dependency or a provider is missing."""
