"""The localizer loads its map and networks beside its callbacks, which go on meanwhile."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytest.importorskip("rclpy", reason="no rclpy: pip install -r requirements/ros-jazzy.txt")

# Loading waits for a callback of the same executor: it would never come if loading held it up.
SCRIPT = """
import threading
from pathlib import Path

import rclpy
from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rclpy.executors import SingleThreadedExecutor

from kapture_ros.errors import InputError
from kapture_ros.nodes.localizer_node import LocalizerNode

asked, loads = threading.Event(), []


class Slow(LocalizerNode):
    def _load(self, map_dir, settings):
        loads.append(threading.current_thread() is not threading.main_thread())
        assert asked.wait(120), "callbacks were held up"
        raise InputError(f"{map_dir} is no map")


rclpy.init()
node = Slow([rclpy.parameter.Parameter("map", value="/nowhere")])
other = rclpy.create_node("other")
executor = SingleThreadedExecutor()
for each in (node, other):
    executor.add_node(each)
change = other.create_client(ChangeState, "/localizer/change_state")
state = other.create_client(GetState, "/localizer/get_state")
assert change.wait_for_service(120) and state.wait_for_service(120)
changed = change.call_async(
    ChangeState.Request(transition=Transition(id=Transition.TRANSITION_CONFIGURE))
)
while not loads:
    executor.spin_once(1)
answer = state.call_async(GetState.Request())
executor.spin_until_future_complete(answer, 120)
assert answer.result().current_state.id == State.PRIMARY_STATE_UNCONFIGURED
asked.set()
executor.spin_until_future_complete(changed, 120)
assert changed.result().success is False and loads == [True]

wrong = change.call_async(
    ChangeState.Request(transition=Transition(id=Transition.TRANSITION_ACTIVATE))
)
executor.spin_until_future_complete(wrong, 120)
assert wrong.result().success is False, "activated without a map"

autostart = executor.create_task(node.bring_up)
executor.spin_until_future_complete(autostart, 120)
assert loads == [True, True]
rclpy.shutdown()
print("went on")
"""


def test_callbacks_go_on_while_a_map_loads(ros_environment: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=ros_environment, capture_output=True, text=True
    )
    assert done.stdout.strip() == "went on", done.stderr
