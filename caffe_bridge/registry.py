"""One small registry for every open set: layers, force types, decompositions, data sources."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from typing import Generic, TypeVar

from caffe_bridge.errors import BridgeError

T = TypeVar("T")


class Registry(Generic[T]):
    """Maps names to objects, finds them by importing a package's modules at first look-up.

    Args:
        kind: what the entries are, for messages ("layer type").
        package: package whose modules are imported at first use (every file registers itself).
        entry_point_group: entry points of other distributions that are loaded too.
        error: exception class for an unknown name.
    """

    def __init__(
        self,
        kind: str,
        package: str | None = None,
        entry_point_group: str | None = None,
        error: type[BridgeError] = BridgeError,
    ) -> None:
        self.kind = kind
        self._package = package
        self._group = entry_point_group
        self._error = error
        self._entries: dict[str, T] = {}
        self._owner: dict[str, str] = {}
        self._loaded = False

    def register(self, *names: str) -> Callable[[T], T]:
        """Decorator: enter an object under one or more names; the first is canonical.

        Raises:
            BridgeError: a name is taken by another object.
        """

        def enter(item: T) -> T:
            owner = f"{getattr(item, '__module__', '?')}.{getattr(item, '__qualname__', '?')}"
            for name in names:
                if name in self._entries and self._owner[name] != owner:
                    raise BridgeError(
                        f"{self.kind} '{name}' is registered by both {self._owner[name]} "
                        f"and {owner}; rename one of them."
                    )
                self._entries[name] = item
                self._owner[name] = owner
            return item

        return enter

    def load(self) -> None:
        """Import every module of the package and every plug-in once.

        Raises:
            BridgeError: a plug-in cannot be imported.
        """
        if self._loaded:
            return
        self._loaded = True  # before the imports: a module may look something up itself
        try:
            self._import()
        except BaseException:
            self._loaded = False
            raise

    def _import(self) -> None:
        if self._package:
            package = importlib.import_module(self._package)
            for module in pkgutil.iter_modules(package.__path__):
                importlib.import_module(f"{self._package}.{module.name}")
        for entry in entry_points(group=self._group) if self._group else ():
            self._plug_in(entry)

    def _plug_in(self, entry: EntryPoint) -> None:
        try:
            entry.load()
        except BridgeError:
            raise
        except Exception as error:
            raise BridgeError(
                f"{self.kind} plug-in '{entry.value}' cannot be imported "
                f"({type(error).__name__}: {error}); repair or uninstall it."
            ) from error

    def names(self) -> list[str]:
        """All registered names, sorted."""
        self.load()
        return sorted(self._entries)

    def __contains__(self, name: str) -> bool:
        self.load()
        return name in self._entries

    def closest(self, name: str) -> list[str]:
        """Up to three registered names that look like ``name``."""
        by_lower = {known.lower(): known for known in self.names()}
        return [by_lower[m] for m in difflib.get_close_matches(name.lower(), by_lower, n=3)]

    def get(self, name: str, where: str = "") -> T:
        """The object registered as ``name``.

        Raises:
            BridgeError: (or the registry's own class) unknown name; lists near matches.
        """
        self.load()
        if name in self._entries:
            return self._entries[name]
        near = self.closest(name)
        hint = f" Did you mean {' or '.join(near)}?" if near else ""
        prefix = f"{where}: " if where else ""
        raise self._error(f"{prefix}unknown {self.kind} '{name}'.{hint}")
