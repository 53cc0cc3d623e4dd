"""Many runs of one stage in one process, for stages that take little longer than their imports.

    python -m tumorfab.batch place --each FILE --draws 10 ...

A line of `FILE` holds the arguments of one run, quoted as for a shell; all others are the same for
every run.
"""

import argparse
import importlib
import shlex
from pathlib import Path

from tumorfab import stage


def main(argv: list[str] | None = None) -> None:
    """Run a stage once for each line of a file. The first run that fails ends the batch."""
    parser = argparse.ArgumentParser(
        prog="tumorfab batch", description=main.__doc__, allow_abbrev=False
    )
    parser.add_argument("stage", help="such as place")
    parser.add_argument("--each", type=Path, required=True, help="arguments of a run on each line")
    args, common = parser.parse_known_args(argv)
    module = importlib.import_module(f"tumorfab.{args.stage}")
    lines = args.each.read_text(encoding="utf-8").splitlines()
    for line in stage.progress(lines, f"batch of {args.stage}"):
        module.main([*shlex.split(line), *common])


if __name__ == "__main__":
    stage.run(main)
