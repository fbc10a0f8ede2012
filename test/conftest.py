"""What every test may use: the real data beside the repository, isolated ROS domains."""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import hypothesis
import pytest

# A loaded machine takes longer now and then: that is no fault of what is tested.
hypothesis.settings.register_profile(
    "patient", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("patient")

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real images and bags; the test is skipped where they are not at hand."""
    root = Path(os.environ.get("KAPTURE_ROS_TEST_DATA", REPOSITORY.parent / "shared" / "data"))
    if not root.is_dir():
        pytest.skip(f"real data not found at {root}; set KAPTURE_ROS_TEST_DATA")
    return root


@pytest.fixture(scope="session")
def shared_weights(shared_data: Path) -> Path:
    """NAVER's published checkpoints, for comparison only."""
    root = shared_data.parent / "weights"
    if not root.is_dir():
        pytest.skip(f"reference weights not found at {root}")
    return root


@pytest.fixture
def ros_environment() -> Iterator[dict[str, str]]:
    """Environment of a test's ROS processes: a domain of its own, on the loopback interface.

    Discovery is limited twice: by rmw, and by a Fast DDS profile, since Fast DDS itself
    listens on every interface otherwise.
    """
    profile = REPOSITORY / "config" / "fastdds_loopback.xml"
    with free_domain() as domain:
        yield os.environ | {
            "ROS_DOMAIN_ID": str(domain),
            "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
            "FASTRTPS_DEFAULT_PROFILES_FILE": str(profile),
            "FASTDDS_DEFAULT_PROFILES_FILE": str(profile),
            "RMW_IMPLEMENTATION": "rmw_fastrtps_cpp",
        }


@contextmanager
def free_domain() -> Iterator[int]:
    """A ROS domain that no other test of this machine has meanwhile.

    Whoever has it has a name in the kernel, which goes with the process.
    """
    for domain in random.SystemRandom().sample(range(1, 100), 99):
        with socket.socket(socket.AF_UNIX) as name:
            try:
                name.bind(f"\0kapture_ros_test_domain_{domain}")
            except OSError:
                continue
            yield domain
            return
    pytest.fail("99 tests with ROS processes are running on this machine")
