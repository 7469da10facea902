"""Prototxt: protobuf's text format as Caffe users write it, read into records and written back.

Accepted: ``name: value``, ``name { ... }``, ``name: { ... }``, ``name < ... >``, short lists
``[1, 2]``, adjacent strings, ``#`` comments, ``,`` and ``;`` between fields. Fields that the
schema does not know are kept with their literal text. Bytes that are not UTF-8 (names in another
encoding) are kept as Python's ``surrogateescape`` writes them. Errors name file, line and column.
"""

from __future__ import annotations

import bisect
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np

from caffe_bridge.errors import SchemaError, TextParseError
from caffe_bridge.files import (
    HDF5_MAGIC,
    atomic_write,
    looks_like_text,
    refuse_impostor,
    require_file,
)
from caffe_bridge.schema.messages import INTEGERS, FieldType, RecordType, record_type, single
from caffe_bridge.schema.record import Record, Unknown

_TOKEN = re.compile(
    r"""(?P<space>[ \t\r\n\f\v\ufeff]+|\#[^\n]*)
      |(?P<string>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')
      |(?P<word>[A-Za-z_][A-Za-z0-9_.\-/]*|\[[A-Za-z_][\w.]*\.[\w.]*\])
      |(?P<number>[+-]?(?:0[xX][0-9a-fA-F]+|(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?[fF]?|inf(?:inity)?|nan))
      |(?P<minus>-)
      |(?P<punct>[{}<>:,;\[\]])""",
    re.VERBOSE,
)
_ESCAPE = re.compile(
    rb"\\(x[0-9a-fA-F]{1,2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|[0-7]{1,3}|.)", re.DOTALL
)
#: Control characters, and bytes that are no UTF-8 as ``surrogateescape`` writes them.
_ODD = re.compile("[\x00-\x1f\x7f\udc80-\udcff]")
_ESCAPES = {b"n": b"\n", b"t": b"\t", b"r": b"\r", b"a": b"\a", b"b": b"\b", b"f": b"\f",
            b"v": b"\v"}  # fmt: skip
_MAX_DEPTH = 100
#: Enums whose values are an open set: forks add layer types.
_OPEN_ENUMS = ("LayerType",)
_BOOL = {"true": True, "t": True, "1": True, "True": True,
         "false": False, "f": False, "0": False, "False": False}  # fmt: skip
_OPEN = {"{": "}", "<": ">"}


#: Decimal, hexadecimal or (with a leading zero) octal.
_INTEGER = re.compile(r"-?(?:0[xX][0-9a-fA-F]+|0[0-7]*|[1-9]\d*)")


def _whole(text: str) -> int:
    """The value of an integer literal.

    Raises:
        ValueError: it is none.
    """
    return int(text, 8 if re.fullmatch(r"[+-]?0\d+", text) else 0)


class _Token(NamedTuple):
    kind: str
    text: str
    start: int


def _unescape(literal: str) -> bytes:
    """The bytes of a quoted literal; octal and hex escapes are bytes, the text is UTF-8."""

    def one(match: re.Match[bytes]) -> bytes:
        code = match.group(1)
        if code[:1] == b"x":
            return bytes([int(code[1:], 16)])
        if code[:1] in (b"u", b"U") and len(code) > 1:
            return chr(min(int(code[1:], 16), 0x10FFFF)).encode("utf-8", "replace")
        if code[:1].isdigit() and code < b"8":
            return bytes([int(code, 8) & 0xFF])
        return _ESCAPES.get(code, code)

    return _ESCAPE.sub(one, literal[1:-1].encode("utf-8", "surrogateescape"))


