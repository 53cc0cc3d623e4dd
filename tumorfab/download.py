"""One file over HTTP: what arrived is kept, a broken transfer goes on, the checksum decides."""

import hashlib
import ssl
import sys
from collections.abc import Iterator
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from tumorfab.stage import InputError, progress

BLOCK = 1 << 20  # bytes
TIMEOUT_S = 60
_RANGE_NOT_SATISFIABLE = 416
# Not OSError as a whole: a full disk is none of the network's.
_NETWORK = (URLError, HTTPException, ConnectionError, TimeoutError, ssl.SSLError)


def obtain(url: str, path: Path, md5: str) -> None:
    """Make `path` the file at `url`. One that is there already is checked and used.

    Until it is complete it is named `<path>.part`; a later call goes on where this one ended.
    Raises `InputError` when the server cannot be reached, refuses, or sends something with another
    checksum.
    """
    by_hand = f"run again, or put the file at {path} yourself"
    if path.exists():
        found = checksum(path)
        if found != md5:
            raise InputError(
                f"{path}: its MD5 is {found} but must be {md5}; delete it and {by_hand}"
            )
        return
    part = path.with_name(path.name + ".part")
    while not _transfer(url, part, by_hand):
        pass  # every round adds to the file or raises
    found = checksum(part)
    if found != md5:
        part.unlink()
        raise InputError(f"{url}: what came has MD5 {found} instead of {md5}; {by_hand}")
    part.replace(path)


def checksum(path: Path) -> str:
    """The MD5 of a file in hexadecimal."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _transfer(url: str, part: Path, remedy: str) -> bool:
    """Add to `part` what it lacks; whether it is complete.

    Raises `InputError` when the server refuses, or when not one byte was gained.
    """
    have = _size(part)
    try:
        request = Request(url, headers={"Range": f"bytes={have}-"} if have else {})
        with urlopen(request, timeout=TIMEOUT_S) as response:
            _receive(response, part, have)
        return True
    except HTTPError as error:
        if error.code == _RANGE_NOT_SATISFIABLE:  # nothing is left to send
            return True
        raise InputError(f"{url}: the server says {error.code} {error.reason}; {remedy}") from None
    except _NETWORK as error:
        reason = str(getattr(error, "reason", error)) or type(error).__name__
    if _size(part) <= have:
        raise InputError(f"{url}: {reason}, {_size(part) >> 20} MiB are here; {remedy}")
    print(f"{part.name}: {reason}; trying to go on", file=sys.stderr, flush=True)
    return False


def _receive(response: HTTPResponse, part: Path, have: int) -> None:
    """Write the body of a response to the end of `part`. Raises `ConnectionError` when it is cut.

    A server that does not know ranges sends the whole file, with status 200: then start anew.
    """
    start = have if response.status == 206 else 0
    length = int(response.headers.get("Content-Length", 0))
    blocks = _blocks(response, length)
    if length:
        name = part.name.removesuffix(".part")
        after = f" after the first {start >> 20}" if start else ""
        blocks = progress(blocks, f"fetching {name}, MiB{after}", -(-length // BLOCK))
    with part.open("ab" if start else "wb") as handle:
        for block in blocks:
            handle.write(block)


def _blocks(response: HTTPResponse, length: int) -> Iterator[bytes]:
    came = 0
    while block := response.read(BLOCK):
        came += len(block)
        yield block
    if came < length:
        raise ConnectionError("the connection was closed")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
