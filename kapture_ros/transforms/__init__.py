"""Rigid transforms in space and time: SE(3) and a tree of stamped frames."""

from kapture_ros.transforms.se3 import Transform, interpolate
from kapture_ros.transforms.tree import TransformTree

__all__ = ["Transform", "TransformTree", "interpolate"]
