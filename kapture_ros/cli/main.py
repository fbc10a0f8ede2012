"""`kapture_ros COMMAND …`: finds the command, runs it, shows an error as one line."""

from __future__ import annotations

import argparse
import importlib
import logging
import pkgutil
import sys
from collections.abc import Sequence

import kapture_ros
import kapture_ros.cli
from kapture_ros.errors import KaptureRosError
from kapture_ros.nodes.ending import end_by_signals

LIVE = ("node", "play", "record", "view")  # run until a signal, as a shell's background job too
EXIT_ERROR = 1
EXIT_USAGE = 2  # argparse's own
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells report it

DESCRIPTION = "Record cameras, GPS and Wi-Fi to kapture, build visual maps, localize in them."
EPILOG = "`kapture_ros COMMAND --help` shows a command's options with examples."


def command_names() -> list[str]:
    """The commands there are: the modules beside this one."""
    names = (info.name for info in pkgutil.iter_modules(kapture_ros.cli.__path__))
    return [name for name in names if name != "main"]


def build_parser(names: Sequence[str]) -> argparse.ArgumentParser:
    """The command line with the options of these commands."""
    parser = argparse.ArgumentParser("kapture_ros", description=DESCRIPTION, epilog=EPILOG)
    parser.add_argument("--version", action="version", version=kapture_ros.__version__)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--log-level",
        choices=("debug", "info", "warning", "error"),
        default="info",
        help="what to print; debug also shows the traceback of an error (default: info)",
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name in names:
        module = importlib.import_module(f"kapture_ros.cli.{name}")
        command = commands.add_parser(
            name,
            help=module.HELP,
            description=module.HELP,
            epilog="examples:\n" + module.EXAMPLES,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            parents=[common],
        )
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    try:
        if argv is None and arguments[:1] and arguments[0] in LIVE:
            end_by_signals()
        return _run(arguments)
    except KaptureRosError as error:
        logging.debug("traceback", exc_info=True)
        print(f"kapture_ros: {error}", file=sys.stderr)
        return EXIT_ERROR
    except KeyboardInterrupt:
        print("kapture_ros: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # `kapture_ros … | head`
        sys.stderr.close()
        return EXIT_ERROR


def _run(arguments: Sequence[str]) -> int:
    names = command_names()
    # A command given first needs no other one's options, and so no other one's imports.
    args = build_parser([n for n in names if n in arguments[:1]] or names).parse_args(arguments)
    logging.basicConfig(
        level=args.log_level.upper(), format="%(levelname)s: %(message)s", stream=sys.stderr
    )
    logging.getLogger("faiss.loader").setLevel(logging.WARNING)  # tells which CPU it found
    return args.run(args) or 0


if __name__ == "__main__":
    sys.exit(main())
