"""The colours of a map's points, from the images that observe them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from kapture_ros.mapping.feature_files import FeatureFolder
from kapture_ros.mapping.images import ImageTable
from kapture_ros.mapping.structure import Structure


def colored(
    structure: Structure, images: ImageTable, keypoints: FeatureFolder, files: Mapping[str, Path]
) -> Structure:
    """The structure with the mean colour of every point's observations.

    Images that are not at hand or cannot be read are passed over; a point that none of the
    others sees keeps the colour it has.
    """
    total = np.zeros((len(structure.xyz), 3))
    seen = np.zeros(len(structure.xyz))
    for row, name in enumerate(tqdm(images.names, "colours", disable=None)):
        part = slice(structure.offsets[row], structure.offsets[row + 1])
        if part.start == part.stop or name not in files or not files[name].is_file():
            continue
        picture = cv2.imread(str(files[name]), cv2.IMREAD_COLOR)
        if picture is None:
            continue
        xy = np.floor(keypoints.read(name)[structure.keypoints[part], :2]).astype(int)
        x = np.clip(xy[:, 0], 0, picture.shape[1] - 1)
        y = np.clip(xy[:, 1], 0, picture.shape[0] - 1)
        np.add.at(total, structure.points[part], picture[y, x, ::-1])
        np.add.at(seen, structure.points[part], 1)
    mean = (total / np.maximum(seen, 1)[:, None]).round().astype(np.uint8)
    return replace(structure, rgb=np.where(seen[:, None] > 0, mean, structure.rgb))
