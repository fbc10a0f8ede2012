"""The image table as COLMAP's cameras, rigs, frames and images, and back.

Row r of the table is image r + 1, camera row c is camera c + 1; a frame is one instant of
a rig. kapture's camera models are COLMAP's; keypoints and camera parameters share the
pixel coordinates of the dataset, so nothing is shifted here.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pycolmap

from kapture_ros.errors import InputError
from kapture_ros.mapping.feature_files import FeatureFolder
from kapture_ros.mapping.images import Camera, ImageTable
from kapture_ros.mapping.structure import Structure
from kapture_ros.transforms.se3 import Array, Transform


def colmap_camera(camera: Camera, camera_id: int) -> pycolmap.Camera:
    """A COLMAP camera whose focal length is trusted."""
    return pycolmap.Camera(
        camera_id=camera_id,
        model=camera.model,
        width=camera.width,
        height=camera.height,
        params=list(camera.params),
        has_prior_focal_length=True,
    )


def rigid(transform: Transform) -> pycolmap.Rigid3d:
    """Our transform as COLMAP's."""
    xyzw = transform.rotation.as_quat()
    return pycolmap.Rigid3d(pycolmap.Rotation3d(xyzw), transform.translation)


def transform(pose: pycolmap.Rigid3d) -> Transform:
    """COLMAP's transform as ours."""
    return Transform.from_matrix(pose.matrix())


def new_reconstruction(images: ImageTable, keypoints: FeatureFolder) -> pycolmap.Reconstruction:
    """A reconstruction of all cameras, rigs, frames and images; posed frames are registered.

    A rig's origin becomes that of its first camera by name, as COLMAP wants.
    """
    model = pycolmap.Reconstruction()
    for row, camera in enumerate(images.cameras):
        model.add_camera(colmap_camera(camera, row + 1))
    reference = _add_rigs(model, images)
    frames = [pycolmap.Frame(frame_id=f + 1, rig_id=reference[rig][0])
              for f, rig in enumerate(images.frame_rigs)]  # fmt: skip
    for row in range(len(images)):
        frames[images.frames[row]].add_data_id(_data_id(images, row))
    for frame in frames:
        model.add_frame(frame)
    for row, name in enumerate(images.names):
        image = pycolmap.Image(
            name=name,
            keypoints=keypoints.read(name)[:, :2].astype(np.float64),
            camera_id=int(images.camera[row]) + 1,
            image_id=row + 1,
        )
        image.frame_id = int(images.frames[row]) + 1
        model.add_image(image)
    for row in np.flatnonzero(images.posed).tolist():
        frame = model.frame(int(images.frames[row]) + 1)
        if not frame.has_pose():
            frame.set_cam_from_world(int(images.camera[row]) + 1, rigid(images.cam_from_map(row)))
            model.register_frame(frame.frame_id)
    return model


def _add_rigs(model: pycolmap.Reconstruction, images: ImageTable) -> dict[str, tuple[int, str]]:
    """Add a rig for every rig and lone camera in use; returns rig id and reference sensor."""
    row_of = {camera.sensor_id: row for row, camera in enumerate(images.cameras)}
    used = {images.cameras[row].sensor_id for row in np.unique(images.camera)}
    reference: dict[str, tuple[int, str]] = {}
    for name in sorted(set(images.frame_rigs)):
        sensors = images.rigs.get(name, {name: Transform()})
        cameras = sorted(sensor_id for sensor_id in sensors if sensor_id in used)
        rig = pycolmap.Rig(rig_id=len(reference) + 1)
        rig.add_ref_sensor(_sensor(row_of[cameras[0]]))
        rig_from_reference = sensors[cameras[0]].inverse()
        for sensor_id in cameras[1:]:
            pose = rigid(sensors[sensor_id] @ rig_from_reference)
            rig.add_sensor(_sensor(row_of[sensor_id]), pose)
        model.add_rig(rig)
        reference[name] = rig.rig_id, cameras[0]
    return reference


def _sensor(camera_row: int) -> pycolmap.sensor_t:
    return pycolmap.sensor_t(type=pycolmap.SensorType.CAMERA, id=camera_row + 1)


def _data_id(images: ImageTable, row: int) -> pycolmap.data_t:
    return pycolmap.data_t(sensor_id=_sensor(int(images.camera[row])), id=row + 1)


def write_database(path: Path, model: pycolmap.Reconstruction, keypoints: FeatureFolder) -> None:
    """A new COLMAP database of a reconstruction's cameras, rigs, frames, images, keypoints."""
    path.unlink(missing_ok=True)
    with pycolmap.Database.open(path) as database, pycolmap.DatabaseTransaction(database):
        for camera in model.cameras.values():
            database.write_camera(camera, use_camera_id=True)
        for rig in model.rigs.values():
            database.write_rig(rig, use_rig_id=True)
        for frame in model.frames.values():
            database.write_frame(frame, use_frame_id=True)
        for image in model.images.values():
            database.write_image(image, use_image_id=True)
            rows = keypoints.read(image.name)[:, :2].astype(np.float32)
            database.write_keypoints(image.image_id, rows)


