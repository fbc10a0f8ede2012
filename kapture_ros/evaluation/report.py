"""An evaluation as files: JSON for programs, Markdown for a page, HTML for eyes.

The HTML page is `report.html` with the data put in: it holds everything it needs and opens
without a network.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from kapture_ros.evaluation import metrics
from kapture_ros.evaluation.drawing import draw, worst_queries
from kapture_ros.evaluation.estimates import STAGES
from kapture_ros.evaluation.evaluate import Evaluation
from kapture_ros.evaluation.metrics import Accuracy, Threshold
from kapture_ros.evaluation.options import EvaluationInputs, EvaluationOptions
from kapture_ros.files import new_output
from kapture_ros.transforms.se3 import Array, Transform

# What is to the right and what is at the top when the axis looks at the reader.
PLANES = {
    "z": ("x", "y"),
    "-z": ("x", "-y"),
    "y": ("x", "-z"),
    "-y": ("x", "z"),
    "x": ("y", "z"),
    "-x": ("y", "-z"),
}


def write_report(
    evaluation: Evaluation,
    inputs: EvaluationInputs,
    options: EvaluationOptions,
    folder: Path,
    *,
    overwrite: bool = False,
) -> None:
    """Write evaluation.json, evaluation.md and evaluation.html into a new folder.

    Raises:
        OutputError: if the folder exists (and `overwrite` is false) or cannot be written.
    """
    summary = to_json(evaluation, inputs)
    page = to_html(evaluation, inputs, options)
    read = (inputs.estimates, inputs.reference, inputs.map, inputs.query, *inputs.map_images)
    given = [path for path in read if path is not None]
    with new_output(folder, overwrite=overwrite, inputs=given) as partial:
        text = json.dumps(summary, indent=1, ensure_ascii=False, allow_nan=False)
        (partial / "evaluation.json").write_text(text + "\n", encoding="utf-8")
        (partial / "evaluation.md").write_text(to_markdown(evaluation), encoding="utf-8")
        (partial / "evaluation.html").write_text(page, encoding="utf-8")


def to_json(evaluation: Evaluation, inputs: EvaluationInputs) -> dict[str, Any]:
    """Every figure, and every query's errors as columns; unknown is null, infinite "inf"."""
    comparison = evaluation.comparison
    names = ("accuracy", "conditions", "honesty", "calibration", "absolute", "relative")
    content = {
        "inputs": {
            field.name: str(value) if value else None
            for field in dataclasses.fields(inputs)
            for value in [getattr(inputs, field.name)]
        },
        "thresholds": [str(threshold) for threshold in evaluation.thresholds],
        "without_reference": evaluation.without_reference,
        **{name: getattr(evaluation, name) for name in (*names, "retrieval", "latency")},
        "queries": {
            "stamp_ns": [row.stamp_ns for row in comparison.rows],
            "query": [row.query for row in comparison.rows],
            "known": comparison.known,
            "accepted": comparison.accepted,
            "reason": [row.reason for row in comparison.rows],
            "condition": [row.condition for row in comparison.rows],
            "metres": comparison.metres,
            "degrees": comparison.degrees,
            "nees": metrics.nees(comparison),
        },
    }
    plain: dict[str, Any] = _plain(content)
    return plain


def _plain(value: Any) -> Any:
    """Only what JSON has."""
    if isinstance(value, Threshold):
        return str(value)
    if dataclasses.is_dataclass(value):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "inf" if value > 0 else None
    return value


def to_html(evaluation: Evaluation, inputs: EvaluationInputs, options: EvaluationOptions) -> str:
    """The self-contained page."""
    comparison = evaluation.comparison
    content = to_json(evaluation, inputs)
    content["queries"] |= _plain(_page_columns(evaluation, options.up))
    content |= _plain(
        {
            "axes": [f"{axis.replace('-', '−')} [m]" for axis in PLANES[options.up]],
            "map_positions": _from_above(evaluation.world_from_map_image.values(), options.up),
            "diagnostics": any(row.matches for row in comparison.rows),
            "nees_band": [metrics.chi2_quantile(p, 6) for p in (0.025, 0.975)],
            "stage_times": {
                stage: [r.latency_ms[stage] for r in comparison.rows if stage in r.latency_ms]
                for stage in STAGES
            },
            "worst": [
                {"index": index, "picture": draw(evaluation, inputs, index)}
                for index in worst_queries(comparison, options.worst)
            ],
        }
    )
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    template = files("kapture_ros.evaluation").joinpath("report.html").read_text(encoding="utf-8")
    # Inside a script element "</" would end it, whatever an image is called.
    return template.replace("__DATA__", text.replace("<", "\\u003c"), 1)