class _Parser:
    def __init__(self, text: str, source: str) -> None:
        self.text, self.source = text, source
        self.breaks = [i for i, char in enumerate(text) if char == "\n"]
        self.tokens: list[_Token] = []
        position = 0
        while position < len(text):
            match = _TOKEN.match(text, position)
            if match is None:
                self._fail(position, f"unexpected character {text[position]!r}")
            if match.lastgroup != "space":
                self.tokens.append(_Token(match.lastgroup or "", match.group(), position))
            position = match.end()
        self.tokens.append(_Token("end", "", len(text.rstrip())))
        self.next = 0

    def _fail(self, position: int, reason: str) -> NoReturn:
        line = bisect.bisect_left(self.breaks, position) + 1
        begin = self.text.rfind("\n", 0, position) + 1
        end = self.text.find("\n", position)
        shown = self.text[begin : end if end >= 0 else None].strip()[:100]
        raise TextParseError(
            f"{self.source}:{line}:{position - begin + 1}: {reason}, in the line: {shown!r}"
        )

    def line(self, token: _Token) -> int:
        return bisect.bisect_left(self.breaks, token.start) + 1

    def peek(self) -> _Token:
        return self.tokens[self.next]

    def take(self) -> _Token:
        token = self.tokens[self.next]
        self.next += 1
        return token

    def accept(self, text: str) -> bool:
        token = self.tokens[self.next]
        if token.kind == "punct" and token.text == text:
            self.next += 1
            return True
        return False

    def message(self, kind: RecordType, close: str, opened: _Token | None) -> Record:
        record = Record(kind)
        record.origin = self.source
        record.line = self.line(opened) if opened else 1
        while True:
            token = self.take()
            if token.kind == "punct" and token.text == close:
                return record
            if token.kind == "end":
                if close == "":
                    return record
                place = f"'{close}' that closes the block opened on line {record.line}"
                self._fail(token.start, f"the file ends where {place} was expected")
            if token.kind != "word":
                self._fail(token.start, f"expected a field name, found {token.text!r}")
            self._field(record, token)
            while self.accept(",") or self.accept(";"):
                pass

    def _field(self, record: Record, name: _Token) -> None:
        field = record.record_type.fields.get(name.text)
        colon = self.accept(":")
        token = self.peek()
        if field is None:
            record.unknown.append(self._unknown(name, colon, 0))
        elif field.message is not None:
            if token.text not in _OPEN or token.kind != "punct":
                if self.accept("["):
                    self._message_list(record, field)
                    return
                self._fail(token.start, f"expected '{{' after '{name.text}', found {token.text!r}")
            self.take()
            self._store(record, field, self.message(field.message, _OPEN[token.text], name), name)
        else:
            if not colon:
                self._fail(token.start, f"expected ':' after '{name.text}', found {token.text!r}")
            if token.text == "[" and field.repeated:
                self.take()
                while not self.accept("]"):
                    self._store(record, field, self._scalar(field), name)
                    self.accept(",")
            else:
                self._store(record, field, self._scalar(field), name)

    def _message_list(self, record: Record, field: FieldType) -> None:
        assert field.message is not None
        while not self.accept("]"):
            opening = self.take()
            if opening.text not in _OPEN:
                self._fail(opening.start, f"expected '{{' in the list, found {opening.text!r}")
            item = self.message(field.message, _OPEN[opening.text], opening)
            self._store(record, field, item, opening)
            self.accept(",")

    def _store(self, record: Record, field: FieldType, value: Any, name: _Token) -> None:
        if field.repeated:
            record.append(field.name, value)
        elif record.has(field.name):
            self._fail(name.start, f"field '{field.name}' is given twice; remove one of them")
        else:
            setattr(record, field.name, value)

    def _scalar(self, field: FieldType) -> Any:
        token = self.take()
        text = token.text
        if token.kind == "minus" and self.peek().kind in ("number", "word"):
            token = self.take()
            text = "-" + token.text
        if field.kind in ("string", "bytes"):
            if token.kind == "word" and field.kind == "string":
                return text
            if token.kind != "string":
                self._fail(token.start, f"'{field.name}' wants a quoted string, found {text!r}")
            parts = [_unescape(text)]
            while self.peek().kind == "string":
                parts.append(_unescape(self.take().text))
            joined = b"".join(parts)
            return joined if field.kind == "bytes" else joined.decode("utf-8", "surrogateescape")
        if field.kind == "enum":
            return self._enum(field, token, text)
        if field.kind == "bool":
            if text in _BOOL:
                return _BOOL[text]
            if _INTEGER.fullmatch(text) and (value := _whole(text)) in (0, 1):
                return bool(value)
            self._fail(token.start, f"'{field.name}' wants true or false, found {text!r}")
        try:
            if field.kind in ("float", "double"):
                number = float(text.rstrip("fF") if text[-3:].lower() != "inf" else text)
                return single(number) if field.kind == "float" else number
            whole = _whole(text)
        except ValueError:
            wanted = "a number" if field.kind in ("float", "double") else "an integer"
            self._fail(token.start, f"'{field.name}' wants {wanted}, found {text!r}")
        least, most = INTEGERS[field.kind]
        if not least <= whole <= most:
            self._fail(token.start, f"'{field.name}' takes {least} to {most}, found {whole}")
        return whole

    def _enum(self, field: FieldType, token: _Token, text: str) -> str:
        assert field.enum is not None
        quoted = token.kind == "string"
        name = _unescape(text).decode("utf-8", "surrogateescape") if quoted else text
        if token.kind == "number" and _INTEGER.fullmatch(text):
            name = field.enum.names.get(_whole(text), str(_whole(text)))
        elif token.kind not in ("string", "word"):
            self._fail(token.start, f"'{field.name}' wants a name, found {text!r}")
        if name not in field.enum.numbers and field.enum.name not in _OPEN_ENUMS:
            allowed = ", ".join(field.enum.numbers)
            self._fail(token.start, f"'{field.name}' is one of {allowed}, found {name!r}")
        return name

    def _unknown(self, name: _Token, colon: bool, depth: int) -> Unknown:
        line = self.line(name)
        if depth > _MAX_DEPTH:
            self._fail(name.start, f"blocks are nested more than {_MAX_DEPTH} deep")
        token = self.take()
        if token.kind == "punct" and token.text in _OPEN:
            return Unknown(name.text, self._unknown_body(_OPEN[token.text], depth), line)
        if not colon:
            self._fail(token.start, f"expected ':' or '{{' after '{name.text}'")
        if token.kind == "punct" and token.text == "[":
            return Unknown(name.text, self._unknown_list(token), line)
        literal = token.text
        if token.kind == "minus":
            literal += self.take().text
        elif token.kind not in ("string", "word", "number"):
            self._fail(token.start, f"expected a value for '{name.text}', found {literal!r}")
        while token.kind == "string" and self.peek().kind == "string":
            literal += " " + self.take().text
        return Unknown(name.text, literal, line)

    def _unknown_list(self, opening: _Token) -> str:
        """The literal text of a list, nested ones and blocks included."""
        parts, level = ["["], 1
        while level:
            token = self.take()
            if token.kind == "end":
                self._fail(opening.start, "the list that starts here is never closed")
            if token.kind == "punct":
                level += {"[": 1, "]": -1}.get(token.text, 0)
            parts.append(token.text)
        return " ".join(parts)

    def _unknown_body(self, close: str, depth: int) -> list[Unknown]:
        fields = []
        while not self.accept(close):
            token = self.take()
            if token.kind != "word":
                self._fail(token.start, f"expected a field name or '{close}'")
            fields.append(self._unknown(token, self.accept(":"), depth + 1))
            while self.accept(",") or self.accept(";"):
                pass
        return fields


