"""The motion filter: honest through drift, silence and late fixes."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from scipy.stats import chi2

from kapture_ros.errors import ExtrapolationError
from kapture_ros.localization.inertial import ImuSample, Inertial
from kapture_ros.localization.map_change import MapChange
from kapture_ros.localization.motion_filter import Fix, MotionFilter, MotionState
from kapture_ros.localization.motion_options import MotionOptions
from kapture_ros.localization.odometry import GYRO, SECOND, OdometrySample
from kapture_ros.transforms import Transform
from kapture_ros.transforms.se3 import difference, disturb

START = 1_700_000_000 * SECOND
TENTH = SECOND // 10
INDEPENDENT = MotionOptions(fix_correlation=0.0)  # the fixes below are
FIX_SIGMA = np.array([0.1, 0.1, 0.1, 0.005, 0.005, 0.005])


@dataclass
class Drive:
    """A figure of eight at 5 m/s with odometry as the options describe it."""

    truth: dict[int, Transform]
    odometry: list[OdometrySample]
    rng: np.random.Generator

    def fix(self, stamp_ns: int) -> Fix:
        noise = self.rng.normal(0, FIX_SIGMA)
        true = self.truth[stamp_ns]
        turned = Rotation.from_rotvec(noise[3:]) * true.rotation
        return Fix(stamp_ns, Transform(turned, true.translation + noise[:3]), np.diag(FIX_SIGMA**2))

    def nees(self, state: MotionState) -> float:
        error = difference(self.truth[state.stamp_ns], state.map_from_base)
        return float(error @ np.linalg.solve(state.pose_covariance, error))


def drive(seed: int, seconds: int = 60, options: MotionOptions = INDEPENDENT) -> Drive:
    rng = np.random.default_rng(seed)
    scale = rng.normal(0, options.odometry_scale)
    bias = rng.normal(0, options.odometry_yaw_bias)
    map_from_base = Transform(Rotation.from_euler("z", 1.0), np.array([100.0, -50.0, 3.0]))
    odom_from_base = Transform()
    truth = {START: map_from_base}
    odometry = [OdometrySample(START, odom_from_base)]
    for tenth in range(1, seconds * 10 + 1):
        stamp = START + tenth * TENTH
        turn = 0.04 * np.sin(tenth / 40)
        motion = Transform(Rotation.from_euler("z", turn), np.array([0.5, 0.0, 0.0]))
        map_from_base = map_from_base @ motion
        spread = options.odometry_position_noise * np.sqrt(0.5)
        twist = options.odometry_rotation_noise * np.sqrt(0.5 + abs(turn))
        said = Transform(
            Rotation.from_rotvec(rng.normal(0, twist, 3))
            * Rotation.from_euler("z", turn - bias * 0.1),
            motion.translation / (1 + scale) + rng.normal(0, spread, 3),
        )
        odom_from_base = odom_from_base @ said
        truth[stamp] = map_from_base
        odometry.append(OdometrySample(stamp, odom_from_base))
    return Drive(truth, odometry, rng)


def turned(case: Drive, bias=None) -> list[ImuSample]:
    """What a gyro as the options describe it said on the drive, 100 times a second."""
    options, rng = INDEPENDENT, case.rng
    bias = rng.normal(0, options.gyro_bias, 3) if bias is None else np.array(bias)
    scale = 1 + rng.normal(0, options.gyro_scale, 3)
    pairs = itertools.pairwise(case.truth.values())
    rates = np.repeat([10 * (a.rotation.inv() * b.rotation).as_rotvec() for a, b in pairs], 10, 0)
    rates = np.concatenate([rates[:1], (rates[1:] + rates[:-1]) / 2, rates[-1:]])
    samples = []
    for n, rate in enumerate(rates):
        bias = bias + rng.normal(0, options.gyro_bias_wander / 10, 3)
        said = scale * rate + bias + rng.normal(0, options.gyro_noise * 10, 3)
        samples.append(ImuSample(START + n * TENTH // 10, said, np.array([0.0, 0.0, 9.81])))
    return samples


def gyro_of(samples: list[ImuSample]) -> Inertial:
    inertial = Inertial(keep_ns=100 * SECOND)
    for sample in samples:
        inertial.add(sample)
    return inertial


def run(
    case: Drive, fix_every: int, silent: range = range(0), gyro: Inertial | None = None
) -> tuple[MotionFilter, list[float]]:
    """Drive with a fix every n tenths of a second; NEES of the pose before each fix."""
    motion = MotionFilter(INDEPENDENT, gyro)
    nees = []
    for number, sample in enumerate(case.odometry):
        motion.add_odometry(sample)
        if number % fix_every == 0 and number // 10 not in silent:
            fix = case.fix(sample.stamp_ns)
            if motion.initialized:
                nees.append(case.nees(motion.at(sample.stamp_ns)))
                motion.update(fix)
            else:
                motion.initialize(fix)
    return motion, nees


def test_the_covariance_is_honest_over_many_drives():
    """Mean NEES of independent drives lies in its 99 % band (Bar-Shalom 2001, section 5.4)."""
    final = [run(drive(seed, seconds=12), fix_every=5)[1][-1] for seed in range(20)]
    low, high = chi2.ppf([0.005, 0.995], 6 * len(final)) / len(final)
    assert low < np.mean(final) < high


def test_half_a_minute_without_a_fix_stays_honest():
    nees = []
    distance = []
    for seed in range(12):
        case = drive(seed, seconds=40)
        motion, _ = run(case, fix_every=5, silent=range(10, 41))
        end = motion.at(case.odometry[-1].stamp_ns)
        nees.append(case.nees(end))
        distance.append(end.map_from_base.distance_to(case.truth[end.stamp_ns])[0])
    low, high = chi2.ppf([0.005, 0.995], 6 * len(nees)) / len(nees)
    assert low < np.mean(nees) < high
    assert np.median(distance) < 3.0, "150 m without a fix"


def test_a_gyro_beside_odometry_keeps_half_a_minute_and_stays_honest():
    """Its bias is learned before, from fixes of ten seconds: then it turns the pose."""
    nees, beside, alone = [], [], []
    for seed in range(12):
        case = drive(seed, seconds=40)
        samples, end_ns = turned(case), case.odometry[-1].stamp_ns
        motion, _ = run(case, fix_every=5, silent=range(10, 41), gyro=gyro_of(samples))
        assert motion.at(end_ns).by_gyro
        nees.append(case.nees(motion.at(end_ns)))
        case.odometry = case.odometry[:201]  # ten seconds of silence
        for errors, gyro in ((alone, None), (beside, gyro_of(samples[:2001]))):
            motion, _ = run(case, fix_every=5, silent=range(10, 41), gyro=gyro)
            end = motion.at(case.odometry[-1].stamp_ns)
            errors.append(end.map_from_base.distance_to(case.truth[end.stamp_ns]))
    low, high = chi2.ppf([0.005, 0.995], 6 * len(nees)) / len(nees)
    assert low < np.mean(nees) < high
    assert (np.median(beside, axis=0) < 0.7 * np.median(alone, axis=0)).all()


def bent(
    case: Drive, of_map: np.ndarray, share: np.ndarray | float, change: MapChange
) -> Callable[[int], Fix]:
    """Fixes of a map whose error is alike by this share from one fix to the next.

    Where it is known how it changes, but for a part that does not.
    """
    lasting = change.lasting(of_map)
    stays = lasting if np.isfinite(change.alike).all() else 0 * lasting
    steady, error = (case.rng.normal(0, np.sqrt(np.diagonal(c))) for c in (stays, of_map - stays))
    sigmas = np.sqrt(np.diagonal(of_map - stays))

    def fix_at(stamp_ns: int) -> Fix:
        nonlocal error
        error = share * error + np.sqrt(1 - share**2) * case.rng.normal(0, sigmas)
        fix = case.fix(stamp_ns)
        pose = disturb(fix.map_from_base, steady + error)
        return Fix(stamp_ns, pose, fix.covariance + of_map, of_map, lasting)

    return fix_at


def take(motion: MotionFilter, fix: Fix) -> None:
    if motion.initialized:
        motion.update(fix)
    else:
        motion.initialize(fix)


@pytest.mark.parametrize(
    "alike", [(np.inf, np.inf), (3.0, 3.0)], ids=["as the options say", "as measured"]
)
def test_the_maps_error_at_the_newest_fix_is_carried_through_silence(alike):
    """It turns the way on, as long as that is: no less is told, and no more."""
    of_map, nees = np.diag(np.repeat([0.1, 0.01], 3) ** 2), []
    change = MapChange(alike=alike)
    way = INDEPENDENT.map_correlation if np.isinf(alike[0]) else np.pi / 2 * alike[0]
    share = np.exp(-2.5 / way)  # metres between fixes
    for seed in range(12):
        case = drive(seed, seconds=20)
        motion = MotionFilter(INDEPENDENT, gyro_of(turned(case)), change)
        bend = bent(case, of_map, share, change)
        for number, sample in enumerate(case.odometry):
            motion.add_odometry(sample)
            if number % 5 == 0 and number < 100:
                take(motion, bend(sample.stamp_ns))
        nees.append(case.nees(motion.at(case.odometry[-1].stamp_ns)))
    low, high = chi2.ppf([0.005, 0.995], 6 * len(nees)) / len(nees)
    assert low < np.mean(nees) < high


@pytest.mark.parametrize("alike", [(3.0, 3.0), (1.0, 6.0)])
def test_fixes_that_err_alike_are_not_taken_for_many(alike):
    """By the map, over some metres: the pose is as wrong as it says, less than one of them."""
    of_map, change = np.diag(np.repeat([0.2, 0.01], 3) ** 2), MapChange(alike=alike)
    sigmas, share = np.sqrt(np.diagonal(of_map)), change.share(0.5)
    nees, squares = [], []
    for seed in range(8):
        case = drive(seed, seconds=30)
        motion = MotionFilter(INDEPENDENT, gyro_of(turned(case)), change)
        bend = bent(case, of_map, share, change)
        for number, sample in enumerate(case.odometry):  # half a metre apart
            motion.add_odometry(sample)
            take(motion, bend(sample.stamp_ns))
            if number > 20:
                state = motion.at(sample.stamp_ns)
                nees.append(case.nees(state))
                squares.append(difference(state.map_from_base, case.truth[sample.stamp_ns]) ** 2)
    assert 4.5 < np.mean(nees) < 7.5
    assert (np.sqrt(np.mean(squares, axis=0)) < 0.85 * sigmas).all(), "a quarter of sigma lasts"


def test_what_all_fixes_have_in_common_no_number_of_them_makes_smaller():
    """What a whole map has in common, instants held out among their neighbours do not show."""
    of_map, change = np.diag(np.repeat([0.2, 0.01], 3) ** 2), MapChange(alike=(0.1, 0.1))
    case, lasting = drive(1, seconds=40), change.lasting(np.eye(6))
    motion = MotionFilter(INDEPENDENT, gyro_of(turned(case)), change)
    for sample in case.odometry:
        motion.add_odometry(sample)
        fix = case.fix(sample.stamp_ns)
        told = fix.covariance + of_map, of_map, change.lasting(of_map)
        take(motion, Fix(sample.stamp_ns, fix.map_from_base, *told))
    told = motion.at(case.odometry[-1].stamp_ns).pose_covariance
    assert 0 < lasting[0, 0] < 0.1
    assert (np.diagonal(told) > lasting[0, 0] * np.diagonal(of_map)).all()


def test_a_gyro_of_unknown_bias_does_not_carry_through_silence():
    """One fix only: after two seconds, in which it would be learned, odometry is surer."""
    case = drive(3, seconds=10)
    motion, _ = run(case, fix_every=1000, gyro=gyro_of(turned(case)))
    assert motion.at(START + SECOND).by_gyro
    assert not motion.at(START + 9 * SECOND).by_gyro


def test_the_gyros_bias_is_learned_and_kept():
    case = drive(7, seconds=20)
    motion, _ = run(case, fix_every=5, gyro=gyro_of(turned(case, [0.01, -0.02, 0.03])))
    end = motion.at(case.odometry[-1].stamp_ns)
    sigma = np.sqrt(np.diag(end.covariance)[GYRO])
    assert (sigma < INDEPENDENT.gyro_bias / 10).all()
    assert (np.abs(end.gyro_bias - [0.01, -0.02, 0.03]) < 4 * sigma).all()
    motion.initialize(case.fix(end.stamp_ns), like=end)
    assert motion.at(end.stamp_ns).gyro_bias == pytest.approx(end.gyro_bias)


def test_where_the_gyro_cannot_be_believed_odometry_turns_the_pose():
    """Piece by piece: before and behind a gap the gyro goes on."""
    case = drive(2, seconds=10)
    good = turned(case)

    def carried(samples: list[ImuSample]) -> list[bool]:
        motion, _ = run(case, fix_every=5, gyro=gyro_of(samples))
        return [motion.at(START + (2 * n + 1) * TENTH // 2).by_gyro for n in range(100)]

    def instead(change) -> list[bool]:
        return carried([*good[:401], *map(change, good[401:450]), *good[450:]])

    hole = [not 40 <= n < 45 for n in range(100)]
    assert all(carried(good))
    assert carried(good[:401] + good[450:]) == hole
    assert instead(lambda sample: replace(sample, turn_rate=np.full(3, np.nan))) == hole
    assert instead(lambda sample: replace(sample, turn_rate=np.array([0, 0, 4.36]))) == hole
    late = [replace(sample, stamp_ns=sample.stamp_ns + 3600 * SECOND) for sample in good]
    assert not any(carried(late)), "another clock"
    shuffled = [good[n] for n in np.random.default_rng(1).permutation(len(good))]
    assert sum(carried(shuffled)) < 10, "out of order: most are refused"
    degrees = carried([replace(sample, turn_rate=60 * sample.turn_rate) for sample in good])
    assert not any(degrees[20:]), "it contradicts odometry"


def test_better_odometry_keeps_its_own_turns():
    """As its covariance says; and standing odometry is not turned by the bias of a gyro."""
    exact, rough = np.diag([1e-6] * 3 + [1e-10] * 3), np.diag([1e-6] * 3 + [1e-4] * 3)
    for covariance, by_gyro in ((exact, False), (rough, True)):
        case = drive(5, seconds=3)
        case.odometry = [
            OdometrySample(o.stamp_ns, o.odom_from_base, covariance) for o in case.odometry
        ]
        motion, _ = run(case, fix_every=5, gyro=gyro_of(turned(case)))
        assert motion.at(START + 2 * SECOND).by_gyro is by_gyro
    case = drive(6, seconds=8)
    motion = MotionFilter(INDEPENDENT, gyro_of(turned(case)))
    motion.initialize(case.fix(START))
    for sample in case.odometry:
        motion.add_odometry(OdometrySample(sample.stamp_ns, Transform()))
    start, end = motion.at(START), motion.at(START + 8 * SECOND)
    assert end.map_from_base.distance_to(start.map_from_base)[1] == pytest.approx(0, abs=1e-6)


def test_the_scale_and_bias_of_odometry_are_learned():
    case = drive(7)
    motion, _ = run(case, fix_every=5)
    end = motion.at(case.odometry[-1].stamp_ns)
    rng = np.random.default_rng(7)
    scale = rng.normal(0, INDEPENDENT.odometry_scale)
    bias = rng.normal(0, INDEPENDENT.odometry_yaw_bias)
    sigma = np.sqrt(np.diag(end.covariance))
    assert sigma[6] < INDEPENDENT.odometry_scale / 5
    assert abs(end.scale - scale) < 4 * sigma[6]
    assert abs(end.yaw_bias - bias) < 4 * sigma[7]


def test_a_late_fix_is_fused_at_its_stamp_as_if_it_had_been_in_time():
    case = drive(3, seconds=10)
    fixes = [case.fix(START + tenth * TENTH) for tenth in range(0, 100, 10)]
    in_time, late = MotionFilter(INDEPENDENT), MotionFilter(INDEPENDENT)
    for motion in (in_time, late):
        for sample in case.odometry:
            motion.add_odometry(sample)
        motion.initialize(fixes[0])
    for fix in fixes[1:]:
        in_time.update(fix)
    for fix in [*fixes[1:5], *fixes[6:], fixes[5]]:
        late.update(fix)
    end = case.odometry[-1].stamp_ns
    np.testing.assert_allclose(
        late.at(end).map_from_base.matrix(), in_time.at(end).map_from_base.matrix(), atol=1e-9
    )
    np.testing.assert_allclose(late.at(end).covariance, in_time.at(end).covariance, atol=1e-12)


def test_a_wrong_fix_is_gated_and_changes_nothing():
    case = drive(1, seconds=10)
    motion, _ = run(case, fix_every=5)
    stamp = case.odometry[-1].stamp_ns
    before = motion.at(stamp)
    right = case.fix(stamp)
    elsewhere = Transform(
        right.map_from_base.rotation, right.map_from_base.translation + np.array([8.0, 0, 0])
    )
    innovation = motion.update(Fix(stamp, elsewhere, right.covariance))
    assert not innovation.accepted
    assert innovation.squared > 100
    assert motion.at(stamp) == before


def test_a_fix_of_a_place_that_is_worse_than_told_counts_less():
    """Many times as far off as it and what came before say, and still within the gate."""

    def after(sigmas: float) -> tuple[float, MotionState]:
        case = drive(0, seconds=2)
        motion, sure = MotionFilter(INDEPENDENT), np.diag(FIX_SIGMA**2)
        motion.initialize(Fix(START, case.truth[START], sure))
        for sample in case.odometry:
            motion.add_odometry(sample)
        stamp = START + 10 * TENTH
        before = motion.at(stamp).map_from_base
        off = sigmas * np.array([0.0, 0.0, FIX_SIGMA[2], 0.0, 0.0, 0.0])
        assert motion.update(Fix(stamp, disturb(before, off), sure)).accepted
        state = motion.at(stamp)
        moved = float(difference(state.map_from_base, before)[2])
        return (moved / off[2] if sigmas else 0.0), state

    near, far = after(2.0), after(6.0)
    assert far[0] < 0.8 * near[0]  # a filter of Gaussian noise moves the same share
    agreeing = np.sqrt(np.diag(after(0.0)[1].pose_covariance)[:3])
    doubtful = np.sqrt(np.diag(far[1].pose_covariance)[:3])
    assert (doubtful > 1.1 * agreeing).all()  # and is as sure


def test_successive_fixes_on_the_same_points_do_not_make_sure():
    """Ten fixes in one second with errors alike over half a second weigh like two."""
    sigma = {}
    for correlation in (0.0, 0.5):
        case = drive(2, seconds=3)
        motion = MotionFilter(MotionOptions(fix_correlation=correlation, odometry_scale=0.0))
        for sample in case.odometry:
            motion.add_odometry(sample)
        motion.initialize(case.fix(START))
        for tenth in range(1, 11):
            motion.update(case.fix(START + tenth * TENTH))
        covariance = motion.at(START + SECOND).pose_covariance
        sigma[correlation] = np.sqrt(np.trace(covariance[:3, :3]))
    assert sigma[0.5] > 1.5 * sigma[0.0]


def test_between_and_just_beyond_the_samples_odometry_is_known():
    case = drive(5, seconds=5)
    motion, _ = run(case, fix_every=5)
    end = case.odometry[-1].stamp_ns
    speed = 5.0
    ahead = motion.at(end + TENTH).map_from_base.distance_to(motion.at(end).map_from_base)[0]
    assert ahead == pytest.approx(speed * 0.1, rel=0.2)


@pytest.mark.parametrize("pause", [15, 30, 3600])
def test_over_a_pause_the_pose_is_carried_as_odometry_goes_on(pause: int):
    """However long: nothing came, and what is in front of the pause is not forgotten too soon."""
    case = drive(5, seconds=8)
    motion = MotionFilter(MotionOptions(odometry_yaw_bias=0.0))
    before, after = case.odometry[:40], case.odometry[40:]
    for sample in before:
        motion.add_odometry(sample)
    motion.initialize(case.fix(START + 37 * TENTH))
    start = motion.at(before[-1].stamp_ns)
    for sample in after:
        motion.add_odometry(replace(sample, stamp_ns=sample.stamp_ns + pause * SECOND))
    end = motion.at(after[-1].stamp_ns + pause * SECOND)
    moved = before[-1].odom_from_base.inverse() @ after[-1].odom_from_base
    assert end.map_from_base.distance_to(start.map_from_base @ moved) == pytest.approx((0, 0))


def test_what_is_not_known_is_refused():
    motion = MotionFilter()
    with pytest.raises(ExtrapolationError, match="no pose is known"):
        motion.at(START)
    case = drive(5, seconds=1)
    motion.initialize(case.fix(START + 5 * TENTH))
    with pytest.raises(ExtrapolationError, match="no odometry"):
        motion.at(START + SECOND)
    for sample in case.odometry:
        assert motion.add_odometry(sample)
        assert not motion.add_odometry(sample), "a repeated sample is refused"
    with pytest.raises(ExtrapolationError, match="no pose is known at the time"):
        motion.at(START)
    with pytest.raises(ExtrapolationError, match=r"ends 2\.000 s before"):
        motion.at(START + 3 * SECOND)
    motion.forget()
    assert not motion.initialized


def test_the_history_is_bounded():
    case = drive(4, seconds=25)
    motion, _ = run(case, fix_every=2)
    with pytest.raises(ExtrapolationError):
        motion.update(case.fix(START + 5 * SECOND))
    assert len(motion._states) <= 52
    assert len(motion._fixes) <= 52
