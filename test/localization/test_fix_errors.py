"""How wrong fixes are, learned on the drive: what odometry can tell, and what it cannot."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from test_motion_filter import FIX_SIGMA, INDEPENDENT, drive, gyro_of, turned

from kapture_ros.localization.fix_errors import FixErrors
from kapture_ros.localization.map_change import MapChange
from kapture_ros.localization.motion_filter import Fix, MotionFilter
from kapture_ros.localization.motion_options import MotionOptions
from kapture_ros.transforms import Transform
from kapture_ros.transforms.se3 import disturb

NOTHING = np.zeros((6, 6))
OF_MAP = np.diag(np.repeat([0.05, 0.0025], 3) ** 2)
DRIVES = 4


UNKNOWN = (np.inf, np.inf)


def learned(seed, error, told, *, options=INDEPENDENT, constant=NOTHING, alike=UNKNOWN):
    """A drive whose fixes are off by `error(metres, rng)` (6,) and say that they are `told`.

    Returns what was learned, and the NEES after a third of the drive.
    """
    case = drive(seed)
    motion, change = MotionFilter(options), MapChange(constant, alike)
    errors = FixErrors(options, change)
    nees = []
    for number, sample in enumerate(case.odometry):
        motion.add_odometry(sample)
        if number % 3:
            continue
        pose = disturb(case.truth[sample.stamp_ns], error(0.5 * number, case.rng))
        fix = Fix(sample.stamp_ns, pose, *told, change.lasting(told[1]))
        if motion.initialized:
            motion.update(errors.weighed(fix))
        else:
            motion.initialize(errors.weighed(fix))
        errors.learn(fix, motion)
        if number > len(case.odometry) / 3:
            nees.append(case.nees(motion.at(sample.stamp_ns)))
    return errors, float(np.mean(nees))


def white(factor):
    return lambda _, rng: factor * rng.normal(0, FIX_SIGMA)


TOLD = (np.diag(FIX_SIGMA**2), NOTHING)


@pytest.mark.parametrize("factor", [0.5, 1.0, 2.0])
def test_fixes_that_are_not_as_precise_as_told_are_found_out(factor):
    found, nees = zip(*(learned(seed, white(factor), TOLD) for seed in range(DRIVES)), strict=True)
    assert np.mean([e.factors[0] for e in found]) == pytest.approx(factor**2, rel=0.35)
    assert 4.5 < np.mean(nees) < 7.5


def test_where_odometry_tells_nothing_the_covariance_is_left_alone():
    poor = replace(INDEPENDENT, odometry_position_noise=3.0, odometry_rotation_noise=0.3)
    options = replace(poor, odometry_scale=0.3)
    case = drive(0, options=options)
    errors, motion = FixErrors(options, MapChange()), MotionFilter(options)
    for number, sample in enumerate(case.odometry):
        motion.add_odometry(sample)
        if number % 3 == 0:
            exact = Fix(sample.stamp_ns, case.truth[sample.stamp_ns], *TOLD)
            if not motion.initialized:
                motion.initialize(exact)
            errors.learn(exact, motion)
    own, of_map = errors.factors
    assert own > 0.6
    assert of_map == pytest.approx(1.0, abs=0.1)


def test_odometry_better_than_it_says_does_not_make_fixes_look_better():
    careful = replace(INDEPENDENT, odometry_position_noise=0.06, odometry_rotation_noise=0.006)
    errors, _ = learned(1, white(1.0), TOLD, options=careful)
    assert errors.factors[0] == pytest.approx(1.0, rel=0.35)


def precise(case, stamp_ns):
    """A fix of a tenth of FIX_SIGMA."""
    pose = disturb(case.truth[stamp_ns], case.rng.normal(0, FIX_SIGMA / 10))
    return Fix(stamp_ns, pose, np.diag((FIX_SIGMA / 10) ** 2))


def bend(metres, rng):
    """The map's error: the same over all of the drive, and each fix's own."""
    shift = np.sqrt(np.diagonal(OF_MAP)) * np.array([1.0, -1.0, 0.5, 1.0, 1.0, -1.0])
    return shift + rng.normal(0, FIX_SIGMA / 5)


BENT = (OF_MAP + np.diag((FIX_SIGMA / 5) ** 2), OF_MAP)


@pytest.mark.parametrize(
    ("constant", "alike"), [(OF_MAP, (2.0, 2.0)), (NOTHING, UNKNOWN), (NOTHING, (60.0, 60.0))]
)
def test_an_error_that_all_fixes_have_is_not_learned_away(constant, alike):
    errors, nees = learned(2, bend, BENT, constant=constant, alike=alike)
    lasting = MapChange(constant, alike).lasting(OF_MAP)
    fix = errors.weighed(Fix(0, Transform(), *BENT, lasting))
    assert np.trace(fix.map_covariance) > 0.8 * np.trace(OF_MAP)
    assert nees < 10.0


def rough(rng, alike=2.0, metres=400.0, size=1 / 3):
    """An error of the map that is another one after some metres, of a `size` times that told."""
    at = np.arange(0, metres, 0.5)
    numbers = rng.normal(0, 1 / alike, (6, 40))
    phase = rng.uniform(0, 2 * np.pi, (6, 40))
    waves = np.cos(at[:, None, None] * numbers + phase).sum(axis=2) / np.sqrt(20)
    errors = waves * np.sqrt(np.diagonal(OF_MAP)) * size
    return lambda way, rng: errors[int(2 * way)] + rng.normal(0, FIX_SIGMA / 20)


def test_a_map_that_is_better_here_than_held_out_instants_said_is_found_out():
    told = (OF_MAP + np.diag((FIX_SIGMA / 20) ** 2), OF_MAP)
    errors, _ = learned(3, rough(np.random.default_rng(0)), told, alike=(2.0, 2.0))
    assert errors.factors[1] < 0.4


def test_drives_learn_as_different_factors_as_they_are_thought_to_be_uncertain():
    """Pairs of fixes overlap, and what they have in common must not be counted again and again."""
    told = (OF_MAP + np.diag((FIX_SIGMA / 20) ** 2), OF_MAP)
    in_sigmas = []
    for seed in range(12):
        error = rough(np.random.default_rng(seed), size=1.0)
        errors, _ = learned(seed, error, told, alike=(2.0, 2.0))
        sigma = np.sqrt(np.diagonal(np.linalg.inv(errors._information)))
        in_sigmas.append(errors._logs[1:] / sigma[1:])  # of the map's and of odometry's
    assert (np.var(in_sigmas, axis=0) < 0.8).all()


def test_a_gyro_of_unknown_bias_does_not_make_fixes_or_odometry_look_worse():
    """Over a second it leads aside by more than fixes are wrong; half of it turns what it moved."""
    found = []
    for seed in range(DRIVES):
        case = drive(seed, seconds=20)
        errors = FixErrors(INDEPENDENT, MapChange())
        motion = MotionFilter(INDEPENDENT, gyro_of(turned(case)))
        for number, sample in enumerate(case.odometry):
            motion.add_odometry(sample)
            if number % 3:
                continue
            fix = precise(case, sample.stamp_ns)
            if motion.initialized:
                motion.update(fix)
            else:
                motion.initialize(fix)
            errors.learn(fix, motion)
        found.append(errors._logs)
    own, *_, odometry = np.exp(np.mean(found, axis=0))
    assert own == pytest.approx(1.0, rel=0.35)
    assert odometry == pytest.approx(1.0, rel=0.35)


def test_late_fixes_and_new_chains_tell_nothing():
    case = drive(0, seconds=3)
    motion, errors = MotionFilter(MotionOptions()), FixErrors(MotionOptions(), MapChange())
    for sample in case.odometry:
        motion.add_odometry(sample)
    first, *_, last = sorted(case.truth)
    motion.initialize(case.fix(first))
    before = errors.factors
    errors.learn(case.fix(last), motion)
    errors.learn(case.fix(first), motion)
    errors.forget()
    errors.learn(case.fix(last), motion)
    assert errors.factors == before
