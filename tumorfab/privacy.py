"""What a released file must not hold: text in a header, a face, the id of a subject.

Here the bytes of a NIfTI header are looked at as they lie in the file, since libraries do not show
all of them.
"""

import gzip
import hashlib
import re
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

# Text fields of a NIfTI-1 header: name, offset, length in bytes.
_FIELDS = (
    ("data_type", 4, 10),
    ("db_name", 14, 18),
    ("descrip", 148, 80),
    ("aux_file", 228, 24),
    ("intent_name", 328, 16),
)
_HEADER = 348
_FLAGS = {"name": 0x08, "comment": 0x10, "extra field": 0x04}  # of gzip, RFC 1952
# No brain is larger (ml); a head with its face is at least half as large again.
MOST_BRAIN_ML = 2600.0
# Parts of a string that could be an id.
_TOKEN = re.compile(r"[A-Za-z0-9]+")


def header_text(path: Path) -> list[str]:
    """Places of a .nii.gz file that hold text or a time: fields of its header, extensions, and the
    name, comment and time that gzip keeps. A clean file has none; a broken one is `unreadable`."""
    raw = path.read_bytes()[:10]
    try:
        with gzip.open(path) as handle:
            head = handle.read(_HEADER + 4)
    except (OSError, EOFError, zlib.error):
        return ["unreadable"]
    if len(raw) < 10 or len(head) < _HEADER + 4:
        return ["unreadable"]
    found = [f"gzip {name}" for name, bit in _FLAGS.items() if raw[3] & bit]
    if struct.unpack("<I", raw[4:8])[0]:
        found.append("gzip time")
    found += [name for name, start, size in _FIELDS if head[start : start + size].strip(b"\0")]
    (offset,) = struct.unpack("<f", head[108:112])
    if head[_HEADER] or offset != _HEADER + 4:
        found.append("extensions")
    return found


def outside(image: NDArray, brain: NDArray) -> int:
    """Voxels of a stripped image (I, J, K) that are not 0 outside the brain mask."""
    return int(((image != 0) & ~brain).sum())


def pseudonyms(subjects: Iterable[str], seed: int) -> dict[str, str]:
    """A name for every subject that says nothing of it: numbered in the order of a hash of seed and
    id, so that equal cohorts get equal names. Who knows the ids can work the order out; nobody
    reads them from it."""
    ordered = sorted(
        set(subjects), key=lambda s: (hashlib.sha256(f"{seed}/{s}".encode()).hexdigest(), s)
    )
    return {subject: f"S{number:05d}" for number, subject in enumerate(ordered, 1)}


def renamed(value: Any, names: Mapping[str, str]) -> Any:
    """JSON with every subject's id replaced, in keys and values: alone, as `sub-ID`, and in the
    name of a ROI (`ID-0`)."""
    if isinstance(value, dict):
        return {renamed(k, names): renamed(v, names) for k, v in value.items()}
    if isinstance(value, list):
        return [renamed(v, names) for v in value]
    if not isinstance(value, str):
        return value
    if value in names:
        return names[value]
    donor, dash, index = value.rpartition("-")
    if donor in names and index.isdigit():
        return f"{names[donor]}{dash}{index}"
    return re.sub(r"sub-([A-Za-z0-9]+)", lambda m: f"sub-{names.get(m[1], m[1])}", value)


def leaks(value: Any, ids: set[str]) -> list[str]:
    """Strings of a JSON value, keys included, in which one of the `ids` stands as a word."""
    return [text for text in _strings(value) if ids & set(_TOKEN.findall(text))]


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, item in value.items():
            if key != "tumorfab":  # a version: its numbers are nobody's id
                yield str(key)
                yield from _strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)
    elif isinstance(value, str):
        yield value
