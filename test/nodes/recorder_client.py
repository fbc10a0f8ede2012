"""A process that commands a recorder, one word of its command line after the other.

`pause`, `resume` and the services' names are called, their answers printed. `diagnostics`
prints a report, `diagnostics=LEVEL` the first one of that level. `rest` returns when all that
was sent has been recorded.
"""

from __future__ import annotations

import sys
import time

import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.node import Node
from std_srvs.srv import SetBool, Trigger

PATIENCE_S = 120.0  # a loaded machine is slow, a hanging one is not
PROGRESS = ("messages received", "messages waiting", "images waiting", "megabytes written")


def reports_until(node: Node, holds) -> list[DiagnosticStatus]:
    """The recorder's reports from now on, until something holds for them."""
    heard: list[DiagnosticStatus] = []

    def hear(message: DiagnosticArray) -> None:
        heard.extend(message.status)

    subscription = node.create_subscription(DiagnosticArray, "/diagnostics", hear, 10)
    end = time.monotonic() + PATIENCE_S
    while not holds(heard):
        if time.monotonic() > end:
            sys.exit(f"never reported; last {heard[-1:]}")
        rclpy.spin_once(node, timeout_sec=0.1)
    node.destroy_subscription(subscription)
    return heard


def wait_for_rest(node: Node) -> None:
    """Until two reports in a row say the same and that nothing waits.

    From one report to the next the recorder takes at least one message of each topic that has
    any, so none is under way then.
    """

    def is_at_rest(reports: list[DiagnosticStatus]) -> bool:
        values = [{v.key: v.value for v in report.values} for report in reports[-2:]]
        told = [[each.get(name, "0") for name in PROGRESS] for each in values]
        return len(told) == 2 and told[0] == told[1] and told[0][1:3] == ["0", "0"]

    reports_until(node, is_at_rest)


def report_of(node: Node, level: str) -> DiagnosticStatus:
    """The next report of a level, or of any if that is empty."""

    def is_of_level(reports: list[DiagnosticStatus]) -> bool:
        return bool(reports) and level in ("", str(reports[-1].level[0]))

    return reports_until(node, is_of_level)[-1]


def call(node: Node, kind, name: str, request) -> None:
    client = node.create_client(kind, f"/recorder/{name}")
    assert client.wait_for_service(timeout_sec=PATIENCE_S), name
    future = client.call_async(request)
    rclpy.spin_until_future_complete(node, future, timeout_sec=PATIENCE_S)
    print(future.result().success, future.result().message)


def main() -> None:
    rclpy.init()
    node = rclpy.create_node("client")
    for word in sys.argv[1:]:
        name, _, level = word.partition("=")
        if name == "diagnostics":
            report = report_of(node, level)
            dataset = {value.key: value.value for value in report.values}["dataset"]
            print(report.level[0], report.message, dataset)
        elif name == "rest":
            wait_for_rest(node)
        elif name in ("pause", "resume"):
            call(node, SetBool, "pause", SetBool.Request(data=name == "pause"))
        else:
            call(node, Trigger, name, Trigger.Request())


if __name__ == "__main__":
    main()
