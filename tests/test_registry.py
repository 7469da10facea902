"""The registry: clashes, near matches, autoload, plug-ins."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from caffe_bridge import registry as module
from caffe_bridge.errors import BridgeError, UnknownLayerError
from caffe_bridge.registry import Registry


class Conv:
    """An entry."""


def test_names_and_aliases() -> None:
    registry: Registry[type] = Registry("layer type")
    assert registry.register("Convolution", "Conv")(Conv) is Conv
    assert registry.get("Conv") is registry.get("Convolution") is Conv
    assert registry.names() == ["Conv", "Convolution"]
    assert "Conv" in registry
    assert "conv" not in registry


def test_a_clash_names_both() -> None:
    registry: Registry[type] = Registry("layer type")
    registry.register("A")(Conv)
    registry.register("A")(Conv)
    other = type("Other", (), {"__module__": "else.where"})
    with pytest.raises(
        BridgeError,
        match=r"layer type 'A' is registered by both tests\.test_registry\.Conv and "
        r"else\.where\.Other",
    ):
        registry.register("A")(other)


def test_a_clash_within_one_module_is_refused() -> None:
    registry: Registry[type] = Registry("layer type")
    registry.register("A")(Conv)
    with pytest.raises(BridgeError, match="is registered by both"):
        registry.register("A")(type("Second", (), {"__module__": Conv.__module__}))


def test_unknown_names_get_near_matches() -> None:
    registry: Registry[type] = Registry("layer type", error=UnknownLayerError)
    registry.register("Convolution")(Conv)
    registry.register("Pooling")(Conv)
    with pytest.raises(
        UnknownLayerError,
        match=r"^conv1: unknown layer type 'convolutoin'. Did you mean Convolution\?$",
    ):
        registry.get("convolutoin", "conv1")
    with pytest.raises(UnknownLayerError, match=r"^unknown layer type 'zzz'\.$"):
        registry.get("zzz")


@pytest.fixture
def package(tmp_path: Path, monkeypatch) -> Path:
    folder = tmp_path / "plug_package"
    folder.mkdir()
    (folder / "__init__.py").write_text(
        "from caffe_bridge.registry import Registry\n"
        "ITEMS = Registry('item', 'plug_package', 'plug_group')\n"
    )
    (folder / "one.py").write_text(
        "from plug_package import ITEMS\n@ITEMS.register('one')\nclass One: pass\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield folder
    for name in [n for n in sys.modules if n.startswith("plug_package")]:
        del sys.modules[name]


def _plug_ins(monkeypatch, *values: str) -> None:
    entries = [EntryPoint("x", value, "plug_group") for value in values]
    monkeypatch.setattr(module, "entry_points", lambda group: entries)


def test_modules_of_the_package_are_imported_at_first_use(package: Path, monkeypatch) -> None:
    _plug_ins(monkeypatch)
    from plug_package import ITEMS

    assert "plug_package.one" not in sys.modules
    assert ITEMS.names() == ["one"]
    assert ITEMS.get("one").__name__ == "One"


def test_plug_ins_are_loaded(package: Path, monkeypatch) -> None:
    (package.parent / "plug_package_other.py").write_text(
        "from plug_package import ITEMS\n@ITEMS.register('two')\nclass Two: pass\n"
    )
    _plug_ins(monkeypatch, "plug_package_other")
    from plug_package import ITEMS

    assert ITEMS.names() == ["one", "two"]


@pytest.mark.parametrize("value", ["plug_package_missing", "plug_package:nothing"])
def test_a_broken_plug_in_is_named_every_time(package: Path, monkeypatch, value: str) -> None:
    _plug_ins(monkeypatch, value)
    from plug_package import ITEMS

    for _ in range(2):
        with pytest.raises(BridgeError, match=f"item plug-in '{value}' cannot be imported"):
            ITEMS.names()
