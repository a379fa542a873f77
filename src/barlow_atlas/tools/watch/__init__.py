"""A study's page while it runs, on loopback: jobs, curves, time left. See docs/reports.md."""

from barlow_atlas.tools.watch.live import Live, data, status
from barlow_atlas.tools.watch.server import WatchError, listen, serve

__all__ = ["Live", "WatchError", "data", "listen", "serve", "status"]
