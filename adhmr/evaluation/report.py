"""Stage "report": one HTML file with tables, loss curves and pictures of meshes on images. Everything is inside the
file, so that it opens without a network. Tables come from tables.py; pictures are rendered here."""

from __future__ import annotations

import base64
import html
import json
from pathlib import Path

import cv2
import numpy as np
import roma
import torch

from adhmr.atomic_file import write_atomically
from adhmr.body.body_model import BodyModel
from adhmr.config.evaluation import ReportStage
from adhmr.data.shard_reader import ShardReader
from adhmr.data.stream import iterate_set
from adhmr.data.transforms import LabelledCrop
from adhmr.errors import AdhmrError
from adhmr.evaluation.round_curves import round_curves
from adhmr.evaluation.tables import (
    METRIC_TITLES,
    EvaluationResult,
    error_table,
    ranking_table,
    round_table,
    scorer_table,
)
from adhmr.models.weights import load_model
from adhmr.preference.hypotheses import fresh_noise, hypothesis_noise, place_bodies, pose_hypotheses, sample_hypotheses
from adhmr.visualization.plots import plt, png
from adhmr.visualization.rasterizer import render_mesh, render_mesh_side

PICTURE_SIZE = 224  # pixels a side of each picture
TRUTH_COLOUR, MODEL_COLOURS = (
    (140.0, 195.0, 140.0),
    ((230.0, 165.0, 110.0), (110.0, 165.0, 240.0), (205.0, 140.0, 215.0)),
)
CURVES_LEFT_OUT = {"step", "elapsed", "lr", "skipped_steps"}
STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:1200px;margin:2em auto;padding:0 1em;color:#222}
table{border-collapse:collapse;margin:1em 0}th,td{padding:.25em .8em;text-align:right;border-bottom:1px solid #ddd}
th:first-child,td:first-child{text-align:left}tr.change td{color:#666;font-size:90%}
figure{display:inline-block;margin:0 .4em .8em 0}figcaption{font-size:12px;color:#555;text-align:center}
img{display:block}.row{white-space:nowrap;overflow-x:auto}"""


def run_stage(config: ReportStage) -> None:
    result = EvaluationResult(config.evaluation)
    sections = [
        f"<h1>{html.escape(config.title)}</h1>",
        f"<p>Protocol <b>{html.escape(result.protocol)}</b>, {result.figures['samples']} images. "
        "Errors in millimetres. <i>min M</i>: best of M hypotheses; <i>zero</i>: the zero-noise hypothesis; "
        "<i>mean</i>: the mean hypothesis; <i>top 5</i>: the mean of the scorer's five best; "
        "<i>random</i>: the average of a random one; <i>scorer's</i>: its pick. "
        "Methods with several training seeds: mean ± standard deviation over seeds. <i>change</i>: against "
        "the baseline, ± paired standard error over images.</p>",
        *(_table(error_table(result, metric, config.baseline)) for metric in METRIC_TITLES),
    ]
    if len(result.rounds) > 1:
        sections += ["<h2>By round</h2>", _image(round_curves(result, config.baseline), "png", "")]
        sections += [_table(round_table(result, config.baseline))]
    if result.figures.get("scorer"):
        sections += ["<h2>Scorer</h2><p>Pooled over the set, one disturbed ground truth an image.</p>"]
        sections += [_table(scorer_table(result))]
    sections += [f"<h2>Rankings of the {html.escape(config.baseline)} model's own hypotheses</h2>"]
    sections += [_table(ranking_table(result, result.groups[config.baseline][0]))]
    sections += ["<h2>Pictures</h2>", *_pictures(config)]
    sections += ["<h2>Training</h2>", *(_curves(run) for run in config.runs)]
    page = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(config.title)}</title>'
    page += f"<style>{STYLE}</style><body>{''.join(sections)}</body></html>"
    path = config.page or config.output / "report.html"
    write_atomically(path, page)
    print(f"report: {path} ({len(page) / 1e6:.1f} MB)", flush=True)


def _table(rows: list[list[str]]) -> str:
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in rows[0])
    body = ""
    for row in rows[1:]:
        kind = ' class="change"' if row[0].startswith("  ") else ""
        body += f"<tr{kind}>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>"
    return f"<table><tr>{head}</tr>{body}</table>"


def _image(data: bytes, kind: str, caption: str, width: int | None = None) -> str:
    size = f' width="{width}"' if width else ""
    source = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    return f'<figure><img src="{source}"{size}><figcaption>{html.escape(caption)}</figcaption></figure>'


def _picture(image: np.ndarray, caption: str) -> str:
    data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 88])[1].tobytes()
    return _image(data, "jpeg", caption)


def _curves(run: Path) -> str:
    """The curves of one training run: every logged figure over the steps."""
    if not (run / "metrics.jsonl").exists():
        raise AdhmrError(f"{run} has no metrics.jsonl: runs: takes the folders of training stages")
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    names = [n for n in lines[-1] if n not in CURVES_LEFT_OUT and not n.startswith("evaluation/")]
    columns = 5
    rows = -(-len(names) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(2.6 * columns, 1.7 * rows), squeeze=False)
    for axis, name in zip(axes.flat, names):
        points = [(line["step"], line[name]) for line in lines if name in line]
        axis.plot(*zip(*points), linewidth=1)
        axis.set_title(name, fontsize=8)
        axis.tick_params(labelsize=6)
    for axis in axes.flat[len(names) :]:
        axis.set_visible(False)
    figure.tight_layout()
    return f"<h3>{html.escape(run.name)}</h3>" + _image(png(figure, dpi=80), "png", "")


@torch.no_grad()
def _pictures(config: ReportStage) -> list[str]:
    """One row an image: the input, the truth, and each model's zero-noise hypothesis, from the camera and the side."""
    body = BodyModel(config.body)
    reader = ShardReader(config.data)
    rows = np.linspace(0, len(reader) - 1, config.pictures).round().astype(int).tolist()
    batch = next(iterate_set(reader, LabelledCrop(config.crop, None), len(rows), rows=rows))
    scale = PICTURE_SIZE / config.crop.size
    intrinsics = batch["intrinsics"].clone()
    intrinsics[:, :2] *= scale  # the pictures are larger than the network's crop
    crops = batch["image"].permute(0, 2, 3, 1).numpy()  # (n, S, S, 3)
    images = [cv2.resize(crop, (PICTURE_SIZE, PICTURE_SIZE), interpolation=cv2.INTER_CUBIC) for crop in crops]
    truth = body(roma.rotvec_to_rotmat(batch["pose"]), batch["betas"], batch["transl"])
    meshes = [("truth", truth.vertices.numpy(), TRUTH_COLOUR)]
    for number, compared in enumerate(config.compared):
        model = load_model(compared.weights, "base")
        features = model.encoder(batch["image"])
        noise, fresh = hypothesis_noise(config.seed, batch["key"], 1), fresh_noise(config.seed, batch["key"], 1)
        hypotheses = sample_hypotheses(model, features, noise, config.crop.size, "fp32", config.sampler, fresh)
        placing = features.betas, batch["intrinsics"], batch["root_depth"]
        rotations = pose_hypotheses(body, hypotheses, *placing, config.ik)[:, 0]
        transl = place_bodies(body, hypotheses, *placing)[:, 0]  # (n, 3) metres, at the label's depth
        vertices = body(rotations, features.betas, transl).vertices
        meshes.append((compared.name, vertices.numpy(), MODEL_COLOURS[number % len(MODEL_COLOURS)]))
    sections = []
    for n, key in enumerate(batch["key"]):
        figures = [_picture(images[n], key)]
        for name, vertices, colour in meshes:
            overlay = render_mesh(images[n], vertices[n], body.faces, intrinsics[n].numpy(), colour)
            side = render_mesh_side(vertices[n], body.faces, PICTURE_SIZE, colour)
            figures += [_picture(overlay, name), _picture(side, f"{name}, side")]
        sections.append(f'<div class="row">{"".join(figures)}</div>')
    return sections
