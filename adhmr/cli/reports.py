"""The command `adhmr report`: tables and plots of finished stages, made from the figures that these left."""

from __future__ import annotations

from pathlib import Path

import click

METRICS = ("pve", "mpjpe", "pa_pve", "pa_mpjpe")


@click.command()
@click.argument("folders", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FOLDER...")
@click.option("--to", type=click.Path(path_type=Path, file_okay=False), help="Write README.md, tables and plots there.")
@click.option("--title", help="Of the report.  [default: the names of the folders]")
@click.option("--metric", type=click.Choice(METRICS), default="pve", show_default=True, help="Of one-metric tables.")
def report(folders: tuple[Path, ...], to: Path | None, title: str | None, metric: str) -> None:
    """Tables and plots of finished stages: of a pipeline's output folder, or of a stage's own."""
    from adhmr.evaluation.stage_folders import find_stages, sections

    stages = find_stages(folders)
    told = sections(stages, metric)
    if to is None:
        from adhmr.evaluation.terminal import print_parts

        for section in told:
            click.secho(f"\n{section.title}", bold=True)
            for paragraph in section.text:
                click.echo(paragraph)
            print_parts(section.parts)
        return
    from adhmr.evaluation.report_folder import write_report

    written = write_report(to, title or ", ".join(folder.resolve().name for folder in folders), told, stages)
    parts = sum(len(section.parts) for section in told)
    click.echo(f"{written}: {len(told)} sections, {parts} tables and plots")
