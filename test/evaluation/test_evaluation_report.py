"""`kapture_ros evaluate` from files to the page in a browser."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from kapture_ros.cli.main import main
from kapture_ros.evaluation.estimates import (
    EstimateRow,
    MatchedPair,
    matches_path,
    write_estimates,
    write_matches,
)
from kapture_ros.transforms import Transform

START = 1_700_000_000_000_000_000
QUERIES = 40
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
HOSTILE = "a</script><b onclick=alert(1)>&\u2028.jpg"


@pytest.fixture
def drive(write_dataset, tmp_path: Path) -> Path:
    """A folder with `estimates`, `reference`, `map` and `pairs.txt` of a drive on a circle.

    Of 40 queries 2 have no reference, 4 are rejected, one is accepted 8 m off.
    """
    rng = np.random.default_rng(3)
    covariance = np.diag([0.01, 0.01, 0.01, 1e-4, 1e-4, 1e-4])
    poses, images, rows, pairs = {}, {}, [], []
    for index in range(QUERIES):
        stamp = START + index * 100_000_000
        name = HOSTILE if index == 0 else f"front/{index:03}.png"
        turn = Rotation.from_euler("z", 0.1 * index)
        pose = Transform(turn, 10 * turn.apply([1.0, 0, 0]))
        if index not in (5, 6):
            poses[stamp, "front"] = pose.inverse()
        images[stamp, "front"] = name
        error = np.sqrt(np.diag(covariance)) * rng.normal(size=6)
        error[0] += 8 * (index == 20)
        rejected = index % 10 == 9
        estimate = Transform(Rotation.from_rotvec(error[3:]) * turn, pose.translation + error[:3])
        rows.append(
            EstimateRow(
                *(stamp, name, not rejected, "few inliers" if rejected else ""),
                *(80, 100, 20, f"map/{index // 2:03}.png"),
                map_from_base=None if rejected else estimate,
                covariance=None if rejected else covariance,
                latency_ms={"extraction": 30.0 + index, "total": 40.0 + index},
                condition="day" if index < 20 else "night",
            )
        )
        pairs.append(f"{name}, map/{index // 2:03}.png, 0.9")
    write_dataset(tmp_path / "reference", poses, images=images)
    map_poses = {(k, "cam"): poses[START + 2 * k * 100_000_000, "front"] for k in (0, 1, 2, 10)}
    map_images = {(k, "cam"): f"map/{k:03}.png" for k in (0, 1, 2, 10)}
    write_dataset(tmp_path / "map", map_poses, images=map_images)
    (tmp_path / "estimates").mkdir()
    write_estimates(tmp_path / "estimates" / "estimates.csv", rows)
    (tmp_path / "pairs.txt").write_text("\n".join(pairs[1:]))
    for dataset, name in (("reference", "front/020.png"), ("map", "map/010.png")):
        path = tmp_path / dataset / "sensors" / "records_data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), rng.integers(0, 255, (120, 160, 3), np.uint8))
    xy = np.array([[10, 20], [30, 40], [50, 60]], np.float32)
    pair = MatchedPair("front/020.png", "map/010.png", xy, xy, np.array([True, True, False]))
    write_matches(matches_path(tmp_path / "estimates", rows[20].stamp_ns, rows[20].query), pair)
    return tmp_path


def evaluate(folder: Path, *arguments: str) -> int:
    paths = [str(folder / name) for name in ("estimates", "reference", "report")]
    return main(["evaluate", *paths, *arguments])


def summary(folder: Path) -> dict:
    text = (folder / "report" / "evaluation.json").read_text()
    return json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def test_every_figure_is_in_the_json(drive: Path):
    options = ("--map", str(drive / "map"), "--pairs", str(drive / "pairs.txt"))
    assert evaluate(drive, *options, "--thresholds", "5,10", "1,5") == 0
    found = summary(drive)
    assert found["thresholds"] == ["1 m, 5°", "5 m, 10°"]
    assert found["without_reference"] == 2
    assert found["accuracy"]["queries"] == 38
    assert found["accuracy"]["localized"] == 34
    assert found["accuracy"]["recall"] == [pytest.approx(33 / 38)] * 2
    assert found["conditions"]["day"]["queries"] == 18
    assert found["honesty"]["confidently_wrong"] == 1
    assert found["honesty"]["reasons"] == {"few inliers": 4}
    assert found["calibration"][2]["part"] == "rotation"
    assert found["calibration"][2]["sigma_scale"] == pytest.approx(1, abs=0.35)
    assert [error["alignment"] for error in found["absolute"]] == ["none", "SE(3)", "Sim(3)"]
    assert found["retrieval"]["queries"] == 37
    assert found["latency"]["total"]["median"] == 59.5
    queries = found["queries"]
    assert queries["stamp_ns"][1] == START + 100_000_000
    assert queries["metres"][9] is None
    assert queries["metres"][20] == pytest.approx(8, abs=0.5)


@pytest.mark.parametrize(("frame", "warned"), [("odom", True), ("map", False)])
def test_poses_of_odometry_are_not_taken_for_the_truth(drive: Path, caplog, frame, warned):
    session = {"poses": {"world_frame": frame}}  # as the recorder's report has it
    (drive / "reference/report.json").write_text(json.dumps({"sessions": [session]}))
    assert evaluate(drive) == 0
    assert ("are odometry, not the truth" in caplog.text) is warned


def test_markdown_has_the_tables(drive: Path, capsys: pytest.CaptureFixture[str]):
    assert evaluate(drive) == 0
    text = (drive / "report" / "evaluation.md").read_text()
    assert "| condition | queries | localized | 0.25 m, 2° | 0.5 m, 5° | 5 m, 10° |" in text
    assert "| accepted | 33 | 1 | 34 |" in text
    assert "2 queries without a reference are left out." in text
    for block in text.split("\n\n"):
        lines = block.splitlines()
        if lines[0].startswith("|"):
            assert len({line.count("|") for line in lines}) == 1, block
    assert text.strip() in capsys.readouterr().out


def test_the_page_needs_nothing_from_outside_and_names_cannot_break_it(drive: Path):
    assert evaluate(drive) == 0
    page = (drive / "report" / "evaluation.html").read_text()
    addresses = set(re.findall(r"https?://[^\"'\s]+", page))
    assert addresses == {"http://www.w3.org/2000/svg"}  # a name, not a place
    assert "default-src 'none'" in page
    assert page.count("</script>") == 2
    data = re.search(r'<script id="data"[^>]*>(.*?)</script>', page, re.DOTALL)
    assert data is not None
    assert json.loads(data[1])["queries"]["query"][0] == HOSTILE


def dump(page: Path, script: str = "") -> str:
    """The document after a browser ran the page, and then the script."""
    assert CHROMIUM
    probe = page.with_name("probe.html")
    probe.write_text(page.read_text().replace("</body>", f"<script>{script}</script></body>"))
    options = ("--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=2000")
    command = [CHROMIUM, *options, f"--user-data-dir={page.parent / 'profile'}", "--dump-dom"]
    result = subprocess.run([*command, probe.as_uri()], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    # Without the scripts, whose text has the same words.
    return re.sub(r"<script.*?</script>", "", result.stdout, flags=re.DOTALL)


needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")


@needs_chromium
@pytest.mark.slow
def test_a_browser_shows_every_query(drive: Path):
    options = ("--map", str(drive / "map"), "--pairs", str(drive / "pairs.txt"), "--worst", "40")
    assert evaluate(drive, *options) == 0
    page = dump(drive / "report" / "evaluation.html")
    assert "This page is faulty" not in page
    assert page.count('class="query"') == 34
    assert page.count('class="failed"') == 4
    assert page.count('class="wrong"') == 1
    assert page.count('class="nees"') == 34
    assert page.count('class="cdf"') == 6  # position and rotation; all, day and night
    assert page.count('class="match"') == 3
    assert page.count("data:image/jpeg;base64,") == 1
    assert page.count("<figcaption") == 1 + 38  # below the map and the queries
    assert "<b onclick" not in page
    assert "&lt;b onclick" in page
    for title in ("Map from above", "Calibration", "Retrieval recall", "Latency", "Worst queries"):
        assert f'<h2 class="">{title}' in page


INTERACT = """
const out = document.body.appendChild(document.createElement("pre")); out.id = "probe";
const plot = document.querySelector("svg.chart"), box = plot.getBoundingClientRect();
const mark = () => [...plot.querySelectorAll(".query")][10].getBoundingClientRect();
const centre = () => [mark().left + mark().width / 2, mark().top + mark().height / 2];
const send = (kind, x, y, more) => plot.dispatchEvent(new (kind === "wheel" ? WheelEvent
  : PointerEvent)(kind, {clientX: x, clientY: y, pointerId: 1, bubbles: true, ...more}));
