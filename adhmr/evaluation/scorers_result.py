"""A finished scorers stage: its arrays, and what each method is worth on each set, per image. A method is a
training-free ranking, a scorer, or a group of scorers that differ in their training seed; tables and plots of them are
in scorers_tables.py and scorers_plots.py."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from adhmr.errors import AdhmrError
from adhmr.evaluation.correlation import (
    pooled_correlation,
    ranked_pairs,
    resampled_correlations,
    within_image_correlation,
)
from adhmr.evaluation.paired import Difference, paired_difference
from adhmr.preference.mesh_errors import ERROR_NAMES

ARRAYS = "sets"  # the folder of the arrays: NAME.npz of each set
PVE = ERROR_NAMES.index("pve")


class ScorersResult:
    """`about`: names, groups, rankings, noises, K and sets, as figures.json has them; `folder`: of the arrays.

    Arrays of a set with N images, errors in millimetres: disturbed_errors (N, noises, D, 4) and
    disturbed_value_SCORER (N, noises, D); of the base model's hypotheses errors (N, M, 4), mean_errors (N, 4), and by
    ranking and scorer value_METHOD (N, M) and top_errors_METHOD (N, 4), of the mean of its five best.
    """

    def __init__(self, about: dict[str, Any], folder: Path):
        self.about = about
        self.pairs: int = about["pairs"]
        self.noise: list[str] = about["noise"]
        self.sets: dict[str, dict[str, np.ndarray]] = {}
        for name in about["sets"]:
            with np.load(folder / f"{name}.npz") as stored:
                self.sets[name] = {key: stored[key] for key in stored.files if key != "identity"}
        self._measured: dict[tuple[str, str], dict[str, np.ndarray]] = {}

    @classmethod
    def read(cls, folder: Path) -> ScorersResult:
        """Of a stage's folder; raises AdhmrError when it is not finished."""
        try:
            about = json.loads((folder / "figures.json").read_text())
        except FileNotFoundError as error:
            raise AdhmrError(f"{folder}/figures.json does not exist: run the scorers stage first") from error
        return cls(about, folder / ARRAYS)

    # ------------------------------------------------------------------------------------------------ methods
    @cached_property
    def groups(self) -> dict[str, list[str]]:
        """Method -> its scorers, in the order of the configuration."""
        groups: dict[str, list[str]] = {}
        for name, entry in self.about["scorers"].items():
            groups.setdefault(entry["group"] or name, []).append(name)
        return groups

    @property
    def rankings(self) -> list[str]:
        """Training-free ones; none when no base model's hypotheses were ranked."""
        return self.about["rankings"]

    @property
    def ranks_hypotheses(self) -> bool:
        return bool(self.rankings)

    # ------------------------------------------------------------------------------------------------ hypotheses
    def images(self, title: str, method: str) -> dict[str, np.ndarray]:
        """What a method makes of a base model's hypotheses, each (seeds, N):

        within: Spearman correlation of value and negative PVE, without the zero-noise hypothesis;
        right: share of the pairs of the top K with the bottom K in the right order; gap: losers' PVE minus winners';
        pick: PVE of the hypothesis of the highest value, random_pick: of those without the zero-noise one;
        top5: PVE of the mean of the five best.
        """
        if (title, method) not in self._measured:
            arrays, pve = self.sets[title], self.sets[title]["errors"][..., PVE]
            each = []
            for name in self.groups.get(method, [method]):
                value = arrays[f"value_{name}"]
                right, gap = ranked_pairs(value, pve, self.pairs)
                each.append(
                    {
                        "within": within_image_correlation(value[:, 1:], pve[:, 1:]),
                        "right": right,
                        "gap": gap,
                        "pick": _picked(pve, value),
                        "random_pick": _picked(pve[:, 1:], value[:, 1:]),
                        "top5": arrays[f"top_errors_{name}"][:, PVE],
                    }
                )
            self._measured[title, method] = {key: np.stack([one[key] for one in each]) for key in each[0]}
        return self._measured[title, method]

    def references(self, title: str) -> dict[str, np.ndarray]:
        """(N,) PVE of predictions that no ranking chooses."""
        arrays, pve = self.sets[title], self.sets[title]["errors"][..., PVE]
        return {
            "zero-noise": pve[:, 0],
            "mean hypothesis": arrays["mean_errors"][:, PVE],
            "random": pve[:, 1:].mean(1),
            f"best of {pve.shape[1]}": pve.min(1),
        }

    def change(self, title: str, method: str, column: str, baseline: str | None = None) -> Difference:
        """Of a column of `images` against another method's, or against the PVE of the zero-noise hypothesis."""
        if baseline is None:
            other = self.references(title)["zero-noise"][None]
        else:
            other = self.images(title, baseline)[column]
        return paired_difference(self.images(title, method)[column], other)

    def best_ranking(self, title: str) -> str:
        """The training-free ranking of the highest correlation within an image."""
        return max(self.rankings, key=lambda name: self.images(title, name)["within"].mean())

    def pooled(self, title: str, method: str) -> np.ndarray:
        """(seeds,) SRCC of value and negative PVE over all hypotheses of all images."""
        arrays = self.sets[title]
        pve = arrays["errors"][..., PVE].ravel()
        names = self.groups.get(method, [method])
        return np.array([pooled_correlation(arrays[f"value_{name}"].ravel(), pve)["srcc"] for name in names])

    # ------------------------------------------------------------------------------------------------ disturbed truth
    def disturbed(self, title: str, noise: str, method: str) -> tuple[np.ndarray, np.ndarray]:
        """Raw scores (seeds, N, D) of disturbed ground truths and their errors (N, D, 4)."""
        arrays, number = self.sets[title], self.noise.index(noise)
        raw = [arrays[f"disturbed_value_{name}"][:, number] for name in self.groups[method]]
        return np.stack(raw), arrays["disturbed_errors"][:, number]

    def correlations(self, title: str, noise: str, method: str) -> np.ndarray:
        """(seeds, 4, 2) PLCC and SRCC by error, all disturbed truths of a set in one pool (paper section 5.1)."""
        raw, errors = self.disturbed(title, noise, method)
        found = [
            [list(pooled_correlation(one.ravel(), errors[..., index].ravel()).values()) for index in range(4)]
            for one in raw
        ]
        return np.array(found)

    def correlation_errors(self, title: str, noise: str, method: str, baseline: str | None = None) -> np.ndarray:
        """(4, 2) standard errors over images of the correlations, or of their change against a baseline: standard
        deviations over sets of images drawn anew."""
        drawn = resampled_correlations(*self.disturbed(title, noise, method))
        if baseline is not None:
            drawn = drawn - resampled_correlations(*self.disturbed(title, noise, baseline))
        return drawn.std(0, ddof=1)

    # ------------------------------------------------------------------------------------------------ both
    def scored(self, title: str, method: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Kind of body -> raw scores (seeds, N, ...) by a method's scorers and errors (N, ..., 4)."""
        kinds = {noise: self.disturbed(title, noise, method) for noise in self.noise}
        if self.ranks_hypotheses:
            arrays = self.sets[title]
            raw = np.stack([arrays[f"value_{name}"] for name in self.groups[method]])
            kinds["own hypotheses"] = raw, arrays["errors"]
        return kinds


def _picked(errors: np.ndarray, values: np.ndarray) -> np.ndarray:
    """(N,) of errors (N, M) those of the highest values (N, M)."""
    return np.take_along_axis(errors, values.argmax(1)[:, None], 1)[:, 0]
