"""The `adhmr` command. Each command checks its input and hands over to a module; a user's error ends in one line."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import click

from adhmr.config.entry_points import STAGES
from adhmr.errors import AdhmrError


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """ADHMR: preference alignment of diffusion-based human mesh recovery."""


@cli.command()
@click.argument("stage_file", type=click.Path(path_type=Path))
@click.argument("overrides", nargs=-1)
@click.option("--check", is_flag=True, help="Check the configuration and stop.")
def run(stage_file: Path, overrides: tuple[str, ...], check: bool) -> None:
    """Run one stage: adhmr run STAGE.yaml [a.b=c ...]."""
    from pydantic import TypeAdapter

    from adhmr.atomic_file import write_atomically
    from adhmr.config.loading import load_config, save_resolved
    from adhmr.config.stages import Stage

    config = load_config(stage_file, list(overrides), TypeAdapter(Stage))
    if check:
        click.echo(f"{stage_file}: a valid {config.stage} stage, output {config.output}")
        return
    try:
        config.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise AdhmrError(f"output {config.output}: cannot be made a folder ({error.strerror})") from None
    resolved = config.output / "config.yaml"
    former = resolved.read_bytes() if resolved.exists() else None
    try:
        save_resolved(config, resolved)
    except OSError as error:
        raise AdhmrError(f"{resolved}: cannot be written ({error.strerror}); make room, then start again") from None
    if config.threads:
        import torch

        torch.set_num_threads(config.threads)
    module, function = STAGES[config.stage].split(":")
    try:
        getattr(importlib.import_module(module), function)(config)
    except AdhmrError:
        if former is not None and resolved.read_bytes() != former:
            write_atomically(resolved, former)  # a run folder that refused this configuration keeps its own
        raise


@cli.command()
@click.argument("stage_file", type=click.Path(path_type=Path))
@click.argument("overrides", nargs=-1)
@click.option("--cluster", default="local", show_default=True, help="A profile in configs/clusters, or a .yaml file.")
@click.option("--dry-run", is_flag=True, help="Say what would be submitted; submit nothing.")
def submit(stage_file: Path, overrides: tuple[str, ...], cluster: str, dry_run: bool) -> None:
    """Run one stage on a cluster: adhmr submit STAGE.yaml --cluster NAME [a.b=c ...]."""
    from launchers.cluster import load_cluster
    from launchers.estimate import describe
    from launchers.submission import submit as submit_stage

    profile = load_cluster(cluster)
    if dry_run:
        for line in describe(stage_file, profile, overrides):
            click.echo(line)
    submitted = submit_stage(stage_file, profile, overrides, dry_run=dry_run)
    if dry_run:
        click.echo(submitted.script, nl=False)
    elif submitted.code is None:
        click.echo(f"{submitted.run_dir}: submitted as job {submitted.job_id}")
    sys.exit(submitted.code or 0)


@cli.command()
@click.argument("pipeline_file", type=click.Path(path_type=Path))
@click.argument("overrides", nargs=-1)
@click.option("--cluster", metavar="NAME", help="Submit the stages there, a profile of configs/clusters or a file.")
@click.option("--dry-run", is_flag=True, help="Say what would be run or submitted, and stop.")
@click.option("--wait", is_flag=True, help="With --cluster: show the table of adhmr status until all jobs are over.")
@click.option(
    "--accept-code",
    multiple=True,
    metavar="STAGE|all",
    help="Results of STAGE count although another version of the code made them; repeatable.",
)
def pipeline(
    pipeline_file: Path,
    overrides: tuple[str, ...],
    cluster: str | None,
    dry_run: bool,
    wait: bool,
    accept_code: tuple[str, ...],
) -> None:
    """Run a chain of stages: adhmr pipeline PIPE.yaml [stage.a.b=c ...]. A rerun continues."""
    from launchers.pipeline import run_pipeline

    run_pipeline(pipeline_file, list(overrides), cluster=cluster, dry_run=dry_run, wait=wait, accept_code=accept_code)


@cli.command()
@click.argument("runs", nargs=-1, metavar="[RUN...]", type=click.Path(path_type=Path))
@click.option("--watch", is_flag=True, help="Draw it again every few seconds.")
@click.option("--every", default=5.0, show_default=True, type=click.FloatRange(1), help="Seconds of --watch.")
@click.option("--json", "as_json", is_flag=True, help="For machines: a list of objects.")
def status(runs: tuple[Path, ...], watch: bool, every: float, as_json: bool) -> None:
    """State, step, loss, rate, ETA, nodes and restarts of runs and pipelines (default: all below this folder)."""
    from launchers.status_table import show_status

    show_status(runs or (Path("."),), every if watch else None, as_json)


@cli.command()
@click.argument("run_folder", metavar="RUN", type=click.Path(path_type=Path))
@click.option("--rank", default=0, show_default=True, type=click.IntRange(0), help="Which process of the run.")
@click.option("--worker", type=click.IntRange(0), help="Which worker of an array (default: 0).")
@click.option("--batch", is_flag=True, help="The batch script's own log instead.")
@click.option("--attempt", type=click.IntRange(0), help="Which attempt; 0: all (default: the latest).")
@click.option("--follow", is_flag=True, help="Go on with what is written, until Ctrl-C.")
def logs(run_folder: Path, rank: int, worker: int | None, batch: bool, attempt: int | None, follow: bool) -> None:
    """What a submitted run has printed."""
    from launchers.logs import lines_of, log_file

    for text in lines_of(log_file(run_folder, rank, worker, batch), attempt, follow):
        click.echo(text, nl=False)


@cli.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN...", type=click.Path(path_type=Path))
@click.option("--grace", default=180.0, show_default=True, type=click.FloatRange(0), help="Seconds to save and end in.")
def cancel(runs: tuple[Path, ...], grace: float) -> None:
    """Ask runs, or all of a pipeline's folder, to save and end; those that do not within --grace are ended."""
    from launchers.cancel import cancel
    from launchers.run_status import find_runs

    cancel([run for folder in runs for run in find_runs(folder)], grace, click.echo)


