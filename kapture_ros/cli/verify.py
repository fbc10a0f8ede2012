"""`kapture_ros verify`: does a dataset hold every message of its bag?"""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "Compare every message of a bag with the dataset made from it."
EXAMPLES = """\
  kapture_ros verify drive.mcap dataset
  kapture_ros verify part1.bag part2.bag dataset

exit codes: 0 nothing differs (messages that were skipped are counted with the reason);
1 it cannot be compared; 4 something differs
"""

EXIT_DIFFERENT = 4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Bags and the dataset."""
    parser.add_argument("bags", nargs="+", type=Path, metavar="BAG", help="as for convert")
    parser.add_argument("dataset", type=Path, help="what convert wrote")
    parser.add_argument("--definitions", type=Path, nargs="+", default=[], metavar="MSG")


def run(args: argparse.Namespace) -> int:
    """Compare and print what differs."""
    from kapture_ros.dataset.reader import open_dataset
    from kapture_ros.recording.bag import Bag
    from kapture_ros.recording.verify import verify

    with Bag(args.bags, args.definitions) as bag:
        result = verify(bag, open_dataset(args.dataset))
        for topic, found in sorted(result.topics.items()):
            skipped = ", ".join(f"{count} skipped: {why}" for why, count in found.skipped.items())
            print(
                f"{topic}: {found.messages} messages, {found.equal} equal, "
                f"{found.different} different" + (f", {skipped}" if skipped else "")
            )
            for difference in found.differences:
                print(f"    {difference}")
        for sensor_id, count in result.unexplained.items():
            print(f"{sensor_id}: {count} records come from no message of the bag")
        if result.different and result.missing_bags:
            print(f"the dataset was made of {', '.join(result.missing_bags)} as well")
        for problem in bag.problems:
            print(f"damaged: {problem}")
    return EXIT_DIFFERENT if result.different else 0
