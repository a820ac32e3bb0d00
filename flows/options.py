"""Options that commands share."""

from __future__ import annotations

from typing import Annotated

import typer

Profile = Annotated[
    str,
    typer.Option("--profile", "-p", help="A profile of params.yaml: smoke (seconds), tiny (minutes), small, bagel-7b."),
]
Json = Annotated[bool, typer.Option("--json", help="Answer in JSON on standard output; show no progress.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the logs of the libraries, and the trace of an error.")]
