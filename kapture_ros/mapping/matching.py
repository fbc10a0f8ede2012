"""Descriptors of image pairs to matches: mutual nearest neighbours, written as kapture matches.

One image is compared with all its partners in one product, on the CPU or a GPU.
"""

from __future__ import annotations

import logging
import os
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from tqdm import tqdm

from kapture_ros.errors import InputError, OptionError
from kapture_ros.mapping.feature_files import FeatureFolder, checked_name, unit_rows
from kapture_ros.mapping.images import ImageTable
from kapture_ros.mapping.options import MatchOptions
from kapture_ros.mapping.pairs import Pairs
from kapture_ros.workers import Workspace, shared_workers

BLOCK = 512  # rows of the similarity matrix at once: 512 × 2000 floats stay in the cache
CACHE_BYTES = 1 << 30

Floats = npt.NDArray[np.float32]
Matches = npt.NDArray[np.int32]
"""(m, 2) keypoints of the first and of the second image."""
Search = Callable[[Floats, Workspace], tuple[npt.NDArray[np.int64], Floats, Floats]]
"""As `search_by_floats` of one image, without the second nearest."""
log = logging.getLogger(__name__)


def mutual_matches(
    first: Floats, second: Floats, options: MatchOptions, scratch: Workspace | None = None
) -> tuple[Matches, Floats]:
    """Mutual nearest neighbours of unit descriptors (n, D) and (m, D).

    Args:
        scratch: memory to use again and again; the system takes long to give it anew.

    Returns:
        Matches (k, 2) and their cosine similarities (k,).
    """
    return _matcher(first, options)(second, scratch or Workspace())


def mutual_matches_with_each(
    first: Floats, others: Sequence[npt.NDArray[np.floating]], options: MatchOptions
) -> list[tuple[Matches, Floats]]:
    """As `mutual_matches` for one image against many of any precision, on all cores of the CPU."""
    found: dict[int, tuple[Matches, Floats]] = {}
    matcher = _matcher(first, options)

    def match(scratch: Workspace, index: int) -> None:
        found[index] = matcher(in_single(others[index]), scratch)

    shared_workers().run(match, range(len(others)))
    return [found[index] for index in range(len(others))]


def _matcher(
    first: Floats, options: MatchOptions
) -> Callable[[Floats, Workspace], tuple[Matches, Floats]]:
    """`mutual_matches` of one image with others; what is the same for all of them is done here."""
    eight_bit = len(first) and first.shape[1] > 1 and options.ratio is None
    begin = eight_bit_search() if eight_bit else None
    search = begin and begin(first)

    def match(second: Floats, scratch: Workspace) -> tuple[Matches, Floats]:
        if len(first) == 0 or len(second) == 0:
            return np.empty((0, 2), np.int32), np.empty(0, np.float32)
        if search:
            nearest, best, best_of_second = search(second, scratch)
            runner_up = best  # no ratio asks for it
        else:
            nearest, best, best_of_second, runner_up = search_by_floats(
                first, second, options, scratch
            )
        good = (best >= best_of_second[nearest]) & _acceptable(best, runner_up, options)
        rows = np.flatnonzero(good)
        return np.stack([rows, nearest[rows]], axis=1).astype(np.int32), best[rows]

    return match


@cache
def eight_bit_search() -> Callable[[Floats], Search] | None:
    """How to find the same matches in a fraction of the time, where this machine can.

    The first call after an installation compiles for seconds: not for who waits for an image.
    """
    # With AVX2 it is 1.7 times as fast, with AVX-512 and VNNI 2.7 times; elsewhere not measured.
    if torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"):
        return None
    try:
        from kapture_ros.mapping.eight_bit import multiply, search_among

        multiply(*(np.zeros((2, 2), kind) for kind in (np.int8, np.int8, np.int32)))
    except (ImportError, AttributeError, RuntimeError) as error:
        log.info("matching by products of single precision: %s", error)
        return None
    return search_among


def search_by_floats(
    first: Floats, second: Floats, options: MatchOptions, scratch: Workspace
) -> tuple[npt.NDArray[np.int64], Floats, Floats, Floats]:
    """Nearest neighbours of n descriptors among m others, any of which may be read-only.

    Returns:
        The nearest of each of the first (n,), its similarity (n,), that of the nearest of each of
        the second (m,), and that of the second nearest of each of the first (n,), -1 if there is
        none or no ratio is asked for.
    """
    nearest = np.empty(len(first), np.int64)
    best = np.empty(len(first), np.float32)
    runner_up = np.full(len(first), -1.0, np.float32)
    best_of_second = np.full(len(second), -np.inf, np.float32)
    known = torch.from_numpy(second).T
    block = scratch.take("similarity", min(BLOCK, len(first)), len(second))
    for start in range(0, len(first), BLOCK):
        part = slice(start, min(start + BLOCK, len(first)))
        similarity = block[: part.stop - start]
        torch.mm(torch.from_numpy(first[part]), known, out=torch.from_numpy(similarity))
        rows = np.arange(len(similarity))
        nearest[part] = similarity.argmax(axis=1)
        best[part] = similarity[rows, nearest[part]]
        # The maximum alone: finding its row too would cost as much as the product.
        np.maximum(best_of_second, similarity.max(axis=0), out=best_of_second)
        if options.ratio is not None and len(second) > 1:
            similarity[rows, nearest[part]] = -np.inf
            runner_up[part] = similarity.max(axis=1)
    return nearest, best, best_of_second, runner_up


