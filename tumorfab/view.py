"""The viewer: any synthetic sample with its label and its host, in a browser, for a verdict on it.

The page is one file that asks no other machine for anything. Opened as a file it reads the results
folder that its reader chooses; served by this command it reads all by itself and saves verdicts.
"""

import argparse
import json
import secrets
import socket
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from werkzeug.exceptions import BadRequest, HTTPException
from werkzeug.routing import Map, Rule, Submount
from werkzeug.security import safe_join
from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server
from werkzeug.utils import send_from_directory
from werkzeug.wrappers import Request, Response

from tumorfab import __version__, review, stage
from tumorfab.page import render
from tumorfab.review import Review
from tumorfab.stage import InputError
from tumorfab.views import LABEL_COLOURS, LABEL_NAMES

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

NIIVUE = Path(__file__).parent / "vendor" / "niivue.js"
ADDRESS = "127.0.0.1"
VOLUMES = "fold-*/sub-*/anat/*.nii.gz"  # of synthetic samples
LONGEST_NOTE = 500  # characters
_LARGEST_POST = 10_000  # bytes


def page() -> str:
    """The viewer as one HTML file."""
    return render(
        "viewer.html.j2",
        version=__version__,
        niivue=NIIVUE.read_text(encoding="utf-8"),
        labels={value: [LABEL_NAMES[value], LABEL_COLOURS[value]] for value in LABEL_NAMES},
        longest=LONGEST_NOTE,
    )


def volumes(results: Path) -> list[str]:
    """Paths of all volumes of synthetic samples below the results folder, sorted."""
    return sorted(path.relative_to(results).as_posix() for path in results.glob(VOLUMES))


def verdict(results: Path, posted: Any) -> tuple[str, Review | None]:
    """The sample and the verdict on it that a posted object holds; None takes a verdict back.

    Raises `BadRequest` for an unknown sample or verdict.
    """
    match posted:
        case {"sample": str(sample), "verdict": str(decision), "note": str(note)}:
            pass
        case _:
            raise BadRequest(f"needs the texts {', '.join(review.COLUMNS)}")
    sidecar = safe_join(str(results), f"{sample}.json")
    if not sample.startswith("fold-") or sidecar is None or not Path(sidecar).is_file():
        raise BadRequest(f"no sample {sample!r}")
    if decision not in (*review.VERDICTS, ""):
        raise BadRequest(f"verdict {decision!r} is none of {', '.join(review.VERDICTS)}")
    line = " ".join(note.split())[:LONGEST_NOTE]
    return sample, Review(decision, line) if decision else None


class Pages:
    """The addresses below `/KEY/`; every other is unknown (404).

    On a shared machine each user reaches the port, and so does any page in the browser of this one:
    whoever does not know the key gets nothing.
    """

    def __init__(self, results: Path, key: str) -> None:
        self.results = results
        self.page = page()
        self.lock = threading.Lock()
        answers: list[tuple[str, str, Callable[..., Response]]] = [
            ("/qc/viewer.html", "GET", self.viewer),
            ("/qc/samples.json", "GET", self.samples),
            ("/qc/review.csv", "POST", self.save),
            ("/<path:name>", "GET", self.file),
        ]
        rules = [Rule(path, methods=[method], endpoint=call) for path, method, call in answers]
        self.addresses = Map([Submount(f"/{key}", rules)], merge_slashes=False)

    def __call__(
        self, environ: "WSGIEnvironment", start_response: "StartResponse"
    ) -> Iterable[bytes]:
        """Answer one request."""
        try:
            call, values = self.addresses.bind_to_environ(environ).match()
            answer: Response = call(Request(environ), **values)
        except HTTPException as error:
            return error(environ, start_response)
        answer.headers["X-Content-Type-Options"] = "nosniff"
        answer.headers["Referrer-Policy"] = "no-referrer"  # the address holds the key
        return answer(environ, start_response)

    def viewer(self, request: Request) -> Response:
        """The page, as this version of the program has it."""
        return Response(self.page, mimetype="text/html")

    def samples(self, request: Request) -> Response:
        """The volumes of all samples, found anew: a study may still be running."""
        return Response(json.dumps(volumes(self.results)), mimetype="application/json")

    def file(self, request: Request, name: str) -> Response:
        """A file of the results folder, or the part of it that is asked for."""
        # A type of our own choice: else .gz is sent as an encoding, which the browser undoes.
        kind = "application/gzip" if name.endswith(".gz") else None
        return send_from_directory(self.results, name, request.environ, mimetype=kind)

    def save(self, request: Request) -> Response:
        """Put one verdict into the table; the others stay as they are on disk."""
        request.max_content_length = _LARGEST_POST
        sample, decision = verdict(self.results, request.get_json())
        table = review.path(self.results)
        with self.lock:
            try:
                reviews = review.read(table)
            except InputError as error:
                raise BadRequest(str(error)) from None
            reviews.pop(sample, None)
            review.write(table, reviews | ({sample: decision} if decision else {}))
        return Response(status=204)


class _Quiet(WSGIRequestHandler):
    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        pass


def server(results: Path, port: int, key: str) -> BaseWSGIServer:
    """A server of the results folder that this machine alone can reach; port 0 takes a free one.

    Raises `InputError` for a folder without results, a broken table of verdicts or a used port.
    """
    if not (results / "qc").is_dir():
        raise InputError(f"{results}: holds no qc/; name the results folder of a study")
    review.read(review.path(results))
    try:
        listening = socket.create_server((ADDRESS, port))
    except (OSError, OverflowError) as error:
        raise InputError(f"--port {port}: {error}; choose another") from None
    with listening:
        return make_server(
            ADDRESS, listening.getsockname()[1], Pages(results.resolve(), key), threaded=True,
            request_handler=_Quiet, fd=listening.fileno(),
        )  # fmt: skip


def main(argv: list[str] | None = None) -> None:
    """Show the samples of a study in a browser on this machine, until Ctrl-C."""
    parser = argparse.ArgumentParser(prog="tumorfab view", description=main.__doc__)
    parser.add_argument("results", type=Path, help="results folder of the study")
    parser.add_argument("--port", type=int, default=0, help="0, the default, takes a free one")
    args = parser.parse_args(argv)
    key = secrets.token_urlsafe(16)
    with server(args.results, args.port, key) as running:
        print(f"http://{ADDRESS}:{running.port}/{key}/qc/viewer.html", flush=True)
        print("Open this address in a browser on this machine; Ctrl-C ends it.", flush=True)
        running.serve_forever()


if __name__ == "__main__":
    stage.run(main)
