"""Files of a release: checksums, links, archives whose bytes depend on the content alone."""

import hashlib
import os
import shutil
import tarfile
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from tumorfab.stage import atomic, progress

T = TypeVar("T")
U = TypeVar("U")
BYTES_PER_GB = 10**9


def threaded(work: Callable[[T], U], items: Iterable[T], threads: int) -> list[U]:
    """`work` done for all items, in their order. Reading, hashing and inflating let go of Python's
    lock, so threads are enough."""
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(work, items))


def sha256(path: Path) -> str:
    """Checksum of a file."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def below(folder: Path) -> list[str]:
    """All files below a folder, as sorted paths with `/`."""
    found = (p for p in folder.rglob("*") if p.is_symlink() or not p.is_dir())
    return sorted(p.relative_to(folder).as_posix() for p in found)


def link(source: Path, target: Path) -> None:
    """A hard link, or a copy where the file system knows none."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def parts(entries: list[tuple[str, str, int]], limit: int) -> list[list[str]]:
    """Paths cut into archives of about `limit` bytes. `entries` are (path, content, size) in the
    order of the archive; equal content counts once and stays in one archive, so that links never
    reach into another."""
    groups: dict[str, tuple[int, list[str]]] = {}
    for path, content, size in entries:
        groups.setdefault(content, (size, []))[1].append(path)
    cut: list[list[str]] = [[]]
    filled = 0
    for size, paths in groups.values():
        if cut[-1] and filled + size > limit:
            cut.append([])
            filled = 0
        cut[-1] += paths
        filled += size
    return cut


def pack(folder: Path, sums: dict[str, str], stem: Path, limit: int) -> list[Path]:
    """Write `<stem>.tar`, or `<stem>-001.tar` and so on beyond `limit` bytes, of the files that
    `sums` (path to SHA-256) lists below `folder`.

    No time, no owner, one order; files of equal content are stored once, the others as hard links
    to it, whether they are links in the folder or not.
    """
    entries = [(path, sums[path], (folder / path).stat().st_size) for path in sorted(sums)]
    cut = parts(entries, limit)
    written = []
    for number, paths in enumerate(cut, 1):
        target = stem.with_name(f"{stem.name}{f'-{number:03d}' if len(cut) > 1 else ''}.tar")
        with atomic(target) as temporary:
            _write(temporary, folder, stem.name, paths, sums)
        written.append(target)
    return written


def _write(target: Path, folder: Path, top: str, paths: list[str], sums: dict[str, str]) -> None:
    first: dict[str, str] = {}
    with tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as tar:
        for path in progress(paths, "archive"):
            info = tarfile.TarInfo(f"{top}/{path}")
            info.mode = 0o644
            if sums[path] in first:
                info.type, info.linkname = tarfile.LNKTYPE, f"{top}/{first[sums[path]]}"
                tar.addfile(info)
                continue
            first[sums[path]] = path
            info.size = (folder / path).stat().st_size
            with open(folder / path, "rb") as handle:
                tar.addfile(info, handle)
