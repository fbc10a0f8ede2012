"""Was odometry started again? Two of its samples tell; what they say is then of two frames."""

from __future__ import annotations

from kapture_ros.transforms.se3 import Transform

SECOND = 1_000_000_000
LEAP = (5.0, 0.5)  # metres, radians from one sample to the next: more than error
FASTEST = (100.0, 20.0)  # metres and radians a second, of whatever drives
PAUSE_NS = 2 * SECOND  # shorter ones are lost messages
ORIGIN_M = 0.5  # odometry begins so near to its origin
AWAY = (2.0, 0.35)  # metres, radians: it had been farther from there


def leapt(start_ns: int, start: Transform, end_ns: int, end: Transform) -> bool:
    """Whether no vehicle moves so from one sample of `odom_from_base` to the next."""
    seconds = (end_ns - start_ns) / SECOND
    metres, radians = start.distance_to(end)
    too_far = metres > LEAP[0] and metres > FASTEST[0] * seconds
    turned = radians > LEAP[1] and radians > FASTEST[1] * seconds
    return seconds > 0 and (too_far or turned)


def begins_anew(start_ns: int, start: Transform, end_ns: int, end: Transform) -> bool:
    """Whether, after a pause, odometry is at its origin again, and was elsewhere before.

    A vehicle may have come back to where it began meanwhile, which nothing tells; that two
    drives are not joined then costs less than joining two that are not one.
    """
    if end_ns - start_ns < PAUSE_NS:
        return False
    metres, radians = start.distance_to(end)
    at_origin = end.distance_to(Transform())[0] < ORIGIN_M
    return at_origin and (metres > AWAY[0] or radians > AWAY[1])
