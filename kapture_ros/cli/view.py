"""`kapture_ros view`: the live scene of a localizer in a browser."""

from __future__ import annotations

import argparse

from kapture_ros.nodes.commands import add_ros_arguments, needs_ros
from kapture_ros.options import add_arguments as add_options
from kapture_ros.options import from_arguments

HELP = "Show a running localizer in a browser: map, pose, path, status."
EXAMPLES = """\
  kapture_ros view                              then open http://127.0.0.1:8080/
  kapture_ros view --localizer /car/localizer --port 9000
  ssh -L 8080:127.0.0.1:8080 car kapture_ros view    the car's scene on your own screen

Only this machine can see the page, unless --host says otherwise. Ctrl-C ends it.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to show and where."""
    from kapture_ros.view.options import ServerOptions, ViewerOptions

    add_options(parser, ViewerOptions)
    add_options(parser, ServerOptions)
    add_ros_arguments(parser)


def run(args: argparse.Namespace) -> None:
    """Serve the page until a signal."""
    from kapture_ros.view.options import ServerOptions, ViewerOptions
    from kapture_ros.view.server import SceneServer

    with needs_ros("the view"):
        from kapture_ros.nodes.viewer_node import run as run_viewer
    server = SceneServer(from_arguments(ServerOptions, args))
    try:
        print(f"the scene is at {server.url}", flush=True)
        run_viewer(from_arguments(ViewerOptions, args), server, args.ros_args)
    finally:
        server.close()
