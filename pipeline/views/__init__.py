"""Several pictures of one object: where they were taken from, and how much each counts where."""

from .mixing import STRATEGIES, mixed
from .rig import NAMED, View, named_views, parse_view
from .visibility import view_weights

__all__ = ["NAMED", "STRATEGIES", "View", "mixed", "named_views", "parse_view", "view_weights"]
