"""The simulated vehicle: where its sensors are and what its cameras are like."""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation

from kapture_ros.simulation.camera import OPTICAL_FROM_LINK, Camera
from kapture_ros.transforms.se3 import Transform

# Frames besides base_link: x, y, z in metres; axes as base_link's.
MOUNTS = {
    "imu_link": Transform(translation=np.array([0.45, 0.0, 0.38])),
    "gnss_link": Transform(translation=np.array([0.30, -0.20, 1.72])),
    "wifi_link": Transform(translation=np.array([0.10, 0.25, 1.65])),
}


def make_camera(name: str, width: int, height: int) -> Camera:
    """The front (slightly distorted), left (wide, plumb_bob) or right (fisheye) camera."""
    # name: position, yaw and pitch down in degrees, focal length / width, model, distortion
    position, yaw, pitch, focal, model, distortion = {
        "front": (
            (1.55, 0.0, 1.46),
            0.0,
            -2.0,
            0.68,
            "plumb_bob",
            (-0.055, 0.021, 3e-4, -2e-4, 0.0),
        ),
        "left": ((1.10, 0.62, 1.52), 68.0, 0.0, 0.56, "plumb_bob", (-0.24, 0.055, 5e-4, 3e-4, 0.0)),
        "right": (
            (1.10, -0.62, 1.52),
            -68.0,
            0.0,
            0.38,
            "equidistant",
            (0.02, -0.006, 0.0015, -2e-4),
        ),
    }[name]
    turned = Rotation.from_euler("ZYX", [yaw, pitch, 0.4], degrees=True)
    base_from_camera = Transform(turned * OPTICAL_FROM_LINK.inv(), np.array(position))
    centre = (0.5 * (width - 1) + 0.007 * width, 0.5 * (height - 1) - 0.005 * height)
    return Camera(name, width, height, focal * width, centre, model, distortion, base_from_camera)
