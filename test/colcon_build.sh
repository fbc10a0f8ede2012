#!/usr/bin/env bash
# Builds the tree with colcon over the ROS wheels of $VIRTUAL_ENV, as a robot's workspace
# would over its ROS installation, then runs what was installed: the command line, the
# messages and the recorder node.
set -euo pipefail

repository=$(cd "$(dirname "$0")/.." && pwd)
workspace=$repository/build/colcon
site=$("$VIRTUAL_ENV/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')

mkdir -p "$workspace/src"
ln -sfn "$repository" "$workspace/src/kapture_ros"
cd "$workspace"

export PATH=$VIRTUAL_ENV/bin:$PATH
export AMENT_PREFIX_PATH=$VIRTUAL_ENV CMAKE_PREFIX_PATH=$VIRTUAL_ENV
export LD_LIBRARY_PATH=$VIRTUAL_ENV/lib:$(printf '%s:' "$site"/ros_*.libs)
export _ROS_WHEELS_BOOTSTRAP_COMPLETE=1 # the wheels' start-up would restart Python

colcon --log-base log build --base-paths src \
  --cmake-args -G Ninja -DBUILD_TESTING=OFF -DCMAKE_BUILD_TYPE=Release \
  "-DPython3_EXECUTABLE=$VIRTUAL_ENV/bin/python" \
  "-DCMAKE_PROJECT_INCLUDE=$repository/cmake/wheel_paths.cmake"

set +u # colcon's setup script reads unset variables
# shellcheck disable=SC1091
source install/setup.sh
set -u

cd "$workspace/install"
python - <<'PYTHON'
"""What is imported is the installed tree, not the source tree."""
import pathlib, sys
import kapture_ros, kapture_ros.msg
installed = pathlib.Path.cwd()
for module in (kapture_ros, kapture_ros.msg):
    assert installed in pathlib.Path(module.__file__).parents, module.__file__
PYTHON
version=$(kapture_ros/lib/kapture_ros/kapture_ros --version)

# The node must come up, answer to its name and leave on an interrupt.
export ROS_DOMAIN_ID=$((RANDOM % 99 + 1)) ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST
export FASTRTPS_DEFAULT_PROFILES_FILE=$repository/config/fastdds_loopback.xml
recording=$(mktemp -d)
kapture_ros/lib/kapture_ros/recorder --ros-args -p "output:=$recording/drive" &
node=$!
trap 'kill -9 $node 2>/dev/null || true; rm -rf "$recording"' EXIT
python - <<'PYTHON'
"""Wait for the node to be discovered."""
import sys, time
import rclpy
rclpy.init()
observer = rclpy.create_node("observer")
end = time.monotonic() + 30
while "recorder" not in observer.get_node_names():
    if time.monotonic() > end:
        sys.exit("the recorder node did not appear within 30 s")
    rclpy.spin_once(observer, timeout_sec=0.1)
PYTHON
kill -INT $node
wait $node || { echo "the recorder node did not stop cleanly" >&2; exit 1; }
echo "colcon build: kapture_ros $version installed, its recorder node starts and stops"
