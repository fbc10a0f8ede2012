"""A whole query set localized into a folder, resumable after any interruption.

The folder holds `estimates.csv` (see `kapture_ros.evaluation.estimates`), the accepted
poses as a kapture dataset and in the text format of visuallocalization.net, the pairs that
were retrieved, and with `matches` what is needed to draw each query.
"""

from __future__ import annotations

import csv
import dataclasses
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml
from tqdm import tqdm

from kapture_ros.dataset.tables import FORMAT_LINE, TRAJECTORY_TABLE, pose_row
from kapture_ros.errors import OptionError, OutputError
from kapture_ros.evaluation.estimates import (
    COLUMNS,
    FILE_NAME,
    PAIRS_FILE_NAME,
    EstimateRow,
    MatchedPair,
    matches_path,
    read_estimates,
    write_matches,
)
from kapture_ros.files import remove_folder, write_atomically
from kapture_ros.localization.drives import localize_drives
from kapture_ros.localization.localizer import Localizer
from kapture_ros.localization.options import BatchOptions
from kapture_ros.localization.query import Estimate, Query, Reason
from kapture_ros.localization.query_set import QueryInfo, QuerySet
from kapture_ros.mapping.manifest import require_metric
from kapture_ros.mapping.visual_map import VisualMap
from kapture_ros.options import load_yaml

