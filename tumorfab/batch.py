"""Many runs of one stage in one process, for stages that take less time than their imports.

    python -m tumorfab.batch place @CALLS

`CALLS` holds the arguments of a run on each line, quoted as for a shell.
"""

import argparse
import importlib
import shlex

from tumorfab import stage


def main(argv: list[str] | None = None) -> None:
    """Run a stage once for each line of a file. The first run that fails ends the batch."""
    parser = argparse.ArgumentParser(
        prog="tumorfab batch", description=main.__doc__, fromfile_prefix_chars="@"
    )
    parser.add_argument("stage", help="such as place")
    parser.add_argument("call", nargs="+", help="arguments of one run, quoted; @FILE: one a line")
    args = parser.parse_args(argv)
    module = importlib.import_module(f"tumorfab.{args.stage}")
    for call in stage.progress(args.call, f"batch of {args.stage}"):
        module.main(shlex.split(call))


if __name__ == "__main__":
    stage.run(main)