def in_single(descriptors: npt.NDArray[np.floating]) -> Floats:
    """Half to single precision by torch, which has the processor's instruction for it."""
    if descriptors.dtype == np.float32:
        return np.asarray(descriptors, np.float32)
    # Copied: torch refuses the read-only pages of the map.
    single: Floats = torch.from_numpy(np.array(descriptors)).float().numpy()
    return single


def _acceptable(best: Any, runner_up: Any, options: MatchOptions) -> Any:
    """Which similarities pass the options: arrays or tensors."""
    good = best >= options.min_similarity
    if options.ratio is not None:
        # |a - b|² = 2 - 2 a·b for unit vectors.
        good &= (1.0 - best) <= options.ratio**2 * (1.0 - runner_up).clip(0.0)
    return good


class JointMatches(NamedTuple):
    """Matches of one image with several others: M rows, by other image, then by keypoint.

    Attributes:
        other: (M,) which of the others.
        keypoint: (M,) of the one image.
        partner: (M,) keypoints of the other.
        similarity: (M,) cosines.
    """

    other: npt.NDArray[np.intp]
    keypoint: npt.NDArray[np.intp]
    partner: npt.NDArray[np.intp]
    similarity: Floats

    @classmethod
    def join(cls, found: Sequence[tuple[Matches, Floats]]) -> JointMatches:
        """From those with each of the others."""
        nothing = np.empty((0, 2), np.int32), np.empty(0, np.float32)
        matches, values = zip(nothing, *found, strict=True)
        other = np.repeat(np.arange(len(found)), [len(pairs) for pairs in matches[1:]])
        keypoint, partner = np.concatenate(matches).astype(np.intp).T
        return cls(other, keypoint, partner, np.concatenate(values))

    def split(self, count: int) -> list[tuple[Matches, Floats]]:
        """Into those with each of `count` others."""
        ends = np.searchsorted(self.other, np.arange(1, count))
        matches = np.stack([self.keypoint, self.partner], axis=1).astype(np.int32)
        parts = np.split(matches, ends), np.split(self.similarity, ends)
        return list(zip(*parts, strict=True))


def mutual_matches_on_gpu(
    first: torch.Tensor, others: Sequence[torch.Tensor], options: MatchOptions
) -> list[tuple[Matches, Floats]]:
    """As `mutual_matches` for one image against many, in one product on the GPU."""
    known = torch.nn.utils.rnn.pad_sequence(list(others), batch_first=True)
    beyond = padding([len(other) for other in others], known)
    return start_padded(first, known, beyond, options)().split(len(others))


def padding(widths: Sequence[int], known: torch.Tensor) -> torch.Tensor:
    """Which rows (count, width) of padded images (count, width, D) lie beyond an image's own."""
    ends = torch.tensor(widths, device=known.device)
    return torch.arange(known.shape[1], device=known.device) >= ends[:, None]


def start_padded(
    first: torch.Tensor, known: torch.Tensor, beyond: torch.Tensor, options: MatchOptions
) -> Callable[[], JointMatches]:
    """Begin `mutual_matches_on_gpu`, the other images padded to one width.

    A few large steps instead of a few for each image, and one transfer.

    Args:
        known: (count, width, D).
        beyond: (count, width) bool, see `padding`; what is there is never looked at.

    Returns:
        What waits for the GPU and gives the matches.
    """
    count, width, _ = known.shape
    similarity = (first @ known.flatten(0, 1).T).view(len(first), count, width)
    similarity.masked_fill_(beyond, -1.0)
    best, nearest = similarity.max(dim=2)
    good = best >= similarity.amax(dim=0).gather(1, nearest.T).T
    best, runner_up = best.float(), best
    if options.ratio is not None:
        runner_up = similarity.scatter_(2, nearest[..., None], -1.0).amax(dim=2).float()
    good &= _acceptable(best, runner_up, options)
    # All of it, since choosing there would wait for the GPU once more. Whole numbers are exact
    # in single precision up to 16 million.
    packed = torch.stack([torch.where(good, nearest.float(), -1.0).T, best.T])

    def finish() -> JointMatches:
        partner, values = packed.cpu().numpy().reshape(2, -1)
        rows = np.flatnonzero(partner >= 0)
        other, keypoint = np.divmod(rows, len(first))
        return JointMatches(other, keypoint, partner[rows].astype(np.intp), values[rows])

    return finish


