"""Dividing bytes by weights without losing one. Pure."""

from collections.abc import Sequence


def divided(total: int, weights: Sequence[int]) -> list[int]:
    """``total`` in parts as the weights are to each other; equal parts when all of them are 0.

    By the largest remainder (Hamilton's method): exact parts rounded down, and what is left, less than one for each,
    to those that lost most by it, the earlier first. The parts sum to ``total``; a greater weight never gets less.
    """
    if not weights:
        return []
    if not any(weights):
        weights = [1] * len(weights)
    whole = sum(weights)
    parts = [total * weight // whole for weight in weights]
    by_loss = sorted(range(len(weights)), key=lambda place: (-(total * weights[place] % whole), place))
    for place in by_loss[: total - sum(parts)]:
        parts[place] += 1
    return parts
