"""What every stage shares: one-line errors, atomic files, named randomness, progress.

Nothing here knows about images; `volume.py` does that.
"""

import errno
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

T = TypeVar("T")
TEMPORARY = ".tmp-"  # how the name of a file begins that is still being written


class InputError(Exception):
    """Bad input. The message is one line: which file or key, what is wrong, what to do."""


def run(main: Callable[[list[str] | None], None], argv: list[str] | None = None) -> None:
    """Run a stage's `main` and turn what a user can mend into one line and exit status 1.

    Programming errors keep their traceback: those are ours to mend, not the user's.
    """
    try:
        main(argv)
    except InputError as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            sys.exit(f"error: {error.filename or 'disk'}: no space left; free some and run again")
        raise


@contextmanager
def atomic(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success flush it to disk and rename it to `path`.

    A reader never sees a half-written file, whatever kills the writer. The temporary name starts
    with a dot and keeps the extension, since libraries choose the format by it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=TEMPORARY, suffix=path.name, dir=path.parent)
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
        os.chmod(temporary, 0o666 & ~_umask())
        with open(temporary, "rb") as handle:
            os.fsync(handle.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_text(path: Path | str, text: str) -> None:
    """Write `text` atomically as UTF-8."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path | str, value: Any) -> None:
    """Write `value` atomically as indented JSON, keys sorted: equal values are equal bytes."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n")


def read_json(path: Path | str) -> Any:
    """Read a JSON file. Raises `InputError` naming the file when it is missing or malformed."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not valid JSON ({error}); make it again") from None


def rng(seed: int, *what: str | int) -> np.random.Generator:
    """Random generator for the one thing that `what` names, e.g. `rng(7, "place", "sub-01", 3)`.

    The stream depends on the names only, never on the order in which things are drawn, the number
    of cores or the machine.
    """
    return np.random.default_rng([seed, *"/".join(map(str, what)).encode()])


def progress(items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """Iterate with a progress bar on a terminal, and a plain line every tenth in a log."""
    if total is None:
        items = list(items)
        total = len(items)
    if sys.stderr.isatty():
        from rich.progress import track

        yield from track(items, description, total=total)
        return
    shown = -1
    for done, item in enumerate(items):
        tenth = 10 * done // max(total, 1)
        if tenth > shown:
            print(f"{description}: {done}/{total}", file=sys.stderr, flush=True)
            shown = tenth
        yield item
    print(f"{description}: {total}/{total}", file=sys.stderr, flush=True)