def poses_of(model: pycolmap.Reconstruction, images: ImageTable) -> Array:
    """cam_from_map (N, 7) of every image that the reconstruction has registered, else NaN."""
    poses = np.full((len(images), 7), np.nan)
    for image_id in model.reg_image_ids():
        pose = transform(model.image(image_id).cam_from_world())
        poses[image_id - 1] = [*pose.quaternion, *pose.translation]
    return poses


def with_results_of(model: pycolmap.Reconstruction, images: ImageTable) -> ImageTable:
    """The table with the reconstruction's poses, intrinsics and extrinsics."""
    cameras = tuple(
        replace(camera, params=tuple(float(p) for p in model.camera(row + 1).params))
        if model.exists_camera(row + 1)
        else camera
        for row, camera in enumerate(images.cameras)
    )
    row_of = {camera.sensor_id: row for row, camera in enumerate(images.cameras)}
    rigs = {name: dict(sensors) for name, sensors in images.rigs.items()}
    for frame in model.frames.values():
        name = images.frame_rigs[frame.frame_id - 1]
        if name in rigs:
            rigs[name] = _refined_rig(frame.rig, rigs[name], row_of)
    return replace(images, cameras=cameras, rigs=rigs, poses=poses_of(model, images))


def _refined_rig(
    rig: pycolmap.Rig, sensors: Mapping[str, Transform], row_of: Mapping[str, int]
) -> dict[str, Transform]:
    """sensor_from_rig after refinement; the reference camera keeps its place in the rig."""
    name_of = {row + 1: sensor_id for sensor_id, row in row_of.items()}
    refined = dict(sensors)
    reference_from_rig = sensors[name_of[rig.ref_sensor_id.id]]
    for sensor, sensor_from_reference in rig.non_ref_sensors.items():
        assert sensor_from_reference is not None  # `_add_rigs` gives every sensor its place
        refined[name_of[sensor.id]] = transform(sensor_from_reference) @ reference_from_rig
    return refined


def structure_of(model: pycolmap.Reconstruction, count: int) -> Structure:
    """The points and observations of a reconstruction of `count` images."""
    points = sorted(model.point3D_ids())
    lengths = [model.point3D(point).track.length() for point in points]
    observed: npt.NDArray[np.int32] = np.array(
        [
            (element.image_id - 1, element.point2D_idx)
            for point in points
            for element in model.point3D(point).track.elements
        ],
        np.int32,
    ).reshape(-1, 2)
    xyz = np.array([model.point3D(point).xyz for point in points]).reshape(-1, 3)
    rgb = np.array([model.point3D(point).color for point in points], np.uint8).reshape(-1, 3)
    rows = np.repeat(np.arange(len(points), dtype=np.int32), lengths)
    return Structure.from_rows(xyz, rgb, observed[:, 0], rows, observed[:, 1], count)


def add_structure(model: pycolmap.Reconstruction, structure: Structure) -> None:
    """Add known points with their observations to a reconstruction of the same images."""
    offsets, rows = structure.by_point()
    image_of = structure.images
    for point in range(len(structure.xyz)):
        track = pycolmap.Track()
        for row in rows[offsets[point] : offsets[point + 1]]:
            track.add_element(int(image_of[row]) + 1, int(structure.keypoints[row]))
        if track.length():
            model.add_point3D(structure.xyz[point], track, structure.rgb[point])


def require_points(model: pycolmap.Reconstruction, doing: str) -> None:
    """Refuse a reconstruction without points: no failure of COLMAP's is passed on silently.

    Raises:
        InputError: saying what was tried and what usually is the reason.
    """
    if model.num_points3D() == 0:
        raise InputError(
            f"{doing} gave no points: the camera did not move, the images do not overlap, the "
            "poses or the calibration are wrong, or the features do not match"
        )


def reference_from_rig(images: ImageTable, frame: pycolmap.Frame) -> Transform:
    """From our rig frame to COLMAP's, which is that of the rig's reference camera."""
    sensors = images.rigs.get(images.frame_rigs[frame.frame_id - 1], {})
    assert frame.rig is not None  # every frame of a reconstruction has one
    camera = images.cameras[frame.rig.ref_sensor_id.id - 1]
    return sensors.get(camera.sensor_id, Transform())


@contextlib.contextmanager
def quiet_colmap() -> Iterator[None]:
    """Let COLMAP log errors only: its progress is ours to show."""
    before = pycolmap.logging.minloglevel
    pycolmap.logging.minloglevel = pycolmap.logging.ERROR.value
    try:
        yield
    finally:
        pycolmap.logging.minloglevel = before
