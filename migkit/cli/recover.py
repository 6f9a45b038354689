"""`migkit recover`: a trace from the journal of a recorder that was killed."""

from __future__ import annotations

import argparse

from migkit.cli.record import described
from migkit.errors import MigkitError


def add(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the verb to the parser."""
    parser = verbs.add_parser(
        "recover", help="make a trace of what a killed recorder left", description=__doc__,
        epilog="The journal is removed once the trace is written, or renamed to NAME.damaged if parts of it could not "
        "be read.",
    )  # fmt: skip
    parser.add_argument("journal", metavar="JOURNAL", help="the OUT.journal beside the output of `migkit record`")
    parser.add_argument("-o", "--output", metavar="FILE", help="the trace (default: the name without .journal)")
    parser.add_argument("--force", action="store_true", help="overwrite what exists")
    parser.add_argument("--json", action="store_true", help="print the result as a JSON object")
    parser.set_defaults(handler=run)


def run(arguments: argparse.Namespace) -> int:
    """Writes the trace and says what it holds."""
    from migkit.capture.journal import recover

    try:
        recording = recover(arguments.journal, arguments.output, force=arguments.force)
    except KeyboardInterrupt:
        raise MigkitError("interrupted: the journal stays until its trace is written; run it again") from None
    print(described(recording, as_json=arguments.json))
    return 0
