"""How long it still takes until a model is loaded. Pure."""

from inference.protocol import LoadStage, LoadView


def remaining_seconds(load: LoadView, progress: float, now: float) -> float:
    """Until it is ready; while it waits for memory at least so long, since nobody knows when others let go of theirs.

    Of the weights that are read, what was seen so far counts the more, the more of them are there: a disk that is
    slower today is noticed.

    Args:
        progress: 0–1, of the weights.
        now: seconds since the epoch.
    """
    expected, elapsed = load.expected, max(0.0, now - load.since)
    match load.stage:
        case LoadStage.WAITING:
            return load.ahead_seconds + expected.total
        case LoadStage.STARTING:
            return max(0.0, expected.starting - elapsed) + expected.reading + expected.warming
        case LoadStage.READING:
            left = 1.0 - min(max(progress, 0.0), 1.0)
            return left * (left * expected.reading + elapsed) + expected.warming
        case LoadStage.WARMING:
            return max(0.0, expected.warming - elapsed)