def _page_columns(evaluation: Evaluation, up: str) -> dict[str, Any]:
    comparison = evaluation.comparison
    rows = comparison.rows
    true = _from_above(comparison.references, up)
    estimated = _from_above((row.map_from_base for row in rows), up)
    start = rows[0].stamp_ns
    return {
        # Digits beyond 2^53 are lost in JavaScript.
        "stamp_ns": [str(row.stamp_ns) for row in rows],
        "seconds": [(row.stamp_ns - start) / 1e9 for row in rows],
        "true_x": true[:, 0],
        "true_y": true[:, 1],
        "x": estimated[:, 0],
        "y": estimated[:, 1],
        "wrong": metrics.confidently_wrong(comparison, evaluation.thresholds[-1]),
        "nees_probability": metrics.chi2_probability(metrics.nees(comparison), 6),
        "inliers": [row.inliers for row in rows],
        "matches": [row.matches for row in rows],
        "best_map_image": [row.best_map_image for row in rows],
    }


def _from_above(poses: Iterable[Transform | None], up: str) -> Array:
    """Positions (N, 2) to the right and to the top; NaN where there is no pose."""
    positions = np.array([p.translation if p else [np.nan] * 3 for p in poses]).reshape(-1, 3)
    signs = [-1.0 if "-" in axis else 1.0 for axis in PLANES[up]]
    return np.asarray(positions[:, ["xyz".index(axis[-1]) for axis in PLANES[up]]] * signs)


def to_markdown(evaluation: Evaluation) -> str:
    """The tables."""
    parts = ["# Localization report", _accuracy_text(evaluation), _honesty_text(evaluation.honesty)]
    if evaluation.calibration:
        head = ["", "dof", "queries", "mean NEES", "95 % band", "inside 95 %"]
        head += ["scale σ by", "by the median"]
        body = [
            [
                *(c.part, c.dof, c.count, f"{c.mean:.3g}", f"{c.band[0]:.3g} – {c.band[1]:.3g}"),
                *(f"{c.covered:.1%}", f"{c.sigma_scale:.3g}", f"{c.sigma_scale_median:.3g}"),
            ]
            for c in evaluation.calibration
        ]
        parts += ["## Calibration of the covariance", _table(head, body)]
    if evaluation.absolute:
        spread = ["rmse [m]", "mean [m]", "median [m]", "max [m]"]
        ate = [[a.alignment, f"{a.scale:.5f}", *_spread(a.metres)] for a in evaluation.absolute]
        rpe = [
            [r.over, r.metres.count, *_spread(r.metres), f"{r.degrees.rmse:.3g}"]
            for r in evaluation.relative
        ]
        parts += ["## Trajectory errors of the localized queries"]
        parts += [_table(["absolute, aligned by", "scale", *spread], ate)]
        parts += [_table(["relative over", "pairs", *spread, "rmse [°]"], rpe)] if rpe else []
    if evaluation.retrieval:
        r = evaluation.retrieval
        body = [[f"{k}", f"{share:.1%}"] for k, share in r.recall.items()]
        parts += [f"## Retrieval recall within {r.within} ({r.queries} queries)"]
        parts += [_table(["k", "recall"], [*body, ["possible", f"{r.possible:.1%}"]])]
    if evaluation.latency:
        head = ["stage", "queries", "mean [ms]", "median [ms]", "95 % [ms]", "max [ms]"]
        body = [
            [stage, s.count, *(f"{v:.3g}" for v in (s.mean, s.median, s.p95, s.maximum))]
            for stage, s in evaluation.latency.items()
        ]
        parts += ["## Latency", _table(head, body)]
    return "\n\n".join(parts) + "\n"


def _accuracy_text(evaluation: Evaluation) -> str:
    head = ["condition", "queries", "localized", *map(str, evaluation.thresholds)]
    head += ["median [m]", "median [°]", "mean [m]", "mean [°]"]

    def line(name: str, a: Accuracy) -> list[object]:
        means = [f"{s.mean:.3g}" if s else "–" for s in (a.metres, a.degrees)]
        medians = [f"{a.median_metres:.3g}", f"{a.median_degrees:.3g}"]
        return [name, a.queries, a.localized, *(f"{r:.1%}" for r in a.recall), *medians, *means]

    body = [line(name or "–", a) for name, a in evaluation.conditions.items()]
    text = _table(head, [*body, line("all", evaluation.accuracy)])
    text += "\n\nNot localized counts as failed, in the medians as infinitely wrong; means are of "
    text += "the localized."
    if evaluation.without_reference:
        text += f" {evaluation.without_reference} queries without a reference are left out."
    return text


def _honesty_text(h: metrics.Honesty) -> str:
    head = ["", "right pose", "wrong", "sum"]
    right = h.accepted - h.confidently_wrong
    missed = h.rejected - h.needlessly_rejected
    body = [
        ["accepted", right, h.confidently_wrong, h.accepted],
        ["rejected", h.needlessly_rejected, missed, h.rejected],
    ]
    text = "## Accepted and rejected\n\nWrong: beyond the widest threshold.\n\n" + _table(
        head, body
    )
    if h.reasons:
        text += "\n\n" + _table(["reason of rejection", "queries"], list(h.reasons.items()))
    return text


def _spread(s: metrics.Statistics) -> list[str]:
    return [f"{value:.4g}" for value in (s.rmse, s.mean, s.median, s.maximum)]


def _table(head: Sequence[str], body: Sequence[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *body]
    return "\n".join(
        "| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines
    )
