"""A node's progress bar. The parts of a node that expands move that node's bar, with the name of the stage."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import cache
from typing import Any

import comfy.model_management as management
import comfy.utils
from comfy.cli_args import args, parser
from comfy_execution.progress import NodeState, get_progress_state
from comfy_execution.utils import get_executing_context

from ...pipeline.runtime import Step

_TICKS = 1000  # of a node's progress bar
Picture = Callable[[Step], Any]  # a step -> PIL image or None


class Progress:
    """Turns the steps of one or several stages into one bar that only grows, and stops the run on Cancel.

    Args:
        count: stages that the node runs.
        picture: makes the preview of a step.
    """

    def __init__(self, count: int = 1, picture: Picture | None = None) -> None:
        self._bar = comfy.utils.ProgressBar(_TICKS)
        self._count, self._picture = count, picture
        self._stage, self._done = None, -1
        self._whole = _Whole.of_the_running_node()
        self.pictures = _pictures_wanted()  # whether the host shows previews
        if self._whole:
            self.show(0)  # the host has just set this part's own bar to 0

    def __call__(self, step: Step) -> None:
        management.throw_exception_if_processing_interrupted()
        if step.stage != self._stage:
            self._stage = step.stage
            self._done = min(self._done + 1, self._count - 1)
        image = self._picture(step) if self._picture and self.pictures else None
        self.show((self._done + step.step / max(step.total, 1)) / self._count, image)

    def say(self, text: str) -> None:
        """Show a text on the running node, or on the expanded node that it is a part of."""
        context = get_executing_context()
        if self._whole:
            self._whole.say(text)
        elif context is not None:
            _tell(text, context.node_id)

    def show(self, share: float, image=None) -> None:
        """Set the bar to a share in 0-1, with a picture if there is one."""
        preview = None if image is None or not self.pictures else ("JPEG", image, args.preview_size)
        if self._whole:  # the picture belongs on the expanded node, too
            share, preview = self._whole.show(share, preview), None
        self._bar.update_absolute(round(share * _TICKS), _TICKS, preview)


class _Whole:
    """The bar of a node that was expanded, as one of its parts moves it.

    The expanded graph says under _meta what share of the time each part takes. The host's own records say which parts
    are finished; those that it did not have to run, as their results are cached, lie before one that runs.
    """

    def __init__(self, registry, part: str, parent: str) -> None:
        prompt = registry.dynprompt
        parts = [node for node, above in prompt.ephemeral_parents.items() if above == parent]
        self._shares = {node: prompt.get_node(node).get("_meta", {}).get("share", 0) for node in parts}
        self._registry, self._part, self._parent = registry, part, parent
        self._before = self._upstream(part)
        self._bar = comfy.utils.ProgressBar(_TICKS, node_id=parent)
        _tell(prompt.get_node(part).get("_meta", {}).get("title", ""), parent)

    @classmethod
    def of_the_running_node(cls) -> _Whole | None:
        """The bar of the expanded node that the running node is a part of; None if it is no such part."""
        context, registry = get_executing_context(), get_progress_state()
        if context is None or not registry.dynprompt.has_node(context.node_id):
            return None
        parent = registry.dynprompt.get_parent_node_id(context.node_id)
        known = "share" in registry.dynprompt.get_node(context.node_id).get("_meta", {})
        return cls(registry, context.node_id, parent) if parent is not None and known else None

    def say(self, text: str) -> None:
        """Show a text on the node."""
        _tell(text, self._parent)

    def show(self, share: float, preview: tuple | None) -> float:
        """Set the bar, given the running part's own share in 0-1; returns the share of the whole."""
        nodes = self._registry.nodes
        done = self._before | {n for n in self._shares if n in nodes and nodes[n]["state"] == NodeState.Finished}
        taken = sum(self._shares[node] for node in done - {self._part}) + share * self._shares[self._part]
        before = nodes.get(self._parent)
        reached = before["value"] / before["max"] if before else 0.0  # by an earlier item of a list
        whole = max(reached, min(taken / sum(self._shares.values()), 1.0))
        self._bar.update_absolute(round(whole * _TICKS), _TICKS, preview)
        return whole

    def _upstream(self, node: str) -> set[str]:
        """The parts that a part depends on."""
        found, open_ends = set(), [node]
        while open_ends:
            inputs = self._registry.dynprompt.get_node(open_ends.pop())["inputs"].values()
            links = {value[0] for value in inputs if isinstance(value, list) and len(value) == 2}
            new = {link for link in links if link in self._shares} - found
            found |= new
            open_ends += new
        return found


def _tell(text: str, node: str) -> None:
    """Show a text on a node in the editor that queued the graph."""
    from server import PromptServer

    server = getattr(PromptServer, "instance", None)
    if text and server is not None and getattr(server, "client_id", None) is not None:
        server.send_progress_text(text, node, server.client_id)


def _pictures_wanted() -> bool:
    """Whether nodes show previews while they run: yes unless they were turned off.

    ComfyUI's default is none, for its samplers, whose previews cost time. Pictures of a shape are most of what there
    is to see while these nodes run, so the default leaves them on; --preview-method none and the editor's setting
    turn them off.
    """
    if args.preview_method.value != "none":
        return True
    return not (_none_on_the_command_line() or _asked_for_by_the_editor() == "none")


@cache
def _none_on_the_command_line() -> bool:
    """Whether --preview-method was given: argparse sets no default over an attribute that the namespace has."""
    unset = argparse.Namespace(preview_method=None)
    return parser.parse_known_args(sys.argv[1:], unset)[0].preview_method is not None


def _asked_for_by_the_editor() -> str | None:
    """The preview method that came with the running prompt."""
    from server import PromptServer

    queue = getattr(getattr(PromptServer, "instance", None), "prompt_queue", None)
    look = getattr(queue, "get_current_queue_volatile", None)
    running = look()[0] if look else []
    return next((item[3].get("preview_method") for item in running), None)
