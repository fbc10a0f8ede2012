"""One or more drives become one dataset: images, features and records under one roof.

With several drives every sensor id and image name gets its session's name in front, so
that equal names and equal stamps of different drives stay apart.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from kapture_ros.dataset import sidecar
from kapture_ros.dataset.tables import (
    FORMAT_LINE,
    HEADERS,
    RECORDS_DATA,
    RIGS,
    RIGS_HEADER,
    SENSORS,
    SENSORS_HEADER,
    TABLES,
    TRAJECTORY_TABLE,
    number,
    pose_row,
)
from kapture_ros.errors import InputError, OutputError
from kapture_ros.features.images import read_image
from kapture_ros.files import write_atomically
from kapture_ros.mapping.feature_files import SUFFIXES, FeatureFolder, checked_name, feature_types
from kapture_ros.mapping.gnss import GnssFixes, map_from_rig, read_fixes
from kapture_ros.mapping.images import ImageTable, read_images
from kapture_ros.mapping.manifest import FeatureTypes
from kapture_ros.mapping.options import MapSettings
from kapture_ros.mapping.pose_report import drives_at, restarts

KEPT_RECORDS = ("gnss", "wifi", "bluetooth")
"""What a map keeps besides its images: priors for localization."""


@dataclass(frozen=True, slots=True)
class FeatureSource:
    """Where the features of a drive lie.

    Attributes:
        local: folder that holds `keypoints/` and `descriptors/` as NAVER ships them, or
            None: the dataset's own `reconstruction/`.
        global_: folder that holds `global_features/`, or None likewise.
        local_type, global_type: which type of the dataset's own; empty: the only one.
    """

    local: Path | None = None
    global_: Path | None = None
    local_type: str = ""
    global_type: str = ""

    @classmethod
    def of(cls, settings: MapSettings) -> FeatureSource:
        """As the settings say."""
        inputs = settings.inputs
        return cls(
            settings.local_features,
            settings.global_features,
            inputs.local_type,
            inputs.global_type,
        )

    def folders(self, dataset: Path) -> dict[str, FeatureFolder]:
        """The feature folders by kind.

        Raises:
            InputError: if features are missing or there are several types of a kind.
        """
        found = {}
        for kind in SUFFIXES:
            apart = self.global_ if kind == "global_features" else self.local
            if apart is not None:
                found[kind] = FeatureFolder.open(apart / kind, kind, apart.name)
                continue
            found[kind] = FeatureFolder.in_dataset(dataset, kind, self._type(dataset, kind))
        return found

    def _type(self, dataset: Path, kind: str) -> str:
        option = "global_type" if kind == "global_features" else "local_type"
        wanted: str = getattr(self, option)
        types = feature_types(dataset, kind)
        if not types:
            raise InputError(f"{dataset} has no {kind}: run `kapture_ros extract {dataset}`")
        if wanted and wanted not in types:
            raise InputError(f"{dataset} has no {kind} of type '{wanted}', only {', '.join(types)}")
        if not wanted and len(types) > 1:
            raise InputError(
                f"{dataset} has several types of {kind} ({', '.join(types)}): choose with "
                f"--{option.replace('_', '-')}"
            )
        return wanted or types[0]


@dataclass(frozen=True, slots=True, eq=False)
class Session:
    """One drive, ready to be merged: its names are those in the map.

    Attributes:
        prefix: in front of sensor ids (with a dot) and image names (with a slash); empty
            if the map is of this drive alone.
        originals: the names the images have in their dataset, in the order of the table.
        unreadable: images that are left out: no features, since their files are damaged or gone.
        restarts: stamps from which on its poses are of another frame than before.
    """

    name: str
    dataset: Path
    prefix: str
    images: ImageTable
    originals: tuple[str, ...]
    fixes: GnssFixes
    features: dict[str, FeatureFolder]
    unreadable: tuple[str, ...]
    restarts: tuple[int, ...] = ()

    @property
    def drives(self) -> npt.NDArray[np.int32]:
        """(N,) which drive of the session each image is of: each restart begins another."""
        return drives_at(self.images.stamps, self.restarts)

    @property
    def fixes_by_drive(self) -> tuple[GnssFixes, ...]:
        """The fixes of each of its drives."""
        of_drive = drives_at(self.fixes.stamps, self.restarts)
        return tuple(self.fixes.select(of_drive == n) for n in range(len(self.restarts) + 1))

    @property
    def left_out(self) -> str:
        """A sentence on the images that are left out; empty if none is."""
        if not self.unreadable:
            return ""
        return (
            f"{len(self.unreadable)} images of {self.dataset} cannot be read and are left out "
            f"(the first: {self.unreadable[0]})"
        )

    def sensor(self, sensor_id: str) -> str:
        """A sensor's id in the map."""
        return _join(self.prefix, ".", sensor_id)


