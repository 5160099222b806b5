"""matplotlib without a display, and its figures as pictures. What is drawn is decided by the callers."""

import io

import matplotlib
from matplotlib.figure import Figure

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # the backend must be chosen first

__all__ = ["plt", "png"]


def png(figure: Figure, dpi: int) -> bytes:
    """The figure as a PNG file in memory; it is closed."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    plt.close(figure)
    return buffer.getvalue()