def chosen_device(options: MatchOptions) -> torch.device:
    """The device that matching runs on.

    Raises:
        OptionError: if a GPU was asked for and there is none.
    """
    available = torch.cuda.is_available()
    if options.device == "cuda" and not available:
        raise OptionError("device 'cuda' was asked for but torch finds no GPU; use 'auto' or 'cpu'")
    return torch.device("cuda" if available and options.device != "cpu" else "cpu")


class MatchStore:
    """kapture's match files of one type: `A.overlapping/B.matches`, A before B by name."""

    def __init__(self, map_dir: Path, type_name: str):
        self.folder = map_dir / "reconstruction" / "matches" / checked_name(type_name)

    def path(self, first: str, second: str) -> Path:
        """The file of a pair, whichever way round."""
        low, high = sorted((checked_name(first), checked_name(second)))
        return self.folder / f"{low}.overlapping" / f"{high}.matches"

    def has(self, first: str, second: str) -> bool:
        """Whether a pair was matched."""
        return self.path(first, second).is_file()

    def write(self, first: str, second: str, matches: Matches, scores: Floats) -> None:
        """Write the matches of a pair; a file is whole or not there."""
        path = self.path(first, second)
        columns = matches if first < second else matches[:, ::-1]
        values = np.concatenate([columns, scores[:, None]], axis=1).astype(np.float64)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}.partial")
        values.tofile(partial)
        partial.replace(path)

    def read(self, first: str, second: str) -> tuple[Matches, Floats]:
        """The matches of a pair and their scores; the columns are in the order asked for.

        Raises:
            InputError: if the pair was not matched or the file is damaged.
        """
        path = self.path(first, second)
        try:
            values = np.fromfile(path, np.float64)
        except OSError as error:
            raise InputError(f"{first} and {second} were not matched ({path})") from error
        if values.size % 3 or not np.isfinite(values).all():
            raise InputError(f"{path} is damaged: delete it and map again")
        values = values.reshape(-1, 3)
        matches = values[:, :2].astype(np.int32)
        if first > second:
            matches = matches[:, ::-1]
        return matches, values[:, 2].astype(np.float32)


def match_pairs(
    images: ImageTable,
    pairs: Pairs,
    descriptors: FeatureFolder,
    store: MatchStore,
    options: MatchOptions,
) -> int:
    """Match every pair that has no matches yet; returns how many were matched.

    Raises:
        InputError: if the descriptors of an image are missing or damaged.
    """
    names = images.names
    missing = [(i, j) for i, j in pairs if not store.has(names[i], names[j])]
    partners: OrderedDict[int, list[int]] = OrderedDict()
    for i, j in missing:
        partners.setdefault(int(i), []).append(int(j))
    cache = _DescriptorCache(descriptors, images, chosen_device(options))
    with tqdm(total=len(missing), desc="match", unit="pair", disable=None) as bar:
        for i, others in partners.items():
            for j, (matches, scores) in zip(others, cache.match(i, others, options), strict=True):
                store.write(names[i], names[j], matches, scores)
            bar.update(len(others))
    return len(missing)


class _DescriptorCache:
    """Descriptors of the images used last, on the device that matches them."""

    def __init__(self, folder: FeatureFolder, images: ImageTable, device: torch.device):
        self._folder = folder
        self._images = images
        self._device = device
        self._held: OrderedDict[int, Any] = OrderedDict()
        self._bytes = 0

    def match(
        self, row: int, others: list[int], options: MatchOptions
    ) -> list[tuple[Matches, Floats]]:
        first = self._get(row)
        if self._device.type == "cpu":
            return mutual_matches_with_each(first, [self._get(other) for other in others], options)
        empty = np.empty((0, 2), np.int32), np.empty(0, np.float32)
        tensors = {other: self._get(other) for other in others}
        if len(first) == 0:
            return [empty for _ in others]
        filled = [other for other in others if len(tensors[other])]
        found = dict.fromkeys(others, empty)
        if filled:
            results = mutual_matches_on_gpu(first, [tensors[o] for o in filled], options)
            found.update(zip(filled, results, strict=True))
        return [found[other] for other in others]

    def _get(self, row: int) -> Any:
        if row in self._held:
            self._held.move_to_end(row)
            return self._held[row]
        values = unit_rows(self._folder.read(self._images.names[row]))
        held = values if self._device.type == "cpu" else torch.from_numpy(values).to(self._device)
        self._held[row] = held
        self._bytes += values.nbytes
        while self._bytes > CACHE_BYTES and len(self._held) > 1:
            _, old = self._held.popitem(last=False)
            self._bytes -= old.nbytes
        return held
