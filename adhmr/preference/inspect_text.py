"""The figures of `adhmr prefs inspect` as text: settings, counts, quantiles, and the pairs by their difference. They
are made in inspect.py."""

from __future__ import annotations

from typing import Any

from adhmr.preference.inspect import QUANTILES

BAR = 40  # characters of the longest bar
DIGITS = 4  # significant ones


def describe(figures: dict[str, Any]) -> str:
    """Lines about the figures of `inspect_preferences`."""
    parts = ["\n".join(f"{name:<22}  {value}" for name, value in _facts(figures))]
    if figures["pairs"]:
        parts += [_quantiles(figures["quantiles"]), _histogram(figures["difference"])]
    return "\n\n".join(parts)


def _facts(figures: dict[str, Any]) -> list[tuple[str, str]]:
    settings = dict(figures["settings"])
    facts = [("preferences", figures["folder"])]
    for name in ("ranking", "dataset", "base", "scorer"):
        value = settings.pop(name, None)
        if value is not None:
            facts.append((name, value))
    made_with = ", ".join(f"{name} {_plain(value)}" for name, value in settings.items())
    facts += [("made with", made_with), ("images with pairs", _images(figures)), ("pairs", _pairs(figures))]
    if not figures["pairs"]:
        return facts
    if "winner_pve_mm" in figures:
        winner, loser = figures["winner_pve_mm"], figures["loser_pve_mm"]
        facts.append(("mean PVE", f"winner {winner:.1f} mm, loser {loser:.1f} mm"))
        facts.append(("in right order", f"{figures['right_order']:.1%} of the pairs: the winner has the smaller error"))
    zero = f"{figures['zero_noise_winners']:.1%} of the winners, {figures['zero_noise_losers']:.1%} of the losers"
    return [*facts, ("zero-noise hypothesis", zero)]


def _images(figures: dict[str, Any]) -> str:
    text = f"{figures['images']:,}"
    if "left_out" not in figures:
        return text
    text += f" of {figures['images'] + figures['left_out']:,}"
    if figures["left_out"]:
        known = ", ".join(f"{count:,} by {guard}" for guard, count in figures["left_out_by"].items())
        text += f"; {figures['left_out']:,} left out: {known or 'why is known with keep: all only'}"
    return text


def _pairs(figures: dict[str, Any]) -> str:
    if not figures["pairs"]:
        return "none"
    by_count = figures["pairs_an_image"]
    shares = ", ".join(f"{images:,} with {count}" for count, images in enumerate(by_count, 1) if images)
    return f"{figures['pairs']:,}, {figures['pairs'] / figures['images']:.2f} an image ({shares})"


def _quantiles(quantiles: dict[str, dict[str, float]]) -> str:
    lines = [" " * 14 + "".join(f"{f'{part} %':>10}" for part in QUANTILES)]
    for name, values in quantiles.items():
        numbers = "".join(f"{value:>10.{DIGITS}g}" for value in values.values())
        lines.append(f"{name.replace('pve', 'PVE').replace('_', ' '):<14}{numbers}")
    return "\n".join(lines)


def _histogram(difference: dict[str, list[float]]) -> str:
    """Differences of values from the smallest to the largest; the last bin has both its edges."""
    edges, counts = difference["edges"], difference["pairs"]
    right = difference.get("right_order")
    lines = [f"{'difference of values':<24}{'pairs':>8}{'  right order' if right else ''}"]
    for number, count in enumerate(counts):
        edge = f"{edges[number]:.{DIGITS}g} to {edges[number + 1]:.{DIGITS}g}"
        share = "" if right is None else f"{f'{right[number]:.0%}' if count else '':>13}"
        lines.append(f"{edge:<24}{count:>8,}{share}  {'#' * round(BAR * count / max(counts))}".rstrip())
    return "\n".join(lines)


def _plain(value: Any) -> str:
    """A threshold by ranking as `{error: 0.01}`; a number as it is."""
    if not isinstance(value, dict):
        return str(value)
    return f"{{{', '.join(f'{name}: {least}' for name, least in value.items())}}}"
