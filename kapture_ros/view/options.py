"""The settings of the view: light to import, since every command line loads them."""

from __future__ import annotations

from dataclasses import dataclass

from kapture_ros.options import option


@dataclass(frozen=True)
class ViewerOptions:
    """What is shown."""

    localizer: str = option("/localizer", "name of the node to watch, with its namespace")
    max_points: int = option(500_000, "map points sent to a browser; more are thinned", minimum=1)


@dataclass(frozen=True)
class ServerOptions:
    """Where the page is served and how often it is fed."""

    host: str = option("127.0.0.1", "address to listen on; 0.0.0.0 shows it to everybody")
    port: int = option(8080, "of the page; 0: any free one", minimum=0, maximum=65535)
    frame_rate: float = option(
        20.0, "updates sent to a browser at most", unit="Hz", minimum=0.1, maximum=100
    )