def read_session(
    dataset: Path, name: str, source: FeatureSource, *, prefixed: bool, gnss_sigma: float
) -> Session:
    """Read a drive.

    Raises:
        InputError: if it is not a kapture dataset with images and features, or a name in it
            leads outside.
    """
    images = read_images(dataset)
    for image in images.names:
        checked_name(image)
    prefix = checked_name(name) if prefixed else ""
    features = source.folders(dataset)
    images, unreadable = _readable(dataset, images, features)
    for kind, folder in features.items():
        missing = [image for image in images.names if not folder.has(image)]
        if missing:
            raise InputError(
                f"{len(missing)} of {len(images)} images of {dataset} have no {kind} (the first: "
                f"{missing[0]}): run `kapture_ros extract {dataset}`"
            )
    fixes = read_fixes(dataset, gnss_sigma)
    first, last = int(images.stamps.min()), int(images.stamps.max())  # it may be a part of several
    return Session(
        name,
        dataset,
        prefix,
        _renamed(images, prefix),
        images.names,
        replace(fixes, sensors=tuple(_join(prefix, ".", sensor) for sensor in fixes.sensors)),
        features,
        unreadable,
        tuple(stamp for stamp in restarts(dataset) if first < stamp <= last),
    )


def _readable(
    dataset: Path, images: ImageTable, features: dict[str, FeatureFolder]
) -> tuple[ImageTable, tuple[str, ...]]:
    """The images but those that can have no features, and the names of these.

    Where no image file is there at all (features are enough), nothing is left out.
    """
    without = [n for n in images.names if not all(f.has(n) for f in features.values())]
    files = {name: dataset / RECORDS_DATA / name for name in images.names}
    if not without or not any(file.is_file() for file in files.values()):
        return images, ()
    unreadable = {name for name in without if not _can_be_read(files[name])}
    kept = [name not in unreadable for name in images.names]
    return images.select(np.array(kept)), tuple(sorted(unreadable))


def _can_be_read(file: Path) -> bool:
    try:
        read_image(file)
    except InputError:
        return False
    return True


def _join(prefix: str, separator: str, name: str) -> str:
    return f"{prefix}{separator}{name}" if prefix else name


def _renamed(images: ImageTable, prefix: str) -> ImageTable:
    def rename(sensor_id: str) -> str:
        return _join(prefix, ".", sensor_id)

    return replace(
        images,
        names=tuple(_join(prefix, "/", name) for name in images.names),
        cameras=tuple(replace(c, sensor_id=rename(c.sensor_id)) for c in images.cameras),
        frame_rigs=tuple(rename(rig) for rig in images.frame_rigs),
        rigs={
            rename(rig): {rename(sensor): pose for sensor, pose in sensors.items()}
            for rig, sensors in images.rigs.items()
        },
    )


def merged(tables: Sequence[ImageTable]) -> ImageTable:
    """One table of several, drive after drive."""
    cameras = np.cumsum([0] + [len(table.cameras) for table in tables])
    frames = np.cumsum([0] + [len(table.frame_rigs) for table in tables])
    return ImageTable(
        names=tuple(name for table in tables for name in table.names),
        cameras=tuple(camera for table in tables for camera in table.cameras),
        camera=np.concatenate(
            [table.camera + offset for table, offset in zip(tables, cameras, strict=False)]
        ).astype(np.int32),
        stamps=np.concatenate([table.stamps for table in tables]),
        frames=np.concatenate(
            [table.frames + offset for table, offset in zip(tables, frames, strict=False)]
        ).astype(np.int32),
        frame_rigs=tuple(rig for table in tables for rig in table.frame_rigs),
        poses=np.concatenate([table.poses for table in tables]),
        rigs={rig: sensors for table in tables for rig, sensors in table.rigs.items()},
    )


def same_types(sessions: Sequence[Session]) -> FeatureTypes:
    """The feature types of all drives.

    Raises:
        InputError: if drives differ, naming both.
    """
    first = sessions[0]
    for other in sessions[1:]:
        require_type(other, first.features, f"those of {first.dataset}")
    names = {kind: folder.type_name for kind, folder in first.features.items()}
    return FeatureTypes(**names)


def require_type(session: Session, wanted: dict[str, FeatureFolder], owner: str) -> None:
    """Refuse a drive whose features cannot be compared with others.

    Raises:
        InputError: naming both.
    """
    for kind, folder in session.features.items():
        ours = wanted[kind]
        if (folder.type_name, folder.values) != (ours.type_name, ours.values):
            raise InputError(
                f"the {kind} of {session.dataset} are of type '{folder.type_name}', {owner} of "
                f"type '{ours.type_name}': extract both with one setting"
            )


def image_files(sessions: Sequence[Session]) -> dict[str, Path]:
    """Where the image file of each image of the map lies, whether it is there or not."""
    return {
        name: session.dataset / RECORDS_DATA / original
        for session in sessions
        for name, original in zip(session.images.names, session.originals, strict=True)
    }


def link_features(sessions: Sequence[Session], map_dir: Path) -> dict[str, FeatureFolder]:
    """Bring the features of all drives into the map: hard links, or copies across disks.

    What is there already is left alone.

    Raises:
        OutputError: if they cannot be written.
    """
    folders = {}
    for kind, source in sessions[0].features.items():
        folders[kind] = FeatureFolder.create(map_dir, kind, source.type_name, source.values)
    for session in sessions:
        rows = zip(session.originals, session.images.names, strict=True)
        total = len(session.originals)
        for original, name in tqdm(rows, "collect features", total=total, disable=None):
            for kind, source in session.features.items():
                link(source.path(original), folders[kind].path(name))
    return folders