@cli.command()
@click.argument("run_folder", metavar="RUN", type=click.Path(path_type=Path))
def retry(run_folder: Path) -> None:
    """Let a submitted run that failed or was cancelled go on, with the same code and configuration."""
    from launchers.retry import retry

    click.echo(retry(run_folder))


@cli.command()
@click.argument("stage_file", type=click.Path(path_type=Path))
@click.argument("overrides", nargs=-1)
@click.option("--nodes", required=True, metavar="N,N,...", help="Numbers of nodes, as 1,2,4,8.")
@click.option("--cluster", default="local", show_default=True, metavar="NAME", help="A profile, or a .yaml file.")
@click.option("--weak/--strong", default=True, help="The batch grows with the nodes (weak, default), or stays.")
@click.option("--steps", default=40, show_default=True, type=click.IntRange(1), help="Measured steps of each size.")
@click.option("--warmup", default=10, show_default=True, type=click.IntRange(0), help="Steps before them.")
@click.option("--output", type=click.Path(path_type=Path), help="Default: the stage's output, with -scale-weak.")
@click.option("--dry-run", is_flag=True, help="Print the sizes and batches, and stop.")
def scale(
    stage_file: Path,
    overrides: tuple[str, ...],
    nodes: str,
    cluster: str,
    weak: bool,
    steps: int,
    warmup: int,
    output: Path | None,
    dry_run: bool,
) -> None:
    """Scale-up experiment: throughput and efficiency of a training stage at several numbers of nodes."""
    from launchers.scale import scale

    numbers = [int(text) if text.strip().isdecimal() else 0 for text in nodes.split(",")]
    if min(numbers) < 1:
        raise click.BadParameter(f"'{nodes}': expected numbers of nodes, as 1,2,4,8", param_hint="--nodes")
    scaling = "weak" if weak else "strong"
    scale(stage_file, overrides, numbers, cluster, scaling, steps, warmup, output, dry_run, click.echo)


@cli.command()
@click.argument("body_file", type=click.Path(path_type=Path))
def body(body_file: Path) -> None:
    """Check a body file in SMPL's or SMPL-X's format (.npz or .pkl) and say what it holds."""
    from adhmr.body.describe import describe

    click.echo(describe(body_file))


