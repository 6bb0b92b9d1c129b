"""`bitreel`: the command line. Each command lives in `infra/commands/`; this file only puts them together."""

from __future__ import annotations

import importlib
import os
import signal
import sys

import typer
from typer.exceptions import TyperException

from codec.errors import BitreelError

# Allocating big frames anew each time makes glibc return and fetch pages without end; keep them instead.
os.environ.setdefault("MALLOC_MMAP_THRESHOLD_", "268435456")
os.environ.setdefault("MALLOC_TRIM_THRESHOLD_", "268435456")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

app = typer.Typer(
    name="bitreel",
    help="From a folder of videos to a neural video codec in a model registry.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

# Every module has `register(app)`.
COMMANDS = (
    "ingest",
    "store",
    "train",
    "sweep",
    "fit",
    "encode",
    "decode",
    "inspect",
    "evaluate",
    "models",
    "export",
    "promote",
    "autopilot",
    "submit",
    "report",
    "demo",
    "doctor",
)
for _name in COMMANDS:
    importlib.import_module(f"infra.commands.{_name}").register(app)


def main(argv: list[str] | None = None) -> None:
    """Run a command and exit with 0, 1 (work failed) or 2 (wrong usage). `--debug` anywhere shows tracebacks."""
    # A scheduler's SIGTERM ends the command as an error would, so that unfinished files are removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    arguments = [a for a in arguments if a != "--debug"]
    sys.exit(run(arguments, debug))


def run(arguments: list[str], debug: bool = False) -> int:
    """Run a command and give its exit status."""
    try:
        result = app(args=arguments, standalone_mode=False, prog_name="bitreel")
        return int(result) if isinstance(result, int) else 0
    except typer.Exit as done:
        return done.exit_code
    except TyperException as error:
        if error.format_message():  # empty where the help was asked for by giving no arguments
            _say(f"{error.format_message()} (--help shows how)")
        return 2
    except (KeyboardInterrupt, typer.Abort):
        _say("stopped")
        return 130
    except BitreelError as error:
        if debug:
            raise
        _say(str(error))
        return error.exit_status
    except OSError as error:
        if debug:
            raise
        where = f" '{error.filename}'" if error.filename else ""
        _say(f"{error.strerror or error}{where}")
        return 1
    except Exception as error:
        if debug:
            raise
        from infra.tracking import tracking_uri, without_logins

        first = without_logins(str(error), tracking_uri()).splitlines()[0] if str(error) else ""
        _say(f"unexpected {type(error).__name__}: {first} (--debug shows more)")
        return 1


def _say(message: str) -> None:
    print(f"bitreel: {message}", file=sys.stderr)


if __name__ == "__main__":
    main()
