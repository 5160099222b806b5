"""The `adhmr` command. Each command checks its input and hands over to a module; a user's error ends in one line.

A file holds the commands of one purpose. They import what they need when they run, so that help and errors are quick.
"""

from __future__ import annotations

import sys

import click

from adhmr.cli.checkpoints import checkpoint
from adhmr.cli.cleaning import clean
from adhmr.cli.data_sets import data
from adhmr.cli.data_sources import convert, sources
from adhmr.cli.launched import cancel, logs, retry, scale, status
from adhmr.cli.people import body, infer
from adhmr.cli.preferences import prefs
from adhmr.cli.reports import report
from adhmr.cli.stages import pipeline, run, submit
from adhmr.cli.weight_files import import_official_command, weights
from adhmr.errors import AdhmrError

COMMANDS = [
    *(run, submit, pipeline),
    report,
    *(status, logs, cancel, retry, scale),
    *(body, infer),
    *(data, clean, prefs, checkpoint, weights, import_official_command),
]


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """ADHMR: preference alignment of diffusion-based human mesh recovery."""


for command in COMMANDS:
    cli.add_command(command)
for command in (convert, sources):
    data.add_command(command)


def main() -> None:
    """Entry point of the console script: user errors become one line and exit code 2."""
    try:
        cli.main(standalone_mode=False)
    except AdhmrError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
