import numpy as np
from scipy.stats import pearsonr, spearmanr

from adhmr.evaluation.correlation import pooled_correlation, within_image_correlation


def draw(rows: int, columns: int, ties: bool) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(rows, columns))
    errors = rng.normal(size=(rows, columns)) - 0.7 * scores
    return (scores.round(0), errors.round(0)) if ties else (scores, errors)


def test_within_an_image_equal_to_scipy_row_by_row():
    for ties in (False, True):
        scores, errors = draw(20, 15, ties)
        expected = [spearmanr(s, -e).statistic for s, e in zip(scores, errors)]
        np.testing.assert_allclose(within_image_correlation(scores, errors), expected, atol=1e-12)


def test_a_perfect_a_reversed_and_a_constant_row():
    errors = np.tile(np.arange(5.0), (3, 1))
    scores = np.stack([-errors[0], errors[0], np.ones(5)])
    np.testing.assert_allclose(within_image_correlation(scores, errors), [1, -1, 0], atol=1e-12)


def test_pooled_takes_all_images_as_one():
    scores, errors = (part.ravel() for part in draw(20, 15, False))
    found = pooled_correlation(scores, errors)
    assert found["srcc"] == spearmanr(scores, -errors).statistic > 0.3
    assert found["plcc"] == pearsonr(scores, -errors).statistic > 0.3