plot.setPointerCapture = () => {};
let [x, y] = centre();
send("pointermove", x, y);
out.textContent += "tip: " + document.getElementById("tip").textContent.split("\\n")[0] + "\\n";
const home = centre();
send("wheel", home[0], home[1], {deltaY: -1});
out.textContent += "zoom kept: " + (Math.hypot(centre()[0] - home[0], centre()[1] - home[1]) < .5);
send("pointerdown", 300, 300); send("pointermove", 340, 320); send("pointerup", 340, 320);
out.textContent += "\\npan: " + centre().map((v, k) => Math.round(v - home[k]));
plot.dispatchEvent(new MouseEvent("dblclick"));
out.textContent += "\\nreset: " + centre().map((v, k) => Math.round(v - home[k]));
const first = plot.querySelector(".query").getAttribute("fill");
const select = document.querySelector("figure select");
select.value = "rotation error [°]"; select.onchange();
const now = plot.querySelector(".query").getAttribute("fill");
out.textContent += "\\nrecoloured: " + (now !== first);
let saved = "";
HTMLAnchorElement.prototype.click = function () { saved = this.href; };
document.querySelector("figure button").click();
const text = decodeURIComponent(saved.slice(saved.indexOf(",") + 1));
const file = new DOMParser().parseFromString(text, "image/svg+xml").documentElement;
const kept = file.querySelectorAll(".query").length;
out.textContent += `\\nsaved: ${file.nodeName} with ${kept} queries`;
"""


@needs_chromium
@pytest.mark.slow
def test_the_map_answers_the_mouse(drive: Path):
    assert evaluate(drive) == 0
    page = dump(drive / "report" / "evaluation.html", INTERACT)
    answers = re.search(r'<pre id="probe">(.*?)</pre>', page, re.DOTALL)
    assert answers is not None
    queries = summary(drive)["queries"]
    compared = zip(queries["metres"], queries["query"], strict=True)
    by_error = sorted(pair for pair in compared if pair[0] is not None)  # large ones on top
    tip, *rest = answers[1].splitlines()
    assert tip.startswith(f"tip: {by_error[10][1]}  (t = ")
    assert rest == [
        "zoom kept: true",
        "pan: 40,20",
        "reset: 0,0",
        "recoloured: true",
        "saved: svg with 34 queries",
    ]


@needs_chromium
@pytest.mark.slow
def test_a_browser_shows_a_localizer_that_never_answered(write_dataset, tmp_path: Path):
    write_dataset(tmp_path / "reference", {(1, "car"): Transform(), (2, "car"): Transform()})
    (tmp_path / "estimates").mkdir()
    rows = [EstimateRow(stamp, "car", False, "black image") for stamp in (1, 2)]
    write_estimates(tmp_path / "estimates" / "estimates.csv", rows)
    assert evaluate(tmp_path) == 0
    page = dump(tmp_path / "report" / "evaluation.html")
    assert "This page is faulty" not in page
    assert page.count('class="failed"') == 2
    assert "∞ m" in page


def test_trajectories_of_any_localizer_are_enough(write_dataset, tmp_path: Path):
    """The reference's rig is known by one camera only; the estimate has the other."""
    right_from_left = Transform.exp([-0.5, 0, 0, 0, 0, 0])
    rigs = {("rig", "left"): Transform(), ("rig", "right"): right_from_left}
    true = {(stamp, "left"): Transform.exp([stamp, 0, 0, 0, 0, 0]) for stamp in range(5)}
    images = {(stamp, "right"): f"right/{stamp}.jpg" for stamp in range(5)}
    write_dataset(tmp_path / "reference", true, rigs, images)
    shift = Transform.exp([0, 0, -0.1, 0, 0, 0])
    found = {(s, "right"): right_from_left @ true[s, "left"] @ shift for s in range(4)}
    write_dataset(tmp_path / "estimates", found)
    assert evaluate(tmp_path) == 0
    result = summary(tmp_path)
    assert result["accuracy"]["recall"] == [0.8] * 3
    assert result["accuracy"]["metres"]["mean"] == pytest.approx(0.1)
    assert result["honesty"]["reasons"] == {"no pose": 1}


