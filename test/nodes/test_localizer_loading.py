"""The localizer loads beside its callbacks, which go on meanwhile, and loads all it will need."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="no rclpy: pip install -r requirements/ros-jazzy.txt")

import room_drive

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
        if len(loads) > 1:
            raise MemoryError("it is too large")
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
assert "it is too large" in node._failure

asked.clear()
autostart = executor.create_task(node.bring_up)
while len(loads) < 3:
    executor.spin_once(1)
ended = change.call_async(
    ChangeState.Request(transition=Transition(id=Transition.TRANSITION_UNCONFIGURED_SHUTDOWN))
)
executor.spin_until_future_complete(ended, 120)
assert ended.result().success
asked.set()
executor.spin_until_future_complete(autostart, 120)
assert autostart.done() and autostart.exception() is None, "shut down while it loaded"
rclpy.shutdown()
print("went on")
"""


def test_callbacks_go_on_while_a_map_loads(ros_environment: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=ros_environment, capture_output=True, text=True
    )
    assert done.stdout.strip() == "went on", done.stderr


FIRST_IMAGE = """
import sys
from pathlib import Path

import cv2
import rclpy

from kapture_ros.localization.query import Query, QueryImage
from kapture_ros.nodes.localizer_node import LocalizerNode

folder = Path(sys.argv[1])
rclpy.init()
node = LocalizerNode([rclpy.parameter.Parameter("map", value=str(folder / "map"))])
settings, localizer = node._load_configured()
there = set(sys.modules)
seen, name = localizer.map, localizer.map.image_names[0]
pixels = cv2.cvtColor(cv2.imread(str(next(folder.rglob(name)))), cv2.COLOR_BGR2RGB)
assert localizer.localize(Query(1, (QueryImage(seen.camera(0), pixels=pixels),))).accepted
print(*(module for module in set(sys.modules) - there if module.startswith("kapture_ros")))
"""


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a map and the images it was made of."""
    folder = tmp_path_factory.mktemp("room")
    room_drive.make_map(folder)
    return folder


def test_nothing_is_left_to_import_while_the_first_image_waits(
    ros_environment: dict[str, str], room: Path
) -> None:
    """Modules of machine code compile when they are imported: 6 s after an installation."""
    done = subprocess.run(
        [sys.executable, "-c", FIRST_IMAGE, str(room)],
        env=ros_environment,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr


ALWAYS_LOADING = """
import sys
from pathlib import Path

from rclpy.parameter import Parameter

from kapture_ros.nodes.localizer_node import LocalizerNode, run


class AlwaysLoading(LocalizerNode):
    def _load(self, map_dir, settings):
        super()._load(map_dir, settings)
        print("loads", flush=True)
        while True:
            super()._load(map_dir, settings)


sys.exit(run(lambda: AlwaysLoading([Parameter("map", value=sys.argv[1])])))
"""


def test_a_signal_ends_it_while_it_loads(ros_environment: dict[str, str], room: Path) -> None:
    """Python's end would end the thread that loads in the midst of machine code, which aborts."""
    with subprocess.Popen(
        [sys.executable, "-c", ALWAYS_LOADING, str(room / "map")],
        env=ros_environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "loads\n"
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=120)
    assert process.returncode == 0, told
