import numpy as np
import torch

from adhmr.evaluation.calibration import order_curve, score_curve, scores_of, target_scores
from adhmr.evaluation.correlation import pooled_correlation, ranked_pairs, resampled_correlations
from adhmr.objectives.ranking import WORST_ALIGNED_ERROR, WORST_ERROR, calibration_loss
from adhmr.preference.mesh_errors import ERROR_NAMES
from adhmr.preference.pairing import PairRule, make_pairs


def test_a_score_that_is_its_target_has_no_calibration_loss():
    errors = np.random.default_rng(0).uniform(15, 140, (6, 4)).repeat(4).reshape(6, 4, 4).astype(np.float32)
    for index, name in enumerate(ERROR_NAMES):
        worst = WORST_ALIGNED_ERROR if name.startswith("pa_") else WORST_ERROR
        target = (worst - errors[..., index] / 1000) / (worst - 0.01)
        raw = torch.from_numpy(np.log(target / (1 - target)) / 5.0)
        assert calibration_loss(raw, torch.from_numpy(errors[..., index] / 1000), worst) < 1e-10
    np.testing.assert_allclose(target_scores(np.array([10.0, 10, 10, 10])), 1.0, atol=1e-6)
    np.testing.assert_allclose(target_scores(np.array([300.0, 300, 10, 10])), 0.5, atol=1e-6)


def test_the_error_of_scores_is_their_distance_from_what_was_found():
    raw = np.random.default_rng(0).normal(0, 0.3, (50, 4))
    score = scores_of(raw)
    assert score_curve(raw, score).error < 1e-9
    curve = score_curve(raw, score - 0.2)
    assert abs(curve.error - 0.2) < 1e-9 and (np.diff(curve.expected) > 0).all() and len(curve.expected) == 10


def test_differences_that_say_how_sure_the_order_is():
    rng = np.random.default_rng(0)
    raw = rng.normal(0, 0.4, (4000, 6))
    strengths = np.exp(5 * raw)  # Plackett-Luce: then P(m before n) is sigmoid(5 (raw_m - raw_n))
    errors = rng.exponential(1, raw.shape) / strengths
    difference, curve = order_curve(raw, errors)
    assert curve.error < 0.01 and (np.diff(difference) > 0).all() and curve.found[-1] > 0.95
    assert order_curve(10 * raw, errors)[1].error > 0.1  # too sure of itself


def test_ranked_pairs_are_what_generation_makes_on_average():
    rng = np.random.default_rng(0)
    errors = rng.uniform(50, 150, (1, 12))
    scores = -errors + rng.normal(0, 40, errors.shape)
    right, gap = ranked_pairs(scores, errors, 4)
    made = [make_pairs(scores[0], PairRule(4), np.random.default_rng(seed)) for seed in range(400)]
    winners, losers = np.concatenate(made).T
    assert abs((errors[0, winners] < errors[0, losers]).mean() - right[0]) < 0.02
    assert abs((errors[0, losers] - errors[0, winners]).mean() - gap[0]) < 1e-9


def test_images_drawn_anew_vary_as_new_images_do():
    rng = np.random.default_rng(0)

    def draw(images: int) -> tuple[np.ndarray, np.ndarray]:
        scores = rng.normal(size=(2, images, 1))
        return scores, (rng.normal(size=(images, 1)) - scores[0])[..., None]

    new = [pooled_correlation(s[0, :, 0], e[:, 0, 0])["srcc"] for s, e in (draw(200) for _ in range(200))]
    scores, errors = draw(200)
    drawn = resampled_correlations(scores[:1], errors)
    assert drawn.shape == (100, 1, 2) and 0.7 < drawn[:, 0, 1].std() / np.std(new) < 1.4
    assert abs(drawn[:, 0, 1].mean() - pooled_correlation(scores[0, :, 0], errors[:, 0, 0])["srcc"]) < 0.03
    np.testing.assert_array_equal(drawn, resampled_correlations(scores[:1], errors))
    first, second = (resampled_correlations(scores[seed : seed + 1], errors) for seed in (0, 1))
    np.testing.assert_allclose(resampled_correlations(scores, errors), (first + second) / 2)