PAIRS_HEADER = "# query_image, map_image, score"
COARSE = "COARSE"  # the reason of poses from retrieval alone
LTVL = "visuallocalization.txt"
SETTINGS = "localize.yaml"
COPIED = ("sensors.txt", "rigs.txt", "records_camera.txt")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a query set: queries by reason, and the median of the total time."""

    counts: dict[str, int]
    median_ms: float

    def __str__(self) -> str:
        total = sum(self.counts.values())
        accepted = self.counts.get(Reason.ACCEPTED.name, 0)
        rest = ", ".join(
            f"{count} {name.lower().replace('_', ' ')}"
            for name, count in sorted(self.counts.items(), key=lambda item: -item[1])
            if name != Reason.ACCEPTED.name
        )
        text = f"{accepted} of {total} queries localized, {self.median_ms:.0f} ms each (median)"
        return f"{text}; {rest}" if rest else text


def localize_all(
    localizer: Localizer,
    queries: QuerySet,
    out: Path,
    options: BatchOptions,
    *,
    overwrite: bool = False,
) -> Outcome:
    """Localize every query that has no answer in the folder yet, then write the exports.

    Args:
        overwrite: begin anew where there is an earlier output (of this function: nothing
            else is ever removed).

    Raises:
        OptionError: if drives are to be localized coarsely.
        OutputError: if the folder holds something else, or answers of other settings.
        InputError: if the features of a query are damaged, or if the scale of the map is unknown
            and queries have lengths.
    """
    if options.sequence and options.pipeline != "global_map":
        raise OptionError("--sequence needs the pipeline 'global_map'")
    if options.sequence:
        require_metric(localizer.map.manifest, localizer.map.path, "motions")
    elif queries.have_lengths:
        mounted = "mountings of cameras (--no-rigs does without)"
        require_metric(localizer.map.manifest, localizer.map.path, mounted)
    if overwrite and (out / SETTINGS).is_file():
        remove_folder(out)
    _open_folder(out, localizer, options)
    done = _resume(out, queries)
    table = out / FILE_NAME
    with (
        table.open("a", encoding="utf-8", newline="") as rows,
        (out / PAIRS_FILE_NAME).open("a") as pairs,
    ):
        writer = csv.writer(rows, lineterminator="\n")
        for number, estimate in _answers(localizer, queries, done, options):
            info = queries.infos[number]
            pairs.writelines(_pair_rows(localizer.map, info, estimate))
            if options.matches:
                _write_matches(out, localizer.map, info, estimate)
            writer.writerow(_row(localizer.map, info, estimate, options).cells())
            rows.flush()
            pairs.flush()
    return _export(queries, out, options)


def _open_folder(out: Path, localizer: Localizer, options: BatchOptions) -> None:
    """A folder that is new, or was begun with the same map and settings."""
    settings = {
        "map_id": localizer.map.map_id,
        "options": dataclasses.asdict(localizer.options),
        "batch": dataclasses.asdict(options),
    }
    path = out / SETTINGS
    if path.is_file():
        if load_yaml(path) != yaml.safe_load(yaml.safe_dump(settings)):
            raise OutputError(
                f"{out} was begun with another map or other settings; choose another folder or "
                "pass --overwrite"
            )
        return
    if out.exists() and not (out.is_dir() and next(out.iterdir(), None) is None):
        raise OutputError(f"{out} exists already and is no output of this command")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot write {out}: {error.strerror}") from error
    write_atomically(path, yaml.safe_dump(settings, sort_keys=False))


def _resume(out: Path, queries: QuerySet) -> set[tuple[int, str]]:
    """The queries that are answered; what an interruption cut off is removed.

    Raises:
        OutputError: if queries of another dataset are.
    """
    table, pairs = out / FILE_NAME, out / PAIRS_FILE_NAME
    header = ",".join(COLUMNS)
    text = table.read_text(encoding="utf-8") if table.is_file() else ""
    whole = text[: text.rfind("\n") + 1] or header + "\n"
    write_atomically(table, whole)
    rows = read_estimates(table) if whole.count("\n") > 1 else []
    done = {(row.stamp_ns, row.query) for row in rows}
    infos = [info for info in queries.infos if (info.stamp_ns, info.name) in done]
    if len(infos) < len(done):
        raise OutputError(
            f"{out} holds answers to queries that {queries.dataset} does not have; choose another "
            "folder or pass --overwrite"
        )
    names = {image for info in infos for image in info.images}
    lines = pairs.read_text(encoding="utf-8").splitlines() if pairs.is_file() else []
    kept = [line for line in lines if line.split(", ")[0] in names and line.count(", ") == 2]
    write_atomically(pairs, "".join(f"{line}\n" for line in [FORMAT_LINE, PAIRS_HEADER, *kept]))
    return done


def _answers(
    localizer: Localizer, queries: QuerySet, done: set[tuple[int, str]], options: BatchOptions
) -> Iterator[tuple[int, Estimate]]:
    """Numbers and estimates of the queries that are not done."""
    numbers = {n for n, info in enumerate(queries.infos) if (info.stamp_ns, info.name) in done}
    if options.sequence:
        given = options.sequence_motion == "given"
        yield from localize_drives(localizer, queries, numbers, given_motion=given)
        return
    for number in tqdm(range(len(queries)), "localize", unit="query", disable=None):
        if number not in numbers:
            yield number, _answer(localizer, queries[number], options)


def _answer(localizer: Localizer, query: Query, options: BatchOptions) -> Estimate:
    if options.pipeline == "approximation":
        return localizer.localize_coarsely(query)
    return localizer.localize(query)


def _row(
    visual_map: VisualMap, info: QueryInfo, estimate: Estimate, options: BatchOptions
) -> EstimateRow:
    names = visual_map.image_names
    best = "" if estimate.best_image is None else names[estimate.best_image]
    pose, reason, accepted = estimate.map_from_base, estimate.reason.name, estimate.accepted
    if options.pipeline == "approximation" and estimate.coarse is not None:
        pose, reason, accepted = estimate.coarse.map_from_base, COARSE, True
    return EstimateRow(
        info.stamp_ns,
        info.name,
        accepted,
        reason,
        estimate.scores.inliers,
        0 if estimate.evidence.matches is None else len(estimate.evidence.matches),
        len(estimate.candidates),
        best,
        pose,
        estimate.covariance,
        estimate.latency_ms,
    )


def _pair_rows(visual_map: VisualMap, info: QueryInfo, estimate: Estimate) -> list[str]:
    """Retrieved pairs; of a rig it is not known which image found which, so there are none."""
    if len(info.images) > 1:
        return []
    names = visual_map.image_names
    return [f"{info.images[0]}, {names[c.image]}, {c.score:.6f}\n" for c in estimate.candidates]


def _write_matches(out: Path, visual_map: VisualMap, info: QueryInfo, estimate: Estimate) -> None:
    pair = matched_pair(visual_map, info, estimate)
    if pair is not None:
        write_matches(matches_path(out, info.stamp_ns, info.name), pair)


def matched_pair(visual_map: VisualMap, info: QueryInfo, estimate: Estimate) -> MatchedPair | None:
    """The matches with the best map image, of the query image that has most of them."""
    evidence = estimate.evidence
    if estimate.best_image is None or evidence.matches is None or evidence.inliers is None:
        return None
    shown = visual_map.features(estimate.best_image)
    place = {point: row for row, point in enumerate(shown.points.tolist())}
    rows = np.array([place.get(point, -1) for point in evidence.matches.point.tolist()])
    counts = [
        int(((evidence.matches.camera == view) & (rows >= 0)).sum())
        for view in range(len(evidence.views))
    ]
    view = int(np.argmax(counts))
    kept = (evidence.matches.camera == view) & (rows >= 0)
    return MatchedPair(
        info.images[evidence.views[view]],
        visual_map.image_names[estimate.best_image],
        evidence.matches.pixels[kept].astype(np.float32),
        shown.keypoints[rows[kept]],
        evidence.inliers[kept],
    )


def _export(queries: QuerySet, out: Path, options: BatchOptions) -> Outcome:
    """Trajectories in kapture and the benchmark's text, from the finished table."""
    rows = {(row.stamp_ns, row.query): row for row in read_estimates(out / FILE_NAME)}
    trajectory, lines = [], []
    for info in queries.infos:
        row = rows[info.stamp_ns, info.name]
        if not row.accepted or row.map_from_base is None:
            continue
        base_from_map = row.map_from_base.inverse()
        pose = ", ".join(pose_row(base_from_map))
        stamps = queries.stamps_of(info)
        trajectory += [f"{stamp_ns}, {info.device}, {pose}\n" for stamp_ns in stamps]
        for image, camera in zip(info.images, queries.cameras_of(info), strict=True):
            cam_from_map = pose_row(queries.cam_from_base(info, camera) @ base_from_map)
            lines.append(f"{_ltvl_name(image, camera, options)} {' '.join(cam_from_map)}\n")
    sensors_folder = out / "sensors"
    sensors_folder.mkdir(exist_ok=True)
    for name in COPIED:
        source = queries.dataset / "sensors" / name
        if source.is_file():
            shutil.copyfile(source, sensors_folder / name)
    write_atomically(out / TRAJECTORY_TABLE.path, TRAJECTORY_TABLE.header + "".join(trajectory))
    write_atomically(out / LTVL, "".join(lines))
    times = [row.latency_ms["total"] for row in rows.values()]
    return Outcome(dict(Counter(row.reason for row in rows.values())), float(np.median(times)))


def _ltvl_name(image: str, camera: str, options: BatchOptions) -> str:
    base = image.rsplit("/", 1)[-1]
    return {"path": image, "file": base, "camera": f"{camera}/{base}"}[options.ltvl_names]
