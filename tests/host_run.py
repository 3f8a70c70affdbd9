"""Graphs in API form run by the stub of ComfyUI, as its executor runs them: lists, links, hidden values, expansion."""

import asyncio
import sys
from types import SimpleNamespace

import host_modules
import numpy as np
import torch
from host_api import Hidden
from host_stub import PACK, installed, stubbed_nodes
from PIL import Image


class LoadImage:
    """ComfyUI's own: colours, and what is transparent as a mask."""

    @staticmethod
    def run(image):
        with Image.open(f"{host_modules.get_input_directory()}/{image}") as opened:
            values = torch.from_numpy(np.asarray(opened.convert("RGBA")).astype(np.float32) / 255)[None]
        return values[..., :3], 1 - values[..., 3]


class CreateVideo:
    """ComfyUI's own: pictures and how many of them a second; takes three colours alone."""

    @staticmethod
    def run(images, fps, bit_depth=8):
        assert images.ndim == 4 and images.shape[3] == 3 and images.dtype == torch.float32 and bit_depth in (8, 10)
        return (SimpleNamespace(images=images, frame_rate=fps),)


CORE = {"LoadImage": LoadImage, "CreateVideo": CreateVideo}
SINKS = ("PreviewImage", "Preview3D", "PreviewAny", "SaveVideo")  # of ComfyUI, which show what they are given


class Host:
    """A ComfyUI with a folder of its own, in which the pack's nodes run."""

    def __init__(self, base):
        host_modules.use_folder(base)
        self.base, self.nodes = base, {node.GET_SCHEMA().node_id: node for node in stubbed_nodes()}
        self.part("folders").register()
        self.part("pictures").offer_examples()

    @staticmethod
    def part(name):
        """A module of the pack's nodes/host."""
        return sys.modules[f"{PACK}.nodes.host.{name}"]

    def run(self, prompt, known=None, **extra):
        """Run the nodes of a prompt; `extra` is extra_pnginfo, `known` what nodes have made already.

        Returns:
            SimpleNamespace(values: {node: a list for each output}, ui: {node: dict}, messages of progress bars).
        """
        run = _Run(self, prompt, extra)
        run.values |= known or {}
        host_modules.ProgressBar.messages.clear()
        host_modules.registry.dynprompt, host_modules.registry.nodes = run.dynprompt, run.states
        with installed(), torch.inference_mode():
            asyncio.run(run.all())
        messages = list(host_modules.ProgressBar.messages)
        return SimpleNamespace(values=run.values, ui=run.ui, messages=messages, dynprompt=run.dynprompt)

    def call(self, node_id, **inputs):
        """One node with values; returns the outputs."""
        prompt = {"1": {"class_type": node_id, "inputs": {}}}
        run = _Run(self, prompt, {})
        host_modules.registry.dynprompt, host_modules.registry.nodes = run.dynprompt, run.states
        with installed(), torch.inference_mode():
            return asyncio.run(run.called("1", self.nodes[node_id], inputs)).args


class _Run:
    def __init__(self, host, prompt, extra):
        self.host, self.extra = host, extra
        self.dynprompt = host_modules.DynamicPrompt(prompt)
        self.states, self.values, self.ui = {}, {}, {}

    async def all(self):  # nodes run inside a running event loop
        for name in self.dynprompt.original_prompt:
            await self.node(name)

    async def node(self, name):
        """Run a node, and those that it needs before it, once."""
        if name in self.values:
            return
        node = self.dynprompt.get_node(name)
        for value in node["inputs"].values():
            if _is_link(value):
                await self.node(value[0])
        if node["class_type"] in SINKS:
            return
        kind = (CORE | self.host.nodes)[node["class_type"]]
        core = node["class_type"] in CORE
        schema = None if core else kind.GET_SCHEMA()
        raw = set() if core else {each.id for each in schema.inputs if each.extra_dict.get("rawLink")}
        inputs = {key: self._resolved(value, key in raw) for key, value in node["inputs"].items()}
        outputs = []
        if core:
            rows = [kind.run(**{key: value[0] for key, value in inputs.items()})]
        else:
            self._validated(kind, node["inputs"])
            self.states[name] = {"state": host_modules.NodeState.Running, "value": 0, "max": 1}
            rows = []
            for given in [inputs] if schema.is_input_list else _items(inputs):
                made = await self.called(name, kind, given)
                rows.append(await self._expanded(name, made) if made.expand else made.args)
                if made.ui:
                    for key, shown in made.ui.items():
                        self.ui.setdefault(name, {}).setdefault(key, []).extend(shown)
            self.states[name]["state"] = host_modules.NodeState.Finished
        for slot, values in enumerate(zip(*rows)):
            is_list = not core and schema.outputs[slot].options.get("is_output_list")
            outputs.append([one for value in values for one in value] if is_list else list(values))
        self.values[name] = outputs

    async def called(self, name, kind, inputs):
        hidden = {Hidden.unique_id: name, Hidden.prompt: self.dynprompt.original_prompt}
        hidden |= {Hidden.extra_pnginfo: self.extra, Hidden.dynprompt: self.dynprompt}
        asked = {key: hidden[key] for key in kind.GET_SCHEMA().hidden}
        clone = kind.PREPARE_CLASS_CLONE({"hidden_inputs": asked})
        with host_modules.CurrentNodeContext("prompt", name, 0):
            return clone.execute(**inputs)

    async def _expanded(self, name, made):
        for part, node in made.expand.items():
            self.dynprompt.add_ephemeral_node(part, node, name, node.get("override_display_id", name))
        for part in made.expand:
            await self.node(part)
        # a link stands for all the values of an output; GatherFiles has one, the list of all files
        return [self.values[link[0]][link[1]][0] if _is_link(link) else link for link in made.args]

    def _resolved(self, value, raw):
        """A list of values: what a link leads to, or the value itself."""
        return self.values[value[0]][value[1]] if _is_link(value) and not raw else [value]

    @staticmethod
    def _validated(kind, inputs):
        """What ComfyUI asks before it queues a prompt; linked values are not known then."""
        check = vars(kind).get("validate_inputs")
        if check is None:
            return
        asked = check.__func__.__code__.co_varnames[1 : check.__func__.__code__.co_argcount]
        known = {key: None if _is_link(value) else value for key, value in inputs.items() if key in asked}
        answer = kind.validate_inputs(**known)
        assert answer is True, answer


def _is_link(value):
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], int)


def _items(inputs):
    """The calls that lists of inputs make: the last item of a shorter list is repeated."""
    for i in range(max((len(values) for values in inputs.values()), default=1)):
        yield {key: values[min(i, len(values) - 1)] for key, values in inputs.items()}
