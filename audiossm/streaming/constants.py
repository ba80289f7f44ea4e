"""Exchange constants or a metadata text inside an ONNX file's bytes, with no ONNX library at hand.

An ONNX file is a protobuf message: ModelProto.graph is field 7 and its metadata_props 14, each an entry of key (1) and
value (2); GraphProto.initializer is field 5, and of a TensorProto dims is 1, data_type 2, name 8 and raw_data 9.
A field is a tag (number << 3 | kind), then a varint (kind 0), 8 bytes (1), a length and as many bytes (2), or 4
bytes (5).
"""

from collections.abc import Iterator, Mapping

import numpy as np

GRAPH, INITIALIZER, NAME = 7, 5, 8
DIMS, DATA_TYPE, RAW_DATA = 1, 2, 9
METADATA, ENTRY_KEY, ENTRY_VALUE = 14, 1, 2
BYTES = 2  # the kind of a field that has a length
TYPES = {np.dtype(np.float32): 1, np.dtype(np.int64): 7}


def with_constants(model: bytes, constants: Mapping[str, np.ndarray]) -> bytes:
    """Return the model with initializers replaced by arrays of any shape, by name.

    Raises ValueError where the model has no such initializer.
    """
    found = set()

    def initializer(whole: memoryview, tensor: memoryview) -> memoryview | bytes:
        name = text_of(tensor, NAME)
        if name not in constants:
            return whole
        found.add(name)
        return message(INITIALIZER, tensor_proto(name, constants[name]))

    def graph(payload: memoryview) -> bytes:
        parts = (initializer(whole, part) if kind == INITIALIZER else whole for kind, whole, part in fields(payload))
        return message(GRAPH, b"".join(parts))

    result = b"".join(graph(payload) if kind == GRAPH else whole for kind, whole, payload in fields(model))
    missing = sorted(constants.keys() - found)
    if missing:
        raise ValueError(f"its graph lacks the constant {', '.join(missing)}; export the model again")
    return result


def read_constants(model: bytes) -> dict[str, np.ndarray]:
    """Return a model's float32 initializers that are stored as raw bytes, by name."""
    graphs = (payload for kind, _, payload in fields(model) if kind == GRAPH)
    tensors = (part for graph in graphs for kind, _, part in fields(graph) if kind == INITIALIZER)
    return {text_of(tensor, NAME): array for tensor in tensors if (array := array_of(tensor)) is not None}


def array_of(tensor: memoryview) -> np.ndarray | None:
    """Return a TensorProto's numbers, None where they are not raw float32."""
    shape, kind, raw = [], None, None
    for number, whole, payload in fields(tensor):
        if number == DIMS:  # one number each, or all of them packed into one field
            data, at = (payload, 0) if len(payload) else (whole, 1)
            while at < len(data):
                size, at = varint(data, at)
                shape.append(size)
        elif number == DATA_TYPE:
            kind = varint(whole, 1)[0]
        elif number == RAW_DATA:
            raw = payload
    if raw is None or kind != TYPES[np.dtype(np.float32)]:
        return None
    return np.frombuffer(raw, "<f4").reshape(shape)


def constant_names(model: bytes) -> set[str]:
    """Return the names of a model's initializers."""
    graphs = (payload for kind, _, payload in fields(model) if kind == GRAPH)
    return {text_of(part, NAME) for graph in graphs for kind, _, part in fields(graph) if kind == INITIALIZER}


def metadata_text(model: bytes, key: str) -> str | None:
    """Return the metadata text under a key, None where there is none."""
    for field, _, entry in fields(model):
        if field == METADATA and text_of(entry, ENTRY_KEY) == key:
            return text_of(entry, ENTRY_VALUE)
    return None


def with_metadata(model: bytes, key: str, text: str) -> bytes:
    """Return the model with the metadata text under a key replaced, or added; all else keeps its bytes."""
    kept = (whole for field, whole, entry in fields(model) if field != METADATA or text_of(entry, ENTRY_KEY) != key)
    entry = message(ENTRY_KEY, key.encode()) + message(ENTRY_VALUE, text.encode())
    return b"".join(kept) + message(METADATA, entry)


def fields(data: bytes | memoryview) -> Iterator[tuple[int, memoryview, memoryview]]:
    """Yield each field of a message: its number, all its bytes, and its payload (empty for a number)."""
    data, begin = memoryview(data), 0
    while begin < len(data):
        tag, at = varint(data, begin)
        kind, size = tag & 7, 0
        if kind == 0:
            _, end = varint(data, at)
        elif kind == BYTES:
            size, at = varint(data, at)
            end = at + size
        else:
            end = at + {1: 8, 5: 4}[kind]
        yield tag >> 3, data[begin:end], data[end - size : end]
        begin = end


def varint(data: memoryview, at: int) -> tuple[int, int]:
    """Read a number of seven bits a byte, the lowest first; return it and the place behind it."""
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def number(value: int) -> bytes:
    """Write a varint."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def message(field: int, payload: bytes) -> bytes:
    """Write a field that has a length."""
    return number(field << 3 | BYTES) + number(len(payload)) + payload


def text_of(part: memoryview, field: int) -> str:
    """Return the text in a field of a message, '' where it is missing."""
    return next((bytes(payload).decode() for number, _, payload in fields(part) if number == field), "")


def tensor_proto(name: str, array: np.ndarray) -> bytes:
    """Write an array as a TensorProto."""
    dims = b"".join(number(DIMS << 3) + number(size) for size in array.shape)
    kind = number(DATA_TYPE << 3) + number(TYPES[array.dtype])
    little = array.astype(array.dtype.newbyteorder("<"), order="C")
    return dims + kind + message(NAME, name.encode()) + message(RAW_DATA, little.tobytes())