def parse_text(text: str, message: str, source: str = "<text>") -> Record:
    """Parse prototxt into a record of the given message ("NetParameter").

    Raises:
        TextParseError: broken grammar or a value of the wrong kind; file, line, column.
    """
    return _Parser(text, source).message(record_type(message), "", None)


def read_text(path: str | os.PathLike[str], message: str) -> Record:
    """Read a prototxt file.

    Raises:
        SchemaError: missing or not a text file.
        TextParseError: see :func:`parse_text`.
    """
    found = require_file(path, "prototxt")
    data = found.read_bytes()
    refuse_impostor(found, data[:200], "prototxt")
    if data.startswith(HDF5_MAGIC) or not looks_like_text(data[:4096]):
        raise SchemaError(
            f"{found}: is a binary file, expected prototxt text; did you swap prototxt and weights?"
        )
    return parse_text(data.decode("utf-8", "surrogateescape"), message, str(path))


def _quote(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return '"' + _ODD.sub(lambda match: f"\\{ord(match.group()) & 0xFF:03o}", escaped) + '"'


def format_float(value: float) -> str:
    """Shortest text that reads back as the same float32: ``0.1``, ``1e-05``, ``2``."""
    return _number_text(single(value))


def _number_text(value: float) -> str:
    return repr(value).removesuffix(".0")


def _scalar_text(field: FieldType, value: Any) -> str:
    if field.kind == "string":
        return _quote(value)
    if field.kind == "bytes":
        return '"' + "".join(f"\\{b:03o}" for b in value) + '"'
    if field.kind == "bool":
        return "true" if value else "false"
    if field.kind == "float":
        return format_float(float(value))
    return _number_text(float(value)) if field.kind == "double" else str(value)


def _unknown_lines(fields: Iterable[Unknown], indent: str) -> Iterable[str]:
    for item in fields:
        if isinstance(item.value, str):
            yield f"{indent}{item.name}: {item.value}"
        else:
            yield f"{indent}{item.name} {{"
            yield from _unknown_lines(item.value, indent + "  ")
            yield f"{indent}}}"


def _lines(record: Record, indent: str) -> Iterable[str]:
    for field, value in record.items():
        many = np.asarray(value).reshape(-1) if field.bulk else value
        for item in many if field.repeated else [value]:
            if isinstance(item, Record):
                yield f"{indent}{field.name} {{"
                yield from _lines(item, indent + "  ")
                yield f"{indent}}}"
            else:
                yield f"{indent}{field.name}: {_scalar_text(field, item)}"
    yield from _unknown_lines(record.unknown, indent)


def format_text(record: Record) -> str:
    """The record as prototxt, fields in the order they were given."""
    return "\n".join(_lines(record, "")) + "\n"


def write_text(record: Record, path: str | os.PathLike[str]) -> Path:
    """Write the record as a prototxt file, whole or not at all."""
    with atomic_write(path) as stream:
        stream.write(format_text(record).encode("utf-8", "surrogateescape"))
    return Path(path)
