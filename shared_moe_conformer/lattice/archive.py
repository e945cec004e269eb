"""Arrays from .npz files that anybody may have written: nothing is unpickled, and no more is read than is announced."""

from __future__ import annotations

import ast
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

MAX_EXPANSION = 200
"""Times that a file may grow when it is read; graphs with weights grow about fivefold."""
SMALL = 1 << 24
"""Bytes that any file may grow to."""
MAX_BYTES = 1 << 33
"""Bytes that no file may grow to."""
MAGIC = b"\x93NUMPY"
HEADER_BYTES = {1: 2, 2: 4, 3: 4}
"""Bytes of the header's length, by version. Source: NumPy, NEP 1, and `numpy.lib.format`."""
MAX_HEADER = 4096
"""Bytes of a header at most."""
MAX_REASON = 200
"""Characters of what zipfile says, which quotes the file."""


class Kind(NamedTuple):
    """What an array must be."""

    dtype: str
    """As NumPy writes it, `<i4`; `<U`: text of any length."""
    dimensions: int


def read_arrays(path: Path, kinds: Mapping[str, Kind]) -> dict[str, np.ndarray]:
    """The arrays of an .npz file.

    Args:
      path: the file.
      kinds: names of the arrays that are wanted, and what each must be; others may be there and are not read.

    Raises:
      ValueError: not such a file; why, without its name.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = {name: archive.getinfo(f"{name}.npy") for name in kinds}
            _require_modest(sum(member.file_size for member in members.values()), path.stat().st_size)
            return {name: _read_array(archive, members[name], kind) for name, kind in kinds.items()}
    except KeyError as error:
        raise ValueError(str(error.args[0])) from error
    except (OSError, EOFError, RuntimeError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(str(error)[:MAX_REASON] or type(error).__name__) from error


def _require_modest(num_bytes: int, stored: int) -> None:
    if num_bytes > min(MAX_BYTES, max(SMALL, MAX_EXPANSION * stored)):
        raise ValueError(f"its {stored} bytes would grow to {num_bytes}")


def _read_array(archive: zipfile.ZipFile, member: zipfile.ZipInfo, kind: Kind) -> np.ndarray:
    """One array; memory is taken for what the file really holds, never for what it says it does."""
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{member.filename} is compressed in another way than NumPy's")
    with archive.open(member) as file:
        content = file.read(member.file_size)  # without a limit, a size that lies would be believed too late
    dtype, shape, first = _read_header(content, member.filename)
    fits = dtype.str == kind.dtype or (kind.dtype == "<U" and dtype.kind == "U")
    if not fits or len(shape) != kind.dimensions:
        raise ValueError(f"{member.filename} holds {dtype} of {len(shape)} dimensions")
    size = dtype.itemsize
    for length in shape:
        size *= length
    if size != len(content) - first:
        raise ValueError(f"{member.filename} holds {len(content) - first} bytes for the shape {shape}")
    return np.frombuffer(content, dtype=dtype, offset=first).reshape(shape).copy()


def _read_header(content: bytes, name: str) -> tuple[np.dtype[Any], tuple[int, ...], int]:
    """What an array is: its type, its shape, and where in the file its values begin."""
    width = HEADER_BYTES.get(content[6] if len(content) > 8 else 0)
    if not content.startswith(MAGIC) or width is None:
        raise ValueError(f"{name} is no array")
    length = int.from_bytes(content[8 : 8 + width], "little")
    if length > MAX_HEADER:
        raise ValueError(f"{name} has a header of {length} bytes")
    try:
        header = ast.literal_eval(content[8 + width : 8 + width + length].decode("latin1").strip())
        dtype, shape, by_columns = np.dtype(str(header["descr"])), header["shape"], header["fortran_order"]
        plain = not dtype.hasobject and all(type(n) is int and n >= 0 for n in shape) and by_columns is False
    except (KeyError, TypeError, ValueError, SyntaxError, MemoryError, RecursionError) as error:
        raise ValueError(f"{name} has a damaged header") from error
    if not plain:
        raise ValueError(f"{name} holds {header}")
    return dtype, tuple(shape), 8 + width + length
