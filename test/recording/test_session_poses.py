"""Rigs and poses of a recording: from transforms, odometry, poses or GNSS."""

from __future__ import annotations

import numpy as np
import pytest
from bag_tools import START, STEP, image, make, pose_fields, transforms
from session_player import SECOND, Player, positions

from kapture_ros.recording.config import Extrinsic, RecordingOptions, urdf_transform
from kapture_ros.transforms import Transform

TURN = (0.5, -0.5, 0.5, -0.5)  # optical from body


def test_poses_are_interpolated_between_transforms_never_nearest() -> None:
    player = Player()
    player.tf(START, "base_link", "cam", (1, 0, 0.5), TURN, static=True)
    for index in range(4):
        player.tf(START + index * STEP, "odom", "base_link", (index, 0, 0))
        player.image(START + index * STEP + STEP // 4)
    recorded = player.finish()
    assert positions(recorded, "rig-base_link") == {
        0.25: [0.25, 0, 0], 1.25: [1.25, 0, 0], 2.25: [2.25, 0, 0],
    }  # fmt: skip
    assert player.topic("/cam/image_raw")["warned"]["no pose at that time"] == 1
    sensor_from_rig = recorded.rigs["rig-base_link", "cam.image_raw"].sensor_from_rig
    base_from_camera = Transform.from_quaternion(TURN, (1, 0, 0.5))
    assert sensor_from_rig.distance_to(base_from_camera.inverse())[0] < 1e-12


@pytest.mark.parametrize("chain", [["odom"], ["map", "odom"], ["earth", "map", "odom"]])
def test_any_parent_of_tf_can_be_the_world(chain: list[str]) -> None:
    player = Player()
    player.tf(START, "base_link", "cam", (0, 0, 0), static=True)
    for index in range(3):
        at = START + index * STEP
        for parent, child in zip(chain, [*chain[1:], "base_link"], strict=True):
            player.tf(at, parent, child, (index if child == "base_link" else 10, 0, 0))
        player.image(at)
    recorded = player.finish()
    world = "map" if "map" in chain else chain[0]
    assert player.session.summary()["world_frame"] == world
    offset = 10 * (len(chain) - chain.index(world) - 1)
    assert positions(recorded, "rig-base_link")[1] == [offset + 1, 0, 0]


def test_a_camera_moved_by_tf_itself_has_its_own_poses() -> None:
    player = Player()
    for index in range(3):
        player.tf(START + index * STEP, "world", "cam", (0, index, 0))
        player.image(START + index * STEP)
    recorded = player.finish()
    assert not recorded.rigs
    assert positions(recorded, "cam.image_raw") == {i: [0, i, 0] for i in range(3)}


def test_odometry_is_used_where_tf_does_not_reach() -> None:
    player = Player(
        extrinsics=(Extrinsic("base_link", "cam", urdf_transform((1, 0, 0), (0, 0, 0))),)
    )
    for index in range(3):
        player.odometry(START + index * STEP, 2.0 * index)
        player.tf(START + index * STEP, "base_link", "wheel", (index, 0, 0))
        player.image(START + index * STEP)
    recorded = player.finish()
    assert player.session.summary()["source"] == "/odom"
    assert positions(recorded, "rig-base_link")[1] == [2.0, 0, 0]
    assert ("rig-base_link", "cam.image_raw") in recorded.rigs


def test_the_source_can_be_chosen() -> None:
    player = Player(RecordingOptions(trajectory="/truth", pose_frame="cam"))
    for index in range(3):
        at = START + index * STEP
        player.tf(at, "odom", "cam", (index, 0, 0))
        pose = pose_fields("Pose", (1, 0, 0, 0), (-index, 0, 0), 2)
        player.play("/truth", make("geometry_msgs/PoseStamped", stamp=at, frame="map", pose=pose))
        player.image(at)
    assert positions(player.finish(), "cam.image_raw")[2] == [-2, 0, 0]


def test_gnss_alone_gives_positions_without_orientation() -> None:
    player = Player()
    player.fix(START, 48.0)
    player.image(START + 5 * STEP)
    player.fix(START + 10 * STEP, 48.0 + 10 / 111_200)
    recorded = player.finish()
    ((_, row),) = recorded.poses.items()
    assert not row.oriented
    east, north, _ = row.device_from_world.inverse().translation
    assert abs(east) < 1e-6 and north == pytest.approx(5, abs=0.02)
    assert player.session.summary()["datum"]["latitude"] == 48.0


def test_positions_that_a_receiver_does_not_vouch_for_are_no_poses() -> None:
    player = Player()
    no_fix = make("sensor_msgs/NavSatStatus", status=-1)
    for index in range(3):
        stale = make("sensor_msgs/NavSatFix", stamp=START + index * STEP, latitude=48.0,
                     longitude=8.0, altitude=1.0, status=no_fix)  # fmt: skip
        player.play("/fix", stale)
        player.image(START + index * STEP)
    assert not player.finish().poses
    assert len(player.to.records["fix"]) == 3, "what came is kept all the same"


def test_gnss_does_not_take_the_place_of_poses_that_come_a_little_later() -> None:
    player = Player()
    for index in range(40):
        at = START + index * STEP
        player.fix(at, 48.0)
        if index >= 10:
            player.tf(at, "odom", "cam", (index, 0, 0))
        player.image(at)
    player.finish()
    assert player.session.summary()["source"] == "tf"


def test_static_transforms_from_outside_the_window_count() -> None:
    player = Player()
    message = transforms([(START - 99 * SECOND, "base_link", "cam", (1, 0, 0, 0), (1, 0, 0))])
    player.session.prepare("/tf_static", message.__msgtype__, message)
    player.image(START)
    recorded = player.finish()
    assert ("rig-base_link", "cam.image_raw") in recorded.rigs
    assert not any(sensor_id.startswith("tf") for sensor_id in recorded.sensors)


def test_long_gaps_between_poses_are_not_interpolated() -> None:
    player = Player(RecordingOptions(max_gap_s=1.0))
    for at in (0, 30):
        player.tf(START + at * STEP, "odom", "cam", (at, 0, 0))
        player.image(START + at * STEP)
    player.image(START + 15 * STEP)
    assert sorted(positions(player.finish(), "cam.image_raw")) == [0, 30]


def test_what_waits_for_a_pose_is_answered_within_the_time_given() -> None:
    player = Player(RecordingOptions(wait_s=2.0, trajectory="tf"))
    for index in range(600):
        at = START + index * STEP
        player.image(at)
        assert player.session.poses.waiting <= 27  # 2 s and half a second at 10 Hz
    assert player.topic("/cam/image_raw")["warned"]["no pose source"] > 500


def test_poses_that_come_later_than_is_waited_for_are_told_so() -> None:
    player = Player(RecordingOptions(wait_s=2.0, trajectory="tf"))
    player.tf(START, "odom", "cam", (0, 0, 0))
    for index in range(60):
        player.image(START + index * STEP)
        if index >= 30:  # three seconds late
            at = START + (index - 30) * STEP
            message = transforms([(at, "odom", "cam", (1, 0, 0, 0), (index - 30, 0, 0))])
            player.play("/tf", message, START + index * STEP)
    player.finish()
    assert player.topic("/cam/image_raw")["warned"]["no pose came within 2 s ('wait_s')"] > 20


def test_a_missing_extrinsic_is_named_with_the_cure() -> None:
    player = Player()
    for index in range(3):
        player.odometry(START + index * STEP, index)
        player.image(START + index * STEP)
    player.finish()
    (reason,) = (r for r in player.topic("/cam/image_raw")["warned"] if "cam" in r and "frame" in r)
    assert "'extrinsics'" in reason


def test_frames_of_the_options_that_are_not_there_are_named() -> None:
    player = Player(RecordingOptions(world_frame="wrld", base_frame="bse"))
    player.tf(START, "base_link", "cam", (0, 0, 1), static=True)
    for index in range(3):
        player.tf(START + index * STEP, "odom", "base_link", (index, 0, 0))
        player.image(START + index * STEP)
    player.finish()
    (reason,) = (r for r in player.topic("/cam/image_raw")["warned"] if "frame" in r)
    assert reason == "no transform names the frame 'wrld', which 'world_frame' asks for"
    assert player.session.summary()["problems"] == {
        "'base_frame' asks for 'bse', which carries no sensor": 1
    }


def test_images_that_name_no_frame_are_told_so() -> None:
    player = Player()
    for index in range(3):
        player.tf(START + index * STEP, "odom", "base_link", (index, 0, 0))
        player.image(START + index * STEP, frame="")
    player.finish()
    told = "messages name no frame: give it as 'frame' under 'topics'"
    assert player.topic("/cam/image_raw")["warned"][told] == 3


def test_a_moving_frame_that_extrinsics_hold_still_is_told() -> None:
    still = (Extrinsic("odom", "base_link", urdf_transform((0, 0, 0), (0, 0, 0))),)
    player = Player(extrinsics=still)
    player.tf(START, "odom", "base_link", (1, 0, 0))
    told = "'base_link' is in /tf and under 'extrinsics'; the static one holds"
    assert player.session.summary()["problems"] == {told: 1}


def test_a_frame_with_two_parents_is_told() -> None:
    player = Player()
    for index in range(3):
        player.tf(START + index * STEP, "odom", "cam", (index, 0, 0))
        player.tf(START + index * STEP, "world", "cam", (99, index, 0))
        player.image(START + index * STEP)
    player.finish()
    told = "'cam' hangs on 'odom' and on 'world': poses are lost at each change"
    assert player.session.poses.problems == {told: 5}


def test_a_clock_that_jumps_back_mixes_no_poses() -> None:
    player = Player()
    for run in range(2):
        for index in range(30):
            at = START + index * STEP
            message = transforms([(at, "odom", "cam", (1, 0, 0, 0), (index, run * 100, 0))])
            received = START + (run * 40 + index) * STEP
            player.play("/tf", message, received)
            picture = image(np.zeros((4, 6), np.uint8), "mono8", at + run, "cam")
            player.play("/cam/image_raw", picture, received)
    recorded = player.finish()
    second_run = [row for (_, stamp), row in recorded.poses.items() if stamp % STEP == 1]
    assert len(second_run) == 29
    assert {round(row.device_from_world.translation[1], 9) for row in second_run} == {-100.0}
    assert player.session.summary()["problems"] == {"the clock of tf jumped back": 1}
    assert player.topic("/cam/image_raw")["clock_jumps_back"] == 1


# -- odometry that is started again ------------------------------------------------------------


def drives(second_m: float, pause: int, *, tf: bool, above: str = "") -> Player:
    """Odometry up to 29 m, then after a pause in steps from somewhere: 30 m more."""
    player = Player(
        extrinsics=(Extrinsic("base_link", "cam", urdf_transform((0, 0, 0), (0, 0, 0))),)
    )
    for run, start_m in enumerate((0.0, second_m)):
        for index in range(30):
            at = START + ((29 + pause) * run + index) * STEP
            if above:
                player.tf(at, above, "odom", (0, 100, 0))
            if tf:
                player.tf(at, "odom", "base_link", (start_m + index, 0, 0))
                player.tf(at, "base_link", "wheel", (0, 0, 0), (index % 2, 1 - index % 2, 0, 0))
            else:
                player.odometry(at, start_m + index)
            player.image(at + STEP // 2)
    return player


@pytest.mark.parametrize("tf", [True, False], ids=["tf", "topic"])
@pytest.mark.parametrize(
    ("second_m", "pause", "restarts"),
    [
        (0.0, 1, 1),  # a leap of 29 m within a tenth of a second
        (0.0, 600, 1),  # at its origin again a minute later
        (0.0, 15, 0),  # messages were lost, and it drove back: nothing tells
        (30.0, 1, 0),  # drove on
        (60.0, 600, 0),  # drove on while nothing was recorded
    ],
)
def test_odometry_that_is_started_again_makes_two_drives(tf, second_m, pause, restarts) -> None:
    player = drives(second_m, pause, tf=tf)
    recorded = player.finish()
    summary = player.session.summary()
    again = START + (29 + pause) * STEP
    assert summary["restarts"] == [again] * restarts
    assert [count for what, count in summary["problems"].items() if "anew" in what] == (
        [1] * restarts
    )
    found = {at: xyz[0] for at, xyz in positions(recorded, "rig-base_link").items()}
    first = {index + 0.5: index + 0.5 for index in range(29)}
    second = {29 + pause + at: second_m + x for at, x in first.items()}
    within_gap = {29.5: 29.0 + 0.5 * (second_m - 29.0) / pause} if pause * STEP <= 2e9 else {}
    expected = first | second | (within_gap if not restarts else {})
    assert found == pytest.approx(expected)


def test_of_two_sources_that_begin_anew_the_one_of_the_poses_is_told() -> None:
    player = drives(0.0, 600, tf=True)
    for run in range(2):
        player.odometry(START + 10 * 600 * STEP + run * 300 * STEP, 9.0 - 9.0 * run)
    player.finish()
    (told,) = player.session.summary()["problems"]
    assert told.startswith("tf: 'base_link' began anew")


@pytest.mark.parametrize("far", [1, 2])
def test_one_pose_that_is_far_away_begins_no_drive(far: int) -> None:
    """Of several, nothing tells that they are wrong."""
    player = Player()
    for index in range(20):
        x = 1000.0 if 10 <= index < 10 + far else 0.1 * index
        player.tf(START + index * STEP, "odom", "cam", (x, 0, 0))
        player.image(START + index * STEP + STEP // 2)
    recorded = player.finish()
    summary = player.session.summary()
    told = "tf: a pose of 'cam' is far from those around it"
    if far == 1:
        assert summary["restarts"] == []
        assert summary["problems"] == {told: 1}
        found = positions(recorded, "cam.image_raw")
        assert max(x for x, _, _ in found.values()) < 2.0
        assert {9.5, 10.5} == {n + 0.5 for n in range(19)} - set(found)
    else:
        assert len(summary["restarts"]) == 2


def test_a_transform_above_odometry_corrects_what_was_started_again() -> None:
    """No pose across the leap, but the frame of the poses is still the map's."""
    player = drives(0.0, 1, tf=True, above="map")
    recorded = player.finish()
    assert player.session.summary()["restarts"] == []
    assert 29.5 not in positions(recorded, "rig-base_link")


@pytest.mark.parametrize("tf", [True, False], ids=["tf", "topic"])
def test_poses_in_a_map_may_leap(tf: bool) -> None:
    player = Player()
    for index in range(20):
        at = START + index * STEP
        x = index if index < 10 else 0.0
        if tf:
            player.tf(at, "map", "cam", (x, 0, 0))
        else:
            pose = pose_fields("Pose", (1, 0, 0, 0), (x, 0, 0), 2)
            message = make("geometry_msgs/PoseStamped", stamp=at, frame="map", pose=pose)
            player.play("/amcl_pose", message)
        player.image(at)
    player.finish()
    assert player.session.summary()["restarts"] == []


def test_transforms_that_contradict_each_other_are_reported() -> None:
    player = Player()
    player.tf(START, "a", "b", (1, 0, 0), static=True)
    player.tf(START, "a", "b", (1, 0, 0), static=True)  # a repetition says nothing
    player.tf(START, "a", "b", (2, 0, 0), static=True)
    player.tf(START, "b", "a", (2, 0, 0), static=True)
    player.tf(START, "x", "b", (2, 0, 0))
    assert len(player.session.summary()["problems"]) == 3