@cli.command()
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--checkpoint", required=True, type=click.Path(path_type=Path), help="Weights of a base model.")
@click.option("--scorer", type=click.Path(path_type=Path), help="Weights of a scorer: the best-scored come first.")
@click.option("--boxes", "boxes_file", type=click.Path(path_type=Path), help="Boxes of the people, .json or .csv.")
@click.option("--box", "boxes", multiple=True, metavar="X0,Y0,X1,Y1", help="A person of the one image; repeatable.")
@click.option(
    "--padding", type=click.FloatRange(1, 4), help="Of the crops (default: what the checkpoint says it learnt with)."
)
@click.option("--focal", type=click.FloatRange(1), help="Focal length in pixels (default: the image's diagonal).")
@click.option("--hypotheses", default=10, show_default=True, type=click.IntRange(1), help="Hypotheses a person.")
@click.option("--seed", default=0, show_default=True, help="Of the noise, together with the image's name.")
@click.option(
    "--output", default="inference", show_default=True, type=click.Path(path_type=Path), help="Output folder."
)
@click.option(
    "--meshes", default="obj", show_default=True, type=click.Choice(["obj", "glb", "none"]), help="Mesh files."
)
@click.option("--save-hypotheses", default=1, show_default=True, type=click.IntRange(1), help="Meshes a person.")
@click.option("--body", type=click.Path(path_type=Path), help="Body file in SMPL's format (default: the open body).")
@click.option("--precision", default="fp32", show_default=True, type=click.Choice(["fp32", "bf16"]))
@click.option("--batch", default=8, show_default=True, type=click.IntRange(1), help="People at once.")
@click.option("--overwrite", is_flag=True, help="Replace outputs that were made with other settings.")
def infer(
    images: tuple[Path, ...],
    boxes_file: Path | None,
    boxes: tuple[str, ...],
    padding: float | None,
    focal: float | None,
    **settings: Any,
) -> None:
    """Bodies of the people in IMAGES (files or folders): pictures, meshes and parameters."""
    from adhmr.inference.infer import InferenceSettings, infer

    infer(images, InferenceSettings(**settings), boxes_file=boxes_file, boxes=boxes, padding=padding, focal=focal)


@cli.group()
def data() -> None:
    """Data sets: make, look at."""