def test_reference_stamps_between_are_interpolated_on_demand(write_dataset, tmp_path: Path):
    poses = {(stamp, "car"): Transform.exp([-stamp / 1e9, 0, 0, 0, 0, 0]) for stamp in (0, 10**9)}
    write_dataset(tmp_path / "reference", poses)
    (tmp_path / "estimates").mkdir()
    pose = Transform.exp([0.5, 0, 0, 0, 0, 0])
    row = EstimateRow(500_000_000, "car", True, map_from_base=pose)
    write_estimates(tmp_path / "estimates" / "estimates.csv", [row])
    assert evaluate(tmp_path) == 1
    assert not (tmp_path / "report").exists()
    assert evaluate(tmp_path, "--max-gap", "1") == 0
    assert summary(tmp_path)["accuracy"]["metres"]["maximum"] == pytest.approx(0, abs=1e-12)


def test_real_poses_against_themselves_are_perfect(
    write_dataset, shared_data: Path, tmp_path: Path
):
    """KITTI's own file of poses, and NAVER's sample as it is."""
    matrices = np.loadtxt(shared_data / "kitti_00" / "poses.txt").reshape(-1, 3, 4)
    poses = {(k, "cam"): Transform.from_matrix(m).inverse() for k, m in enumerate(matrices)}
    for name in ("estimates", "reference"):
        write_dataset(tmp_path / name, poses)
    assert evaluate(tmp_path, "--up=-y") == 0
    assert summary(tmp_path)["accuracy"]["recall"] == [1.0] * 3
    sample = str(shared_data / "virtual_gallery" / "mapping")
    assert main(["evaluate", sample, sample, str(tmp_path / "gallery"), "--worst", "1"]) == 0
    result = json.loads((tmp_path / "gallery" / "evaluation.json").read_text())
    assert result["accuracy"]["queries"] == 12
    assert result["accuracy"]["metres"]["maximum"] < 1e-9


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--thresholds", "1"], "threshold '1' must be metres,degrees"),
        (["--up", "north"], "'up' is 'north' but must be text (x | y | z"),
        (["--pairs", "pairs.txt"], "retrieval recall needs the map's poses: pass --map"),
        (["--map", "nowhere"], "nowhere has no poses"),
        (["--query", "nowhere"], "nowhere is no kapture dataset"),
        (["--map-images", "nowhere"], "nowhere is no kapture dataset"),
        (["--config", "nowhere.yaml"], "cannot read nowhere.yaml"),
    ],
)
def test_a_wrong_call_is_one_line(drive: Path, arguments: list[str], words: str, capsys):
    assert evaluate(drive, *arguments) == 1
    assert words in capsys.readouterr().err


def test_wrong_inputs_are_one_line(drive: Path, capsys):
    nothing = drive / "nothing"
    nothing.mkdir()
    assert main(["evaluate", str(nothing), str(drive / "reference"), str(drive / "out")]) == 1
    assert "nothing holds no estimates: expected estimates.csv" in capsys.readouterr().err
    (drive / "empty.yaml").write_text("thresholds: []")
    assert evaluate(drive, "--config", str(drive / "empty.yaml")) == 1
    assert "'thresholds' is empty" in capsys.readouterr().err
    assert evaluate(drive) == 0
    assert evaluate(drive) == 1
    assert "report exists already" in capsys.readouterr().err
    assert evaluate(drive, "--overwrite") == 0
