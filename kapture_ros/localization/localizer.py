"""The localizer: one instant of one or more cameras becomes a pose in a map.

It reads like the method: extract, retrieve, match, solve, judge. Each step is a public
method, so that a sequence localizer can compose them in its own way.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
from scipy.spatial.transform import Rotation

from kapture_ros.errors import InputError
from kapture_ros.localization.acceptance import judge, limits_by, score
from kapture_ros.localization.ambiguity import support_elsewhere, twin_matches
from kapture_ros.localization.answering import Answering
from kapture_ros.localization.approximation import approximate_pose
from kapture_ros.localization.cameras import MountedCamera
from kapture_ros.localization.extractor import Extractor, StartedFeatures, there_already
from kapture_ros.localization.gpu_retrieval import GpuRetrieval, fits
from kapture_ros.localization.grouping import count_distinct
from kapture_ros.localization.map_drift import MapDrift
from kapture_ros.localization.map_error import UNMEASURED, MapError
from kapture_ros.localization.matching import ImageMatches, gather, offer
from kapture_ros.localization.options import AcceptanceOptions, LocalizerOptions
from kapture_ros.localization.pose import PoseSolution, find_pose, refine_inliers
from kapture_ros.localization.query import (
    Candidate,
    CoarsePose,
    Estimate,
    Evidence,
    Query,
    QueryImage,
    Reason,
    Rejected,
    Scores,
)
from kapture_ros.localization.refinement import PositionPrior, Priors
from kapture_ros.localization.retrieval import (
    Retriever,
    Rows,
    Shown,
    covisibility_clusters,
    gated_rows,
    retrieve,
    shown_points,
)
from kapture_ros.localization.views import (
    Candidates,
    Correspondences,
    Offers,
    Sight,
    View,
    check_pixels,
    refuse_other_features,
)
from kapture_ros.localization.visibility import in_images, seen_as_mapped
from kapture_ros.localization.wifi import WifiLocator
from kapture_ros.mapping.matching import chosen_device
from kapture_ros.mapping.visual_map import VisualMap
from kapture_ros.transforms.se3 import Array, Transform

log = logging.getLogger(__name__)

MAX_CLUSTERS = 3  # places solved for; more are as good as none
WELL = 3  # part of the error that is allowed: right matches are nearly all within it
SURE_TRACK = 3  # images that see a point which any other should see as well
SAME_VIEW = (0.9, 1.4)  # cosine between the rays, ratio of the distances, of such a view


class Localizer:
    """Answers queries in one map; holds the map and what was prepared from it.

    Args:
        extractor: makes features of images that come as pixels.
        retrievers: further searches by the type of global descriptor, beside the map's.

    Raises:
        InputError: if the extractor's features are not the map's, or the map is empty.
    """

    def __init__(
        self,
        visual_map: VisualMap,
        options: LocalizerOptions | None = None,
        extractor: Extractor | None = None,
        retrievers: Mapping[str, Retriever] | None = None,
    ):
        if len(visual_map) == 0 or len(visual_map.points) == 0:
            raise InputError(f"{visual_map.path} has no images with points: nothing to match with")
        if extractor is not None:
            refuse_other_features(extractor.types, visual_map.feature_types)
        if not visual_map.manifest.metric:
            log.warning(
                "%s: the scale of the map is unknown: poses, their errors and all limits are in "
                "its own unit, which odometry does not share",
                visual_map.path,
            )
        self.map = visual_map
        self.options = options or LocalizerOptions()
        self.extractor = extractor
        own: Retriever = visual_map.retrieval
        device = chosen_device(self.options.matching)
        if device.type == "cuda" and fits(visual_map.retrieval, device):
            own = GpuRetrieval(visual_map.retrieval, device)
        name = visual_map.feature_types.global_features
        self.retrievers: dict[str, Retriever] = {name: own, **(retrievers or {})}
        answer = self.options.answer
        self.map_error = MapError(visual_map, answer.map_sigma, answer.map_sigma_degrees)
        if self.map_error.assumed:
            log.info(
                "%s: how wrong the map is was not measured (`kapture_ros map measure`); "
                "%g m and %g° are assumed",
                visual_map.path,
                UNMEASURED[0],
                math.degrees(UNMEASURED[1]),
            )
        rate = visual_map.drift_rate
        self.drift = MapDrift.of(visual_map, rate) if rate > 0 else None
        self.wifi = WifiLocator(visual_map.wifi) if len(visual_map.wifi.positions) else None
        self._has_twins = len(visual_map.twins) > 0

    def localize(self, query: Query, among: Rows | None = None) -> Estimate:
        """The pose of one instant, or the reason why there is none; never raises.

        Args:
            among: rows of the map's images to look at, besides what gates leave; None: all.
        """
        run = Answering(query.stamp_ns)
        with run.guarded():
            sights, candidates = self._find_candidates(query, run, among)
            # What depends on the candidates is done while a GPU ends the keypoints.
            with run.stage("matching"):
                offers = self.prepare(candidates)
            with run.stage("extraction"):
                views = self.views(sights)
                run.answer = replace(run.answer, evidence=Evidence(_keypoints(query, views)))
            with run.stage("matching"):
                correspondences = self.match(views, offers)
            with run.stage("pose"):
                run.answer = self.answer(query, correspondences, run.answer)
        return run.finish()

    def localize_coarsely(self, query: Query) -> Estimate:
        """The coarse pose alone, never accepted; never raises."""
        run = Answering(query.stamp_ns)
        with run.guarded():
            self._find_candidates(query, run)
            run.reject(Reason.NO_POSE, "only a coarse pose was asked for")
        return run.finish()

    def _find_candidates(
        self, query: Query, run: Answering, among: Rows | None = None
    ) -> tuple[list[Sight], list[Candidates]]:
        """Usable images and, for each, the map images that it is matched with."""
        with run.stage("extraction"):
            sights = self.look(query, describe=True)
            for sight in sights:
                dict(sight.features.global_descriptors)  # waited for here rather than later
        with run.stage("retrieval"):
            candidates = self.retrieve(query, sights, among)
            coarse = self.approximate(sights, candidates)
            run.answer = replace(run.answer, candidates=_ranked(candidates), coarse=coarse)
        return sights, candidates

    def look(self, query: Query, describe: bool = False) -> list[Sight]:
        """The images that can be used; their features are begun with.

        Args:
            describe: begin with what retrieval needs; else it is made if somebody asks.

        Raises:
            Rejected: if there is none, with the first image's reason.
        """
        checked = [self._checked(image) for image in query.images]
        cameras = {n: found for n, found in enumerate(checked) if isinstance(found, MountedCamera)}
        problems = [found for found in checked if isinstance(found, Rejected)]
        if not cameras:
            raise problems[0] if problems else Rejected(Reason.BAD_INPUT, "the query has no image")
        features = self._start([query.images[number] for number in cameras], describe)
        return [
            Sight(number, camera, started)
            for (number, camera), started in zip(cameras.items(), features, strict=True)
        ]

    def views(self, sights: Sequence[Sight]) -> list[View]:
        """The images with their features, which are waited for.

        Raises:
            Rejected: if none has a keypoint.
        """
        views = [View(sight.number, sight.camera, sight.features.wait()) for sight in sights]
        if not any(view.sees for view in views):
            raise Rejected(Reason.NO_FEATURES, "nothing to see: no keypoint in any image")
        return views

    def extract(self, query: Query) -> list[View]:
        """The images that have keypoints.

        Raises:
            Rejected: if there is none, see `look` and `views`.
        """
        return [view for view in self.views(self.look(query)) if view.sees]

    def retrieve(
        self, query: Query, sights: Sequence[Sight], among: Rows | None = None
    ) -> list[Candidates]:
        """Map images for each image, `among` as `localize` takes it.

        Raises:
            Rejected: if there is none for any.
        """
        rows = self.allowed(query)
        if among is not None:
            rows = among if rows is None else np.intersect1d(rows, among)
        found = [
            retrieve(self.retrievers, s.features.global_descriptors, rows, self.options.retrieval)
            for s in sights
        ]
        if not any(found):
            raise Rejected(Reason.NO_CANDIDATES, "no image has a global descriptor to search with")
        return found

    def allowed(self, query: Query) -> Rows | None:
        """Rows of the map's images that GNSS, Wi-Fi and prior leave; None: all.

        Raises:
            Rejected: if they leave none.
        """
        return gated_rows(self.map, query, self.wifi, self.options.retrieval)

    def approximate(
        self, sights: Sequence[Sight], candidates: Sequence[Candidates]
    ) -> CoarsePose | None:
        """The coarse pose, from the image with the best candidate; None if switched off."""
        options = self.options.answer
        name = self.map.feature_types.global_features
        searched = [n for n, c in enumerate(candidates) if c]
        best = max(searched, key=lambda n: candidates[n][0].score)
        descriptor = sights[best].features.global_descriptors.get(name)
        if options.approximation == "none" or descriptor is None:
            return None
        chosen = candidates[best][: options.approximation_k]
        offset = sights[best].camera.cam_from_base
        return approximate_pose(self.map, chosen, descriptor, offset, options.approximation)

    def prepare(self, candidates: Sequence[Candidates]) -> Offers:
        """The candidates of all views, ready to be matched."""
        images = tuple(offer(self.map, found, self.options.matching) for found in candidates)
        return Offers(tuple(candidates), images, self.shown(candidates))

    def match(self, views: Sequence[View], offers: Offers) -> Correspondences:
        """2D-3D matches of all views with their candidates.

        Raises:
            Rejected: if too few keypoints have one.
        """
        started = [
            images.start(view.features) for view, images in zip(views, offers.images, strict=True)
        ]
        places = covisibility_clusters(offers.shown)  # a GPU matches meanwhile
        found = tuple(finish() for finish in started)
        self.require_matches(found)
        matches = gather(self.map, [view.features for view in views], found)
        return Correspondences(
            tuple(views), offers.candidates, found, matches, offers.shown, places
        )

    def shown(self, candidates: Sequence[Candidates]) -> Shown:
        """The points that the candidates of all views show."""
        return shown_points(self.map, [c.image for found in candidates for c in found])

    def require_matches(self, found: Sequence[ImageMatches]) -> None:
        """Go on only with enough keypoints that have a match.

        Raises:
            Rejected: if there are too few.
        """
        matched = sum(count_distinct(image.keypoint) for image in found)
        needed = self.options.answer.min_matches
        if matched < needed:
            text = f"{matched} keypoints match the map, {needed} needed"
            raise Rejected(Reason.TOO_FEW_MATCHES, text)

    def answer(self, query: Query, known: Correspondences, answer: Estimate) -> Estimate:
        """Pose, runner-up and verdict, added to what the answer holds already.

        Raises:
            Rejected: if no pose agrees with enough matches.
        """
        priors = self.priors(query)
        solution = self.solve(query, known, priors)
        if solution is None:
            text = f"no pose agrees with the {len(known.matches)} matches"
            raise Rejected(Reason.NO_POSE, text)
        matches, cameras = known.matches, known.cameras
        second = self._support_elsewhere(query, known, solution)
        scores = score(matches, cameras, solution, second, priors, query.prior)
        scores = self.expect(scores, known, solution)
        reason, text = judge(scores, self.limits(scores.seen))
        evidence = replace(
            answer.evidence,
            matches=matches,
            inliers=solution.inliers,
            views=tuple(view.number for view in known.views),
        )
        return replace(
            self.placed(answer, query, solution, cameras),
            reason=reason,
            reason_text=text,
            best_image=self._best_image(known, solution),
            scores=scores,
            evidence=evidence,
        )

    def placed(
        self,
        answer: Estimate,
        query: Query,
        solution: PoseSolution,
        cameras: Sequence[MountedCamera],
    ) -> Estimate:
        """An answer with a pose, of the base and of each image, and with how sure it is."""
        pose = solution.map_from_base
        of_map = self.map_covariance(pose, cameras, solution.covariance)
        return replace(
            answer,
            map_from_base=pose,
            covariance=solution.covariance + of_map,
            map_covariance=of_map,
            cams_from_map=tuple(i.cam_from_base @ pose.inverse() for i in query.images),
        )

    def limits(self, seen: float) -> AcceptanceOptions:
        """What a pose must show, of which `Scores.seen` is known."""
        clashing = self.map.manifest.poses_may_clash
        return limits_by(seen, self.options.acceptance, clashing=clashing)

    def map_covariance(
        self, map_from_base: Transform, cameras: Sequence[MountedCamera], own: Array
    ) -> Array:
        """(6, 6) of (δp, δθ): what the map itself is wrong by there, added to every pose's.

        Args:
            own: (6, 6), the pose's covariance if the map were exact.
        """
        center = map_from_base @ cameras[0].cam_from_base.inverse()
        return self.map_error.covariance(center.translation, own)

    def solve(self, query: Query, known: Correspondences, priors: Priors) -> PoseSolution | None:
        """The pose with most inliers among the places that the candidates show."""
        options = self.options.pose
        predicted = None if query.prior is None else query.prior.map_from_base
        places = self._places(known)
        sizes = np.bincount(places)
        chosen = np.argsort(-sizes, kind="stable")[: min(MAX_CLUSTERS, np.count_nonzero(sizes))]
        all_of_one = len(chosen) == 1
        parts = [known.matches if all_of_one else known.matches.select(places == p) for p in chosen]
        found = [
            find_pose(part, known.cameras, options, predicted, priors.gravity) for part in parts
        ]
        best = max((h for h in found if h), key=lambda h: h.count, default=None)
        if best is None:
            return None
        # Matches of the other places may agree as well.
        inliers = best.inliers if all_of_one else None
        pose = best.map_from_base
        matches, cameras = known.matches, known.cameras
        return refine_inliers(matches, cameras, pose, options, priors, inliers, self.drift)

    def _support_elsewhere(
        self, query: Query, known: Correspondences, solution: PoseSolution
    ) -> int:
        """Inliers of the best pose at another place, where GNSS, Wi-Fi and prior leave it."""
        matches, twins = known.matches, None
        if self._has_twins:
            agreeing = matches.select(solution.inliers)
            twins = twin_matches(self.map, agreeing, self.allowed(query))
        return support_elsewhere(matches, known.cameras, solution, self.options, twins)

    def expect(self, scores: Scores, known: Correspondences, solution: PoseSolution) -> Scores:
        """The scores with how much agrees well of what should be seen from a pose.

        Should be: a point of the candidates in an image, from about the direction and distance
        that the map saw it. A wrong pose has many such points around its few matches, and these
        are anywhere within the error that is allowed.
        """
        points, matches = self.map.points, known.matches
        rows = known.shown.points[points.track_length[known.shown.points] >= SURE_TRACK]
        cameras = [view.camera for view in known.views if view.sees]
        pose = solution.map_from_base
        rows = rows[seen_as_mapped(points, rows, pose.translation, *SAME_VIEW)]
        rows = rows[in_images(points.xyz[rows], cameras, pose)]
        well = solution.errors < self.options.pose.max_error / WELL
        expected = np.isin(matches.point, rows)
        keys = matches.keys
        return replace(
            scores,
            seen=float(np.isin(rows, matches.point[well]).mean()) if len(rows) else math.nan,
            expected=count_distinct(keys[expected]),
            agreeing=count_distinct(keys[expected & well]),
        )

    def priors(self, query: Query) -> Priors:
        """What is mixed into the pose: GNSS where the map has a datum, and gravity."""
        fix, datum = query.gnss, self.map.datum
        if fix is None or datum is None or not self.options.answer.fuse_gnss:
            return Priors(gravity=query.gravity)
        place = datum.map_from_geodetic(fix.latitude, fix.longitude, fix.altitude)[0]
        map_from_enu = Rotation.from_euler("z", -datum.yaw).as_matrix()
        covariance = map_from_enu @ fix.covariance @ map_from_enu.T
        return Priors(PositionPrior(place, covariance, fix.lever_arm), gravity=query.gravity)

    def _checked(self, image: QueryImage) -> MountedCamera | Rejected:
        """The camera of a usable image, or why it is not: the instant's others may do."""
        what = f"camera '{image.camera.sensor_id}'"
        try:
            if image.features is not None:
                refuse_other_features(image.features.types, self.map.feature_types)
            elif image.pixels is None:
                return Rejected(Reason.BAD_INPUT, f"{what}: no image")
            elif self.extractor is None:
                return Rejected(Reason.BAD_INPUT, f"{what}: images need an extractor")
            else:
                check_pixels(image.pixels, image.camera)
            return MountedCamera(image.camera, image.cam_from_base)
        except InputError as error:
            return Rejected(Reason.BAD_INPUT, str(error))
        except Rejected as problem:
            return problem

    def _start(self, images: Sequence[QueryImage], describe: bool) -> list[StartedFeatures]:
        """Given features, the others begun together (a GPU takes them as one batch)."""
        pixels = [i.pixels for i in images if i.features is None and i.pixels is not None]
        extractor = self.extractor
        started = iter(extractor.start(pixels, describe) if extractor and pixels else ())
        return [next(started) if i.features is None else there_already(i.features) for i in images]

    def _places(self, known: Correspondences) -> npt.NDArray[np.int64]:
        """The place (N,) of every match."""
        offsets = np.cumsum([0, *(len(found) for found in known.candidates)])
        return np.concatenate(
            [known.places[m.candidate + o] for m, o in zip(known.found, offsets[:-1], strict=True)]
        )

    def _best_image(self, known: Correspondences, solution: PoseSolution) -> int:
        """The candidate that shows most of the inliers' points."""
        agree = np.isin(known.shown.points, known.matches.point[solution.inliers])
        return known.shown.images[int(known.shown.shows[:, agree].sum(axis=1).argmax())]


def _keypoints(query: Query, views: Sequence[View]) -> tuple[npt.NDArray[np.float32], ...]:
    """Keypoints by image of the query; none where it was not usable."""
    empty = np.empty((0, 2), np.float32)
    by_number = {view.number: view.features.keypoints[:, :2] for view in views}
    return tuple(by_number.get(number, empty) for number in range(len(query.images)))


def _ranked(candidates: Sequence[Candidates]) -> Candidates:
    """The candidates of all views together, best first, each image once."""
    ranked = sorted((c for found in candidates for c in found), key=lambda c: -c.score)
    best: dict[int, Candidate] = {}
    for candidate in ranked:
        best.setdefault(candidate.image, candidate)
    return tuple(best.values())
