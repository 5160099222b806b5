"""Stage "report": one HTML file with the tables and plots of a finished evaluation, pictures of meshes on images, and
curves of trainings. The pictures are rendered here and written as files too, so that `adhmr report` can show them."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np

from adhmr.atomic_file import write_atomically
from adhmr.config.evaluation import ReportStage
from adhmr.data.shard_reader import ShardReader
from adhmr.evaluation.evaluation_section import evaluation_parts, evaluation_text
from adhmr.evaluation.example_choice import Examples, choose_examples
from adhmr.evaluation.example_sheets import ExampleDrawer
from adhmr.evaluation.html_page import html_page
from adhmr.evaluation.pictures_section import FIGURES, pictures_of
from adhmr.evaluation.sections import Section
from adhmr.evaluation.stage_folders import find_stages, sections
from adhmr.evaluation.tables import EvaluationResult
from adhmr.evaluation.training_curves import training_curves

QUALITY = 90  # of JPEG


def run_stage(config: ReportStage) -> None:
    result = EvaluationResult(config.evaluation)
    parts = evaluation_parts(result, config.baseline, config.metric)
    told = [Section("evaluate", "Errors", parts, evaluation_text(result))]
    if config.others:
        told_already = {config.evaluation.resolve(), config.output.resolve()}
        others = [stage for stage in find_stages(config.others) if stage.folder.resolve() not in told_already]
        told += sections(others, config.metric)
    curves = [training_curves(run) for run in config.runs]
    reader = ShardReader(config.data)
    chosen = choose_examples(config, result, reader)
    write_pictures(config.output, chosen, ExampleDrawer(config, reader).sheets(chosen))
    text, pictures = pictures_of(config.output)
    told += [Section("pictures", "Pictures", pictures, text)] if pictures else []
    told += [Section("training", "Training", curves)] if curves else []
    page = html_page(config.title, told)
    path = config.page or config.output / "report.html"
    write_atomically(path, page)
    print(f"report: {path} ({len(page) / 1e6:.1f} MB)", flush=True)


def write_pictures(folder: Path, chosen: list[Examples], sheets: dict[str, np.ndarray]) -> None:
    """folder/NAME.jpg for each of the chosen examples, and figures.json that lists them."""
    listed = []
    for examples in chosen:
        name = f"{examples.name}.jpg"
        content = cv2.imencode(".jpg", sheets[examples.name][..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1]
        write_atomically(folder / name, content.tobytes())
        listed.append({"file": name, "title": examples.title})
    write_atomically(folder / FIGURES, json.dumps({"pictures": listed}, indent=1))
