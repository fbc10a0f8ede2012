"""Is the localizer ever confidently wrong? Queries of other places, and of this one.

Every query is scored, accepted or not, by its image alone (no GNSS, no Wi-Fi); then the
thresholds of the localizer and a sweep of the number of inliers are applied to the scores. A
false accept is an accepted pose that is off by more than 5 m or 10°: of a query outside the
map, every accepted one.

    python benchmarks/false_accepts.py MAP --inside QUERY … --outside OTHER … --scores A.jsonl
    python benchmarks/false_accepts.py --merge A.jsonl B.jsonl --plot acceptance.png
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import matplotlib as mpl
import numpy as np
from tqdm import tqdm

from kapture_ros.localization.acceptance import judge, limits_by
from kapture_ros.localization.localizer import Localizer
from kapture_ros.localization.options import (
    AcceptanceOptions,
    AnswerOptions,
    LocalizerOptions,
    RetrievalOptions,
)
from kapture_ros.localization.query import Reason, Scores
from kapture_ros.localization.query_set import QuerySet
from kapture_ros.mapping.sessions import FeatureSource
from kapture_ros.mapping.visual_map import VisualMap

WRONG = (5.0, 10.0)  # metres, degrees
RIGHT = (0.25, 2.0)
IMAGES_ALONE = LocalizerOptions(
    retrieval=RetrievalOptions(gnss_gate=False, wifi_gate=False),
    answer=AnswerOptions(fuse_gnss=False),
)
SWEEP = (4, 6, 8, 10, 12, 15, 20, 25, 30, 40, 60, 100)


@dataclasses.dataclass
class Answer:
    """One query with its scores; error is infinite outside the map, scores None without pose.

    Attributes:
        clashing: whether the poses of the map may contradict each other.
    """

    query: str
    inside: bool
    scores: Scores | None
    metres: float
    degrees: float
    clashing: bool = False

    @property
    def wrong(self) -> bool:
        return self.metres > WRONG[0] or self.degrees > WRONG[1]

    @property
    def right(self) -> bool:
        return self.metres <= RIGHT[0] and self.degrees <= RIGHT[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("map", type=Path, nargs="?", help="a visual map")
    parser.add_argument("--inside", type=Path, nargs="*", default=[], help="datasets with truth")
    parser.add_argument("--outside", type=Path, nargs="*", default=[], help="of other places")
    parser.add_argument("--scores", type=Path, help="write the scores of all queries here")
    parser.add_argument("--merge", type=Path, nargs="*", default=[], help="scores of other maps")
    parser.add_argument("--plot", type=Path, help="draw the acceptance curve (png)")
    args = parser.parse_args()
    answers = []
    for path in args.merge:
        answers += [_from_json(json.loads(line)) for line in path.read_text().splitlines()]
    if args.map:
        with contextlib.ExitStack() as stack:
            out = stack.enter_context(args.scores.open("w")) if args.scores else None
            for answer in score_all(args):
                answers.append(answer)
                if out is not None:
                    out.write(json.dumps(dataclasses.asdict(answer)) + "\n")
                    out.flush()
    report(answers)
    if args.plot:
        plot(answers, args.plot)


def _from_json(values: dict) -> Answer:
    scores = values.pop("scores")
    return Answer(**values, scores=Scores(**scores) if scores else None)


def score_all(args: argparse.Namespace) -> Iterator[Answer]:
    visual_map = VisualMap.load(args.map)
    localizer = Localizer(visual_map, IMAGES_ALONE)
    clashing = visual_map.manifest.poses_may_clash
    for inside, datasets in ((True, args.inside), (False, args.outside)):
        for dataset in datasets:
            queries = QuerySet(dataset, FeatureSource(), visual_map.feature_types, rigs=False)
            for number, info in enumerate(tqdm(queries.infos, dataset.name)):
                estimate = localizer.localize(queries[number])
                error = (np.inf, np.inf)
                if estimate.map_from_base is not None and inside:
                    truth = queries.images.cam_from_map(number).inverse()
                    metres, radians = estimate.map_from_base.distance_to(truth)
                    error = (metres, float(np.degrees(radians)))
                scores = estimate.scores if estimate.map_from_base is not None else None
                yield Answer(f"{dataset.name}/{info.name}", inside, scores, *error, clashing)


def accepted(answer: Answer, options: AcceptanceOptions) -> bool:
    if answer.scores is None:
        return False
    limits = limits_by(answer.scores.seen, options, clashing=answer.clashing)
    return judge(answer.scores, limits)[0] is Reason.ACCEPTED


def report(answers: list[Answer]) -> None:
    inside = [a for a in answers if a.inside]
    outside = [a for a in answers if not a.inside]
    print(f"{len(inside)} queries inside the map, {len(outside)} outside")
    print(f"{'thresholds':34}{'right':>8}{'accepted':>10}{'wrong in':>10}{'wrong out':>10}")
    default = AcceptanceOptions()
    rows = {"default": default}
    for field in dataclasses.fields(AcceptanceOptions):
        loose = 0 if field.name.startswith("min") else np.inf
        if field.name == "min_inliers":
            loose = 4
        name = f"default without {field.name}"
        rows[name] = dataclasses.replace(default, **{field.name: loose})
    for count in SWEEP:
        rows[f"inliers ≥ {count} alone"] = only_inliers(count)
        rows[f"default, inliers ≥ {count}"] = dataclasses.replace(default, min_inliers=count)
    for name, options in rows.items():
        right, taken, wrong_in, wrong_out = count_all(answers, options)
        total = max(len(inside), 1)
        print(f"{name:34}{right / total:8.1%}{taken / total:10.1%}{wrong_in:10d}{wrong_out:10d}")
    worst = sorted(outside, key=lambda a: -(a.scores.inliers if a.scores else 0))[:5]
    print("most inliers outside:")
    for answer in worst:
        print(f"  {answer.query}: {answer.scores}")


def only_inliers(count: int) -> AcceptanceOptions:
    return AcceptanceOptions(
        min_inliers=count, min_ratio=0, min_seen=0, min_coverage=0, min_depth_spread=0,
        max_second=np.inf, max_position_sigma=np.inf, max_rotation_sigma=np.inf,
    )  # fmt: skip


def count_all(answers: list[Answer], options: AcceptanceOptions) -> tuple[int, int, int, int]:
    """Right and accepted inside, accepted inside, wrong inside, accepted outside."""
    taken = [a for a in answers if accepted(a, options)]
    return (
        sum(a.inside and a.right for a in taken),
        sum(a.inside for a in taken),
        sum(a.inside and a.wrong for a in taken),
        sum(not a.inside for a in taken),
    )


def plot(answers: list[Answer], path: Path) -> None:
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4))
    total = max(sum(a.inside for a in answers), 1)
    default = AcceptanceOptions()
    curves = {
        "inliers alone (4 to 1000)": [only_inliers(round(n)) for n in np.geomspace(4, 1000, 60)],
        "all tests, min_seen 0 to 0.6": [
            dataclasses.replace(default, min_seen=share) for share in np.linspace(0, 0.6, 61)
        ],
    }
    for name, sweep in curves.items():
        points = []
        for options in sweep:
            right, _, wrong_in, wrong_out = count_all(answers, options)
            points.append((wrong_in + wrong_out, right / total))
        axes.plot(*np.array(points).T, marker=".", label=name)
    right, _, wrong_in, wrong_out = count_all(answers, default)
    axes.plot(wrong_in + wrong_out, right / total, "k*", markersize=12, label="default")
    axes.set_xscale("symlog")
    axes.set_xlim(left=-0.2)
    axes.set_ylim(0, 1)
    axes.set_xlabel(f"false accepts (of {len(answers)} queries)")
    axes.set_ylabel(f"recall at ({RIGHT[0]:g} m, {RIGHT[1]:g}°)")
    axes.legend()
    axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=130)


if __name__ == "__main__":
    main()