def link(source: Path, target: Path) -> None:
    """Hard-link a file, or copy it across disks; leave one that is there alone.

    Raises:
        OutputError: if it cannot be written.
    """
    if target.exists():
        return
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(source, target)
        except OSError:
            shutil.copyfile(source, target)
    except OSError as error:
        raise OutputError(f"cannot write {target}: {error.strerror}") from error


def copy_records(sources: Sequence[tuple[Path, str]], map_dir: Path) -> list[str]:
    """Bring the GNSS, Wi-Fi and Bluetooth records and their sidecars into a map.

    Args:
        sources: datasets with the prefix of their sensors in the map.

    Returns:
        Rows of sensors.txt of the sensors concerned.

    Raises:
        InputError: if a record is of a sensor that sensors.txt does not list.
        OutputError: if the map cannot be written.
    """
    sensors: dict[str, str] = {}
    for kind in KEPT_RECORDS:
        table = TABLES[kind]
        rows: list[str] = []
        for dataset, prefix in sources:
            listed = dict(_sensor_rows(dataset))
            for stamp, device, rest in _rows(dataset / table.path):
                if device not in listed:
                    raise InputError(f"{dataset}: sensor '{device}' is not in sensors.txt")
                name = _join(prefix, ".", device)
                rows.append(f"{stamp}, {name}, {rest}\n")
                if name not in sensors:
                    sensors[name] = f"{name}, {listed[device]}"
                    extra = dataset / sidecar.extra_path(device)
                    if extra.exists():
                        link(extra, map_dir / sidecar.extra_path(name))
        if rows:
            (map_dir / table.path).parent.mkdir(parents=True, exist_ok=True)
            write_atomically(map_dir / table.path, HEADERS[table.path] + "".join(rows))
    return [sensors[name] for name in sorted(sensors)]


def _rows(path: Path) -> Iterator[tuple[str, str, str]]:
    """Stamp, device and the rest of every row of a record file."""
    if not path.is_file():
        return
    for line in path.read_text(encoding="utf-8").splitlines():
        fields = line.split(",", 2)
        if len(fields) == 3 and not line.startswith("#"):
            yield fields[0].strip(), fields[1].strip(), fields[2].strip()


def _sensor_rows(dataset: Path) -> Iterator[tuple[str, str]]:
    """Sensor id and the rest of every row of sensors.txt."""
    for line in (dataset / SENSORS).read_text(encoding="utf-8").splitlines():
        sensor_id, _, rest = line.partition(",")
        if rest and not line.startswith("#"):
            yield sensor_id.strip(), rest.strip()


def write_images(map_dir: Path, images: ImageTable, other_sensors: Sequence[str]) -> None:
    """Write sensors.txt, rigs.txt, records_camera.txt and trajectories.txt of a map.

    Args:
        other_sensors: rows of sensors.txt of what is not a camera.

    Raises:
        OutputError: if they cannot be written.
    """
    (map_dir / SENSORS.parent).mkdir(parents=True, exist_ok=True)
    rows = [
        ", ".join(
            (camera.sensor_id, "", "camera", camera.model, str(camera.width), str(camera.height),
             *(number(value) for value in camera.params))
        )
        for camera in images.cameras
    ]  # fmt: skip
    _write_table(map_dir / SENSORS, [FORMAT_LINE, SENSORS_HEADER, *rows, *other_sensors])
    rig_rows = [
        ", ".join((rig, sensor_id, *pose_row(pose)))
        for rig, sensors in sorted(images.rigs.items())
        for sensor_id, pose in sorted(sensors.items())
    ]
    if rig_rows:
        _write_table(map_dir / RIGS, [FORMAT_LINE, RIGS_HEADER, *rig_rows])
    order = np.argsort(images.stamps, kind="stable")
    records = [
        f"{images.stamps[row]}, {images.cameras[images.camera[row]].sensor_id}, {images.names[row]}"
        for row in order
    ]
    header = HEADERS[TABLES["camera"].path]
    _write_table(map_dir / TABLES["camera"].path, [header.rstrip("\n"), *records])
    done: set[int] = set()
    poses = []
    for row in order.tolist():
        frame = int(images.frames[row])
        if frame in done or not images.posed[row]:
            continue
        done.add(frame)
        rig_from_map = map_from_rig(images, row).inverse()
        device = images.frame_rigs[frame]
        poses.append(", ".join((str(images.stamps[row]), device, *pose_row(rig_from_map))))
    header = HEADERS[TRAJECTORY_TABLE.path]
    _write_table(map_dir / TRAJECTORY_TABLE.path, [header.rstrip("\n"), *poses])


def _write_table(path: Path, lines: Sequence[str]) -> None:
    write_atomically(path, "\n".join(lines) + "\n")
