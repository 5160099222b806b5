"""Tables of a finished scorers stage: the paper's Table 1, the rankings of the base model's own hypotheses, and
calibration. What the numbers are is in scorers_result.py and calibration.py."""

from __future__ import annotations

from typing import Any

import numpy as np

from adhmr.evaluation.calibration import order_curve, score_curve, scores_of, target_scores
from adhmr.evaluation.correlation import within_image_correlation
from adhmr.evaluation.paired import Difference
from adhmr.evaluation.scorers_result import PVE, ScorersResult
from adhmr.evaluation.sections import Table
from adhmr.evaluation.tables import METRIC_TITLES

KINDS = ("plcc", "srcc")


def correlation_table(result: ScorersResult, title: str, noise: str) -> Table:
    """The paper's Table 1 for one set and noise; the first method is the baseline."""
    columns = [(metric, kind) for metric in METRIC_TITLES for kind in KINDS]
    rows = [["scorer", *(f"{METRIC_TITLES[metric]} {kind.upper()}" for metric, kind in columns)]]
    records = []
    baseline = next(iter(result.groups))
    for method in result.groups:
        found = result.correlations(title, noise, method).reshape(-1, len(columns))  # (seeds, columns)
        error = result.correlation_errors(title, noise, method).ravel()
        rows.append([method, *(_spread(values, 3) for values in found.T)])
        record: dict[str, Any] = {"scorer": method, "seeds": len(found)}
        for number, (metric, kind) in enumerate(columns):
            record |= _figures(f"{metric}_{kind}", found[:, number], error[number])
        if method != baseline:
            change = found.mean(0) - result.correlations(title, noise, baseline).reshape(-1, len(columns)).mean(0)
            of_change = result.correlation_errors(title, noise, method, baseline).ravel()
            rows.append(["  change", *(f"{c:+.3f} ± {e:.3f}" for c, e in zip(change, of_change))])
            for number, (metric, kind) in enumerate(columns):
                name = f"{metric}_{kind}_change"
                record |= {name: float(change[number]), f"{name}_se": float(of_change[number])}
        records.append(record)
    errors = result.disturbed(title, noise, baseline)[1]
    mean = errors[..., PVE].mean()
    return Table(
        f"correlations-{title}-{noise}",
        f"{title}: scores of disturbed truths, noise {noise} ({errors[..., 0].size} bodies, mean PVE {mean:.0f} mm)",
        rows,
        _alike(records),
        f"± spread over seeds; change against {baseline} ± standard error over images",
    )


def ranking_table(result: ScorersResult, title: str) -> Table:
    """How training-free rankings and scorers order the base model's own hypotheses of one set, and what they choose."""
    best = result.best_ranking(title)
    header = ["ranking", "within-image SRCC", "images > 0", "pooled SRCC", "right pairs", "winners' lead"]
    rows = [[*header, "PVE of pick", "against zero", "pick without zero", "PVE of top 5", "against zero"]]
    records = []
    for method in [*result.rankings, *result.groups]:
        images, pooled = result.images(title, method), result.pooled(title, method)
        within, gap = images["within"], images["gap"]
        pick, top5 = (result.change(title, method, name) for name in ("pick", "top5"))
        rows.append(
            [
                method,
                _spread(within.mean(1), 3),
                f"{100 * (within > 0).mean():.0f} %",
                _spread(pooled, 3),
                f"{100 * images['right'].mean():.1f} %",
                f"{gap.mean():.1f}",
                _spread(images["pick"].mean(1), 1),
                _change(pick, 2),
                _spread(images["random_pick"].mean(1), 1),
                _spread(images["top5"].mean(1), 1),
                _change(top5, 2),
            ]
        )
        record: dict[str, Any] = {"ranking": method, "seeds": len(within)}
        for name, values in images.items():
            record |= _figures(name, values.mean(1), _standard_error(values.mean(0)))
        record |= {"positive": float((within > 0).mean()), "pooled_srcc": float(pooled.mean())}
        record |= _changes({"pick_against_zero": pick, "top5_against_zero": top5})
        if method in result.groups:
            changes = {name: result.change(title, method, name, best) for name in images}
            rows.append(
                [
                    f"  against {best}",
                    _change(changes["within"], 3),
                    "",
                    "",
                    f"{100 * changes['right'].mean:+.1f} ± {100 * changes['right'].standard_error:.1f}",
                    _change(changes["gap"], 1),
                    _change(changes["pick"], 2),
                    "",
                    _change(changes["random_pick"], 2),
                    _change(changes["top5"], 2),
                    "",
                ]
            )
            record |= {"best_ranking": best, **_changes({f"{n}_against_best": c for n, c in changes.items()})}
        records.append(record)
    images, count = result.sets[title]["errors"].shape[:2]
    note = (
        f"right pairs: top {result.pairs} against bottom {result.pairs}, as generation pairs them; winners' lead: how "
        "much smaller their PVE is than the losers'; ± spread over seeds, changes ± paired standard error over images"
    )
    heading = f"{title}: rankings of the base model's own {count} hypotheses ({images} images, PVE in mm)"
    return Table(f"rankings-{title}", heading, rows, _alike(records), note)


