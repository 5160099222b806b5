"""A finished evaluate stage of made-up errors, whose changes are known, for the tests of tables and reports."""

import json
from pathlib import Path

import numpy as np
import yaml

IMAGES, HYPOTHESES = 30, 8
MODELS = {  # name -> (group, shift of all errors in millimetres)
    "base": (None, 0.0),
    "ours-0": ("ours", -29.0),
    "ours-1": ("ours", -31.0),
    "worse": (None, 2.0),
}


def write_evaluation(folder: Path, data: str = "x", stride: int = 1) -> Path:
    """Hypotheses of an image are 10 mm apart, the zero-noise one in their middle; image n is n mm harder than the
    first, for every model."""
    (folder / "models").mkdir(parents=True)
    order = 10.0 * np.array([4, 7, 3, 6, 5, 2, 1, 0])
    truth = 80.0 + order[None, :, None] + np.arange(IMAGES)[:, None, None] + np.zeros(4)  # (N, M, 4)
    about = {"protocol": {"stride": stride}, "data": data, "images": IMAGES}
    figures = {"protocol": "smpl24", "hypotheses": [2, 8], "samples": IMAGES, "settings": about, "models": {}}
    for name, (group, shift) in MODELS.items():
        errors = truth + shift
        np.savez(folder / "models" / f"{name}.npz", identity="x", errors=errors, mean_errors=errors[:, 0])
        figures["models"][name] = {"group": group, "rankings": {}}
    (folder / "figures.json").write_text(json.dumps(figures))
    (folder / "config.yaml").write_text(yaml.safe_dump({"stage": "evaluate"}))
    return folder
