"""Prototxt: grammar, errors with line and column, unknown fields, writing."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from caffe_bridge.errors import SchemaError, TextParseError
from caffe_bridge.schema import Record, format_text, parse_text, read_text, unknown_fields
from caffe_bridge.schema import write_text as write
from caffe_bridge.schema.messages import single
from caffe_bridge.schema.text import format_float
from tests.shared import SHARED, needs_shared

#: Files of the collection that no protobuf parser takes either: templates and Windows paths.
READABLE = 594


def net(text: str) -> Record:
    return parse_text(text, "NetParameter", "net.prototxt")


def conv(text: str) -> Record:
    return parse_text(text, "ConvolutionParameter")


@pytest.mark.parametrize(
    "text",
    [
        'layer { name: "a" type: "ReLU" }',
        'layer: { name: "a" type: "ReLU" }',
        'layer < name: "a" type: "ReLU" >',
        "layer { name: 'a' type: 'ReLU' }",
        'layer { name: "a", type: "ReLU"; }',
        'layer [{ name: "a" type: "ReLU" }]',
        'layer: [< name: "a" type: "ReLU" >]',
        'layer { # comment "{"\n name: "a" # more\n type: "Re" \'LU\' }',
        "layer { name: a type: ReLU }",
        '\ufefflayer{name:"a"type:"ReLU"}',
        'layer\r\n{\r\n\tname : "a"\r\n\ttype : "ReLU"\r\n}\r\n',
    ],
)
def test_every_form_gives_the_same_net(text: str) -> None:
    wanted = Record("NetParameter", layer=[Record("LayerParameter", name="a", type="ReLU")])
    assert net(text) == wanted


def test_short_lists() -> None:
    wanted = conv("kernel_size: 3 kernel_size: 5")
    assert conv("kernel_size: [3, 5]") == wanted
    assert conv("kernel_size: [3 5]") == wanted
    assert not conv("kernel_size: []").has("kernel_size")
    both = net('layer [{ name: "a" }, { name: "b" }] layer { name: "c" }')
    assert [layer.name for layer in both.layer] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("literal", "value"),
    [
        ("1", 1.0), ("-1.5", -1.5), ("- 1.5", -1.5), ("1.", 1.0), (".5", 0.5), ("1e-3", 1e-3),
        ("2.5f", 2.5), ("1F", 1.0), ("+3", 3.0), ("inf", math.inf), ("-inf", -math.inf),
        ("infinity", math.inf), ("-infinity", -math.inf), ("-Infinity", -math.inf),
        ("1e40", math.inf), ("0.1", 0.1), ("0.30000000001", 0.3),
    ],
)  # fmt: skip
def test_floats(literal: str, value: float) -> None:
    assert parse_text(f"base_lr: {literal}", "SolverParameter").base_lr == value


def test_nan() -> None:
    assert math.isnan(parse_text("base_lr: nan", "SolverParameter").base_lr)
    assert math.isnan(parse_text("base_lr: -nan", "SolverParameter").base_lr)


@pytest.mark.parametrize(
    ("literal", "value"), [("12", 12), ("-3", -3), ("0x1F", 31), ("017", 15), ("- 4", -4)]
)
def test_integers(literal: str, value: int) -> None:
    assert parse_text(f"axis: {literal}", "SoftmaxParameter").axis == value


@pytest.mark.parametrize(
    ("literal", "value"),
    [
        ("true", True),
        ("false", False),
        ("True", True),
        ("1", True),
        ("0", False),
        ("t", True),
        ("0x1", True),
        ("01", True),
        ("0x0", False),
        ("00", False),
    ],
)
def test_bools(literal: str, value: bool) -> None:
    assert conv(f"bias_term: {literal}").bias_term is value


@pytest.mark.parametrize("literal", ["AVE", "1", '"AVE"', "0x1", "01"])
def test_enums_by_name_number_and_string(literal: str) -> None:
    assert parse_text(f"pool: {literal}", "PoolingParameter").pool == "AVE"


@pytest.mark.parametrize("literal", ["0x2", "02", "08", "-0x1", "1.0"])
def test_other_numbers_are_no_bools(literal: str) -> None:
    with pytest.raises(TextParseError, match=f"'bias_term' wants true or false, found '{literal}'"):
        conv(f"bias_term: {literal}")


def test_enums_by_octal_number() -> None:
    assert net("layers { type: 010 }").layers[0].type == "FLATTEN"
    with pytest.raises(TextParseError, match="'type' wants a name, found '08'"):
        net("layers { type: 08 }")


def test_old_layer_types_are_an_open_set() -> None:
    layers = net("layers { type: SOME_FORK } layers { type: 4 } layers { type: 77 }").layers
    assert [layer.type for layer in layers] == ["SOME_FORK", "CONVOLUTION", "77"]


@pytest.mark.parametrize(
    ("literal", "value"),
    [
        (r'"a\"b"', 'a"b'), (r"'it\'s'", "it's"), (r'"a\tb\nc"', "a\tb\nc"), (r'"\\d"', "\\d"),
        (r'"\303\251"', "é"), (r'"\xc3\xa9"', "é"), (r'"\u00e9"', "é"), ('"é"', "é"),
        (r'"\1011"', "A1"), (r'"\?"', "?"), (r'"\8"', "8"), ('"a" "b"\n\'c\'', "abc"),
        ("conv1/7x7_s2", "conv1/7x7_s2"), (r'"\U0001F600"', "\U0001f600"),
    ],
)  # fmt: skip
def test_strings(literal: str, value: str) -> None:
    assert net(f"name: {literal}").name == value


def test_bytes_take_escapes_and_utf8() -> None:
    assert parse_text(r'data: "\000\377A"', "Datum").data == b"\x00\xffA"
    assert parse_text('data: "é€"', "Datum").data == "é€".encode()
    datum = parse_text(r'data: "\000\377A\"\\"', "Datum")
    assert parse_text(format_text(datum), "Datum") == datum


@pytest.mark.parametrize(
    ("text", "place", "reason"),
    [
        ("name: 'a\nlayer {}", "1:7", "unexpected character"),
        ("\n  name = 3", "2:8", "unexpected character '='"),
        ("layer {\n name: 'a'\n", "2:11", "where '}' that closes the block opened on line 1"),
        ("layer {\n name 'a'\n}", "2:7", "expected ':' after 'name', found \"'a'\""),
        ("layer: 3", "1:8", "expected '{' after 'layer', found '3'"),
        ("layer { } }", "1:11", "expected a field name, found '}'"),
        ("layer {\n  name: 3\n}", "2:9", "'name' wants a quoted string"),
        ("layer [ 3 ]", "1:9", "expected '{' in the list"),
        ("layer { convolution_param { num_output: 1.5 } }", "1:41", "wants an integer"),
        ("layer { convolution_param { num_output: 08 } }", "1:41", "wants an integer"),
        ("layer { convolution_param { num_output: -1 } }", "1:41", "takes 0 to 4294967295"),
        ("layer { convolution_param { axis: 3000000000 } }", "1:35", "takes -2147483648 to"),
        ("layer { convolution_param { bias_term: 2 } }", "1:40", "wants true or false"),
        ("layer { convolution_param { bias_term: 'true' } }", "1:40", "wants true or false"),
        ("layer { relu_param { negative_slope: 'x' } }", "1:38", "wants a number"),
        ("layer { relu_param { negative_slope: 0x10 } }", "1:38", "wants a number"),
        ("layer { include { phase: TRIAN } }", "1:26", "'phase' is one of TRAIN, TEST"),
        ("layer { include { phase: 9 } }", "1:26", "'phase' is one of TRAIN, TEST"),
        ("layer { include { phase: 0x9 } }", "1:26", "found '9'"),
        ("layer { include { phase: 1.5 } }", "1:26", "found '1.5'"),
        ("layer { include { phase: [] } }", "1:26", "wants a name"),
        ("name: 'a'\nname: 'b'", "2:1", "field 'name' is given twice"),
        ("state {} state {}", "1:10", "field 'state' is given twice"),
        ("name: -'a'", "1:7", "wants a quoted string"),
        ("strange: {", "1:11", "expected a field name or '}'"),
        ("strange: ]", "1:10", "expected a value for 'strange'"),
        ("strange 3", "1:9", "expected ':' or '{' after 'strange'"),
        ("strange: [1, [2]", "1:10", "never closed"),
        ("layer { convolution_param { pad: [1, 2", "1:39", "wants an integer"),
        ("layer [{ name: 'a' }", "1:21", "expected '{' in the list"),
        ("a { " * 200, "1:4", "nested more than 100 deep"),
    ],
)  # fmt: skip
def test_errors_say_where(text: str, place: str, reason: str) -> None:
    with pytest.raises(TextParseError) as caught:
        net(text)
    assert str(caught.value).startswith(f"net.prototxt:{place}")
    assert reason in str(caught.value)


def test_error_shows_the_line() -> None:
    with pytest.raises(TextParseError, match="in the line: 'axis: x # hm'"):
        parse_text("\n  axis: x # hm\n", "SoftmaxParameter")


def test_records_know_their_line() -> None:
    read = net('name: "n"\n\nlayer {\n  name: "a"\n}\nlayer { name: "b" }')
    assert [layer.where() for layer in read.layer] == ["net.prototxt:3", "net.prototxt:6"]


UNKNOWN = """\
layer {
  name: "a"
  my_param {
    size: -3
    names: "x" 'y'
    mode: FAST
    list: [ 1 , 2 ]
    deep: [ { k: [ 1 ] } ]
    inner {
      v: -inf
      [ext.field]: 1e-3
    }
  }
}
future: "kept"
"""


def test_unknown_fields_are_kept() -> None:
    read = net(UNKNOWN)
    assert unknown_fields(read) == [("future", 15), ("layer[a].my_param", 3)]
    again = net(format_text(read))
    assert again == read
    assert format_text(again) == format_text(read)
    for literal in ("size: -3", "\"x\" 'y'", "mode: FAST", "v: -inf", "[ext.field]: 1e-3"):
        assert literal in format_text(read)
    assert net(UNKNOWN.replace("-3", "-4", 1)) != read


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.1, "0.1"), (1e-05, "1e-05"), (math.inf, "inf"), (-math.inf, "-inf"), (2.0, "2"),
        (0.00390625, "0.00390625"), (1e20, "1e+20"), (math.nan, "nan"), (-0.5, "-0.5"),
        (float(np.float32(0.1)), "0.1"), (16777216.0, "16777216"), (1 / 3, "0.33333334"),
    ],
)  # fmt: skip
def test_format_float(value: float, text: str) -> None:
    assert format_float(value) == text


def test_shortest_decimal_is_the_same_float32() -> None:
    bits = np.random.default_rng(1).integers(0, 1 << 32, 5000, dtype=np.uint32)
    for value in bits.view(np.float32)[np.isfinite(bits.view(np.float32))]:
        assert np.float32(single(float(value))) == value
        assert parse_text(f"base_lr: {format_float(value)}", "SolverParameter").base_lr == single(
            value
        )


def test_written_text_reads_back() -> None:
    layer = Record("LayerParameter", name='q"\\\n\té\x01', type="X")
    layer.mutable("convolution_param").num_output = 3
    layer.convolution_param.append("pad", 1)
    layer.convolution_param.bias_term = False
    layer.mutable("pooling_param").pool = "STOCHASTIC"
    layer.mutable("relu_param").negative_slope = 1e-5
    layer.append("loss_weight", 0.25)
    blob = layer.add("blobs")
    blob.data = np.array([0.5, 1.5], np.float32)
    blob.double_data = np.array([0.1], np.float64)
    text = format_text(layer)
    assert parse_text(text, "LayerParameter") == layer
    assert "double_data: 0.1\n" in text
    assert '\\"\\\\\\n\\011é\\001' in text


def test_bytes_that_are_not_utf8_are_kept(tmp_path: Path) -> None:
    path, again = tmp_path / "net.prototxt", tmp_path / "again.prototxt"
    layers = b'layer { name: "\xb2\xe3\xd2\xbb" } layer { name: "\xb2\xe3\xc8\xfd" }'
    path.write_bytes(layers + b' odd: "\xb2"')
    record = read_text(path, "NetParameter")
    names = [layer.name.encode("utf-8", "surrogateescape") for layer in record.layer]
    assert names == [b"\xb2\xe3\xd2\xbb", b"\xb2\xe3\xc8\xfd"]
    assert net('layer { name: "\\262\\343\\310\\375" }').layer[0] == record.layer[1]
    write(record, again)
    assert read_text(again, "NetParameter") == record
    assert r'name: "\262\343\310\375"' in format_text(record)


def test_fields_are_written_in_their_order() -> None:
    assert format_text(net('layer { } name: "n"')) == 'layer {\n}\nname: "n"\n'


def test_read_and_write_files(tmp_path: Path) -> None:
    path = tmp_path / "net.prototxt"
    assert write(net('name: "é"'), path) == path
    read = read_text(path, "NetParameter")
    assert (read.name, read.origin) == ("é", str(path))
    path.write_bytes(b'# caf\xe9 in latin-1\nname: "n"')
    assert read_text(path, "NetParameter").name == "n"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\x89HDF\r\n\x1a\nxxx", "is a binary file"),
        (b"\x0a\x05LeNet\xa2\x06\x10\x00\x01", "is a binary file"),
        (b"\x0a\x05LeNet\xa2\x06\x04\x0a\x02ab\x01", "is a binary file"),
        (b"\xff\xfel\x00a\x00", "is a binary file"),
        (b"<!DOCTYPE html><html></html>", "is a web page"),
        (b"\xef\xbb\xbf\n<html>", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git-LFS pointer"),
        (b"", "is empty"),
    ],
)
def test_impostors(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "net.prototxt"
    path.write_bytes(content)
    with pytest.raises(SchemaError, match=reason) as caught:
        read_text(path, "NetParameter")
    assert str(path) in str(caught.value)


def _collection() -> list[Path]:
    found = (p for p in (SHARED / "prototxt").rglob("*") if p.is_file() and p.name != "README.md")
    return sorted(found)


@needs_shared
@pytest.mark.slow
def test_the_collection_parses_and_formats_to_a_fixed_point() -> None:
    files = _collection()
    good = 0
    for path in files:
        solver = "base_lr" in path.read_text(errors="replace")
        kind = "SolverParameter" if solver else "NetParameter"
        try:
            read = read_text(path, kind)
        except TextParseError as error:
            assert str(error).startswith(f"{path}:")
            continue
        good += 1
        text = format_text(read)
        again = parse_text(text, kind)
        assert again == read, path
        assert format_text(again) == text, path
    assert len(files) >= 600
    assert good >= READABLE