def reference_table(result: ScorersResult, title: str) -> Table:
    """What the picks of the rankings are to be compared with."""
    rows, records = [["prediction", "PVE (mm)", "against zero"]], []
    references = result.references(title)
    zero = references["zero-noise"]
    for name, pve in references.items():
        change, error = (pve - zero).mean(), _standard_error(pve - zero)
        rows.append([name, f"{pve.mean():.1f}", "" if name == "zero-noise" else f"{change:+.2f} ± {error:.2f}"])
        records.append({"prediction": name, "pve": float(pve.mean()), "change": float(change), "change_se": error})
    return Table(f"references-{title}", f"{title}: predictions that no ranking chooses", rows, records)


def calibration_table(result: ScorersResult) -> Table:
    """Whether scores and their differences mean what training asks them to mean; means over seeds."""
    rows = [["set", "bodies", "scorer", "mean score", "mean target", "score error", "order error", "SRCC with target"]]
    records = []
    for title in result.sets:
        for method in result.groups:
            for kind, (raw, errors) in result.scored(title, method).items():
                target = target_scores(errors)
                of_score = np.array([score_curve(one, target).error for one in raw])
                ordered = raw.reshape(len(raw), len(errors), -1), errors[..., PVE].reshape(len(errors), -1)
                several = ordered[1].shape[1] > 1
                of_order = np.array([order_curve(one, ordered[1])[1].error for one in ordered[0]] if several else [])
                score, correlation = scores_of(raw), [_srcc(one, target) for one in raw]
                rows.append(
                    [
                        *(title, kind, method, f"{score.mean():.3f}", f"{target.mean():.3f}", _spread(of_score, 3)),
                        _spread(of_order, 3) if several else "",
                        _spread(np.array(correlation), 3),
                    ]
                )
                record = {"set": title, "bodies": kind, "scorer": method, "seeds": len(raw)}
                record |= {"mean_score": float(score.mean()), "mean_target": float(target.mean())}
                record |= {"score_error": float(of_score.mean()), "srcc": float(np.mean(correlation))}
                records.append(record | ({"order_error": float(of_order.mean())} if several else {}))
    note = (
        "score error: mean distance of the score from what the errors deserve, over tenths of the bodies by score; "
        "order error: of sigmoid(5 difference of raw scores) from the share of pairs of one image in the right order"
    )
    return Table("calibration", "calibration of scores", rows, _alike(records), note)


def scorers_tables(result: ScorersResult) -> list[Table]:
    tables = [correlation_table(result, title, noise) for title in result.sets for noise in result.noise]
    if result.ranks_hypotheses:
        for title in result.sets:
            tables += [ranking_table(result, title), reference_table(result, title)]
    return [*tables, calibration_table(result)]


# ---------------------------------------------------------------------------------------------------- cells
def _srcc(raw: np.ndarray, target: np.ndarray) -> float:
    """Of all bodies in one pool; 0 where all targets are equal."""
    return float(within_image_correlation(raw.reshape(1, -1), -target.reshape(1, -1))[0])


def _spread(seeds: np.ndarray, digits: int) -> str:
    """Mean over (seeds,), and their standard deviation when there are several."""
    cell = f"{seeds.mean():.{digits}f}"
    return f"{cell} ± {seeds.std(ddof=1):.{digits}f}" if len(seeds) > 1 else cell


def _change(change: Difference, digits: int) -> str:
    return f"{change.mean:+.{digits}f} ± {change.standard_error:.{digits}f}"


def _standard_error(images: np.ndarray) -> float:
    return float(images.std(ddof=1) / len(images) ** 0.5)


def _figures(name: str, seeds: np.ndarray, standard_error: float) -> dict[str, float]:
    spread = float(seeds.std(ddof=1)) if len(seeds) > 1 else 0.0
    return {name: float(seeds.mean()), f"{name}_se": float(standard_error), f"{name}_spread": spread}


def _changes(changes: dict[str, Difference]) -> dict[str, float]:
    return {
        key: value
        for name, change in changes.items()
        for key, value in ((name, change.mean), (f"{name}_se", change.standard_error))
    }


def _alike(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """All with the keys of any, None where one has no such figure: they become lines of one CSV file."""
    keys = dict.fromkeys(key for record in records for key in record)
    return [{key: record.get(key) for key in keys} for record in records]
