"""The command line: one file a verb. Verbs import what they need only when they run."""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import sys
from collections.abc import Sequence

from migkit import __version__
from migkit.errors import MigkitError, UsageError

_VERBS = (
    "record",
    "watch",
    "recover",
    "importing",
    "info",
    "explain",
    "plot",
    "replay",
    "compare",
    "report",
    "sweep",
    "tune",
    "flags",
    "migrate",
    "shadow",
    "pack",
    "lab",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one verb; returns 0, 1 (it failed, and one line on stderr says why) or 2 (the call was wrong)."""
    arguments = _parser().parse_args(argv)
    try:
        code = int(arguments.handler(arguments))
        sys.stdout.flush()
        return code
    except UsageError as error:
        return _fail(error, 2)
    except MigkitError as error:
        return _fail(error, 1)
    except BrokenPipeError:
        # The reader of our output has gone (`migkit info | head`); nothing is wrong, and nothing more can be said.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("migkit: stopped", file=sys.stderr)
        return 128 + signal.SIGINT


def _fail(error: MigkitError, code: int) -> int:
    print(f"migkit: {error}", file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="migkit",
        description="Record live migrations, replay KubeVirt's migration rules over them, tune its thresholds.",
    )
    parser.add_argument("--version", action="version", version=f"migkit {__version__}")
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    for verb in _VERBS:
        importlib.import_module(f"migkit.cli.{verb}").add(verbs)
    return parser