@data.command()
@click.argument("output", type=click.Path(path_type=Path))
@click.option("--set", "name", required=True, help="synth-studio, synth-game, synth-wild or synth-bench")
@click.option("--split", default="train", show_default=True, help="train; val or test for synth-bench")
@click.option("--count", default=1000, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--processes", default=2, show_default=True)
@click.option("--image-size", default=192, show_default=True)
def synth(output: Path, name: str, split: str, count: int, seed: int, processes: int, image_size: int) -> None:
    """Render one embedded data set into OUTPUT. Same seed, same bytes; a rerun continues."""
    from adhmr.data.synthetic.build import synthesise

    synthesise(name, output, count, seed=seed, split=split, processes=processes, image_size=image_size)


@data.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--source", required=True, help="what the samples were made from")
@click.option("--split", required=True, help="train, val, test or the source's own name")
@click.option("--licence", required=True, help="one line on how the data may be used")
@click.option("--processes", default=2, show_default=True, type=click.IntRange(1))
def index(folder: Path, source: str, split: str, licence: str, processes: int) -> None:
    """Make the index of a folder of shards anew, from the shards themselves."""
    from adhmr.data.index_build import rebuild_index

    click.echo(rebuild_index(folder, source=source, split=split, licence=licence, processes=processes))


@data.command()
@click.argument("folder")
@click.option("--quick", is_flag=True, help="hash no shard, read one sample of each")
@click.option("--processes", default=2, show_default=True, type=click.IntRange(1))
@click.option("--list", "listed", type=click.Path(path_type=Path), help="write the keys of bad samples there")
def verify(folder: str, quick: bool, processes: int, listed: Path | None) -> None:
    """Check files, checksums, images and labels of a data set (a folder or URL); exit code 1 when something is wrong.

    The file of --list can be a filter's `exclude`.
    """
    from adhmr.data.verify import report, verify

    problems = verify(folder, quick, processes)
    click.echo(report(folder, problems, listed))
    if problems:
        sys.exit(1)


@data.command("filter")
@click.argument("folder")
@click.option("--min-box", type=float, help="longer side of the box of the known body joints, pixels")
@click.option("--min-joints", type=int, help="body joints that are known and inside the image, 1 to 24")
@click.option("--min-score", type=float, help="score of the cleaning, 0 to 1; with --scores")
@click.option("--scores", help="scores.npz of a clean stage over this data set")
@click.option("--exclude", help="a text file of keys, one a line, that are left out")
@click.option("--processes", default=2, show_default=True, type=click.IntRange(1))
def filter_command(folder: str, processes: int, **predicates: Any) -> None:
    """Build the table of a filter, for data sets that are opened with the same `filter` in a configuration."""
    from adhmr.config.data import FilterConfig
    from adhmr.config.loading import check_values
    from adhmr.data.filters import build_filter

    given = {name: value for name, value in predicates.items() if value is not None}
    index = build_filter(folder, check_values(given, FilterConfig, "adhmr data filter"), processes)
    click.echo(f"{folder}: {index.num_samples} samples are left, {index.filter_table.file.name}")


@data.command()
@click.argument("folder")
@click.option("--count", default=32, show_default=True, help="samples on the contact sheet")
@click.option(
    "--sheet",
    type=click.Path(path_type=Path),
    help="where to write it (default: contact_sheet.jpg in FOLDER, for a URL in the current folder)",
)
def inspect(folder: str, count: int, sheet: Path | None) -> None:
    """Print what a shard folder holds and draw a contact sheet with the labels over the images."""
    from adhmr.data.contact_sheet import contact_sheet, describe

    click.echo(describe(folder))
    sheet = sheet or Path("" if "://" in folder else folder) / "contact_sheet.jpg"
    contact_sheet(folder, count, sheet)
    click.echo(f"contact sheet: {sheet}")


@data.command()
@click.argument("run_folder", metavar="RUN", type=click.Path(path_type=Path))
@click.option("--step", required=True, type=click.IntRange(0), help="which step; the first is 0")
@click.option("--limit", type=click.IntRange(1), help="samples on the sheet (default: the whole global batch)")
@click.option("--output", type=click.Path(path_type=Path), help="folder to write to (default: RUN/replay)")
def replay(run_folder: Path, step: int, limit: int | None, output: Path | None) -> None:
    """Write the global batch of a step of a training run again: its samples as a list, its crops with labels drawn."""
    from adhmr.training.replay import replay

    for line in replay(run_folder, step, output, limit):
        click.echo(line)


@cli.command("import-official")
@click.argument("source", metavar="FILE", type=click.Path(path_type=Path))
@click.option(
    "--kind",
    required=True,
    help="models: hyponet, scorenet, hmr-scorer; initial values of an encoder: pose-hrnet, vitpose, smpler-x, timm",
)
@click.option("--weights", type=click.Choice(["raw", "ema"]), help="default: the average (ema) where the file has one")
@click.option("--backbone", help="timm's name of the network in FILE; for --kind timm")
@click.option("--output", type=click.Path(path_type=Path), help="default: beside FILE, ending in .safetensors")
def import_official_command(
    source: Path, kind: str, weights: str | None, backbone: str | None, output: Path | None
) -> None:
    """Read an official checkpoint into a weight file, and say what was taken, left out or missing."""
    from adhmr.models.official import import_official

    for line in import_official(source, kind, weights, output, backbone).lines():
        click.echo(line)


@cli.group()
def checkpoint() -> None:
    """Checkpoints of a training run."""


@checkpoint.command()
@click.argument("run_folder", metavar="RUN", type=click.Path(path_type=Path))
def show(run_folder: Path) -> None:
    """A table of the checkpoints: step, size, when, why each is kept, whether it is whole by its sizes, evaluation."""
    from adhmr.training.checkpoint_report import show

    click.echo(show(run_folder))


@checkpoint.command("verify")
@click.argument("run_folder", metavar="RUN", type=click.Path(path_type=Path))
def verify_checkpoints(run_folder: Path) -> None:
    """Check every file of every checkpoint against its hash; exit code 1 when one is damaged."""
    from adhmr.training.checkpoint_report import verified

    damaged = False
    for folder, problem in verified(run_folder):
        click.echo(f"{folder}: {'whole' if problem is None else f'damaged: {problem}'}")
        damaged |= problem is not None
    if damaged:
        sys.exit(1)


@checkpoint.command()
@click.argument("run_folder", metavar="RUN", type=click.Path(path_type=Path))
@click.argument("output", type=click.Path(path_type=Path))
@click.option("--step", default="last", show_default=True, metavar="N|last|best", help="which checkpoint")
@click.option("--weights", type=click.Choice(["ema", "raw"]), help="default: the average (ema) where there is one")
def export(run_folder: Path, output: Path, step: str, weights: str | None) -> None:
    """Write the weights of a checkpoint as a file (OUTPUT, .safetensors) that every stage accepts."""
    from adhmr.training.checkpoint_export import export_checkpoint

    if step not in ("last", "best") and not step.isdecimal():
        raise click.BadParameter(f"'{step}' is neither a number nor last nor best", param_hint="--step")
    click.echo(export_checkpoint(run_folder, output, step, weights))


@cli.group()
def weights() -> None:
    """Weight files."""


@weights.command("export-encoder")
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("target", type=click.Path(path_type=Path))
def export_encoder(source: Path, target: Path) -> None:
    """Write the image encoder of a base model's weights (SOURCE) as a half-precision file (TARGET)."""
    from adhmr.models.weights import load_model, save_encoder

    save_encoder(target, load_model(source, "base").encoder)
    click.echo(f"{target}: {target.stat().st_size / 1e6:.1f} MB")


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


if __name__ == "__main__":
    main()
