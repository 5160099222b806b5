"""The group `adhmr prefs`: preference folders that stage generate has made."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.group()
def prefs() -> None:
    """Preference folders: look at pairs."""


@prefs.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--count", default=24, show_default=True, type=click.IntRange(1), help="Images on the contact sheet.")
@click.option("--sheet", type=click.Path(path_type=Path), help="Where to write it (default: pairs.jpg in FOLDER).")
@click.option("--json", "as_json", is_flag=True, help="For machines: the figures alone, and no sheet without --sheet.")
def inspect(folder: Path, count: int, sheet: Path | None, as_json: bool) -> None:
    """Print what the pairs of a preference folder are like, and draw winners and losers over their crops."""
    from adhmr.preference.inspect import inspect_preferences
    from adhmr.preference.inspect_text import describe
    from adhmr.preference.pair_sheet import pair_sheet

    figures = inspect_preferences(folder)
    click.echo(json.dumps(figures, indent=1) if as_json else describe(figures))
    if figures["pairs"] and (sheet is not None or not as_json):
        written = pair_sheet(folder, count, sheet or folder / "pairs.jpg")
        if not as_json:
            click.echo(f"\ncontact sheet: {written}")
