"""ComfyUI's modules as far as the nodes use them, on a machine without ComfyUI: folders, memory, progress, server.

Names, parameters and behaviour as in ComfyUI (test_host.py compares them with a real one), with a CPU as the device.
The nodes keep the modules that they imported, so there is one set in a process; its state is what functions here set.
"""

import argparse
import os
from contextvars import ContextVar
from enum import Enum
from types import ModuleType, SimpleNamespace
from typing import ClassVar, NamedTuple

import host_api
import torch

# --- folder_paths

models_dir = "models"  # set by `use_folder`, with the three below
_folders = {"output": "output", "input": "input", "user": "user"}
_KINDS = ("trellis2", "diffusion_models", "vae", "clip_vision")
_model_folders = {kind: [] for kind in _KINDS}  # the first folder is searched first


def use_folder(base):
    """ComfyUI's --base-directory: models, input, output and user below it; empty folders for models."""
    folder_paths.models_dir = str(base / "models")
    _model_folders.update({kind: [str(base / "models" / kind)] for kind in _KINDS})
    for name in _folders:
        _folders[name] = str(base / name)
    for path in (*(base / "models" / kind for kind in _KINDS), *(base / name for name in _folders)):
        path.mkdir(parents=True, exist_ok=True)


def get_output_directory():
    return _folders["output"]


def get_input_directory():
    return _folders["input"]


def get_user_directory():
    return _folders["user"]


def add_model_folder_path(folder_name, full_folder_path, is_default=False):
    known = _model_folders.setdefault(folder_name, [])
    if full_folder_path not in known:
        known.insert(0 if is_default else len(known), full_folder_path)


def get_folder_paths(folder_name):
    return list(_model_folders[folder_name])


def get_full_path(folder_name, filename):
    paths = (os.path.join(folder, filename) for folder in _model_folders.get(folder_name, ()))
    return next((path for path in paths if os.path.isfile(path)), None)


def get_save_image_path(filename_prefix, output_dir, image_width=0, image_height=0):
    subfolder, filename = os.path.split(os.path.normpath(filename_prefix))
    folder = os.path.join(output_dir, subfolder)
    os.makedirs(folder, exist_ok=True)
    taken = [name[len(filename) + 1 :].split("_")[0] for name in os.listdir(folder) if name.startswith(f"{filename}_")]
    counter = 1 + max((int(number) for number in taken if number.isdigit()), default=0)
    return folder, filename, counter, subfolder, filename_prefix


# --- comfy.model_management


class InterruptProcessingException(BaseException):
    pass


_interrupted = False
calls = []  # (function, arguments) of the memory manager, for tests


def interrupt_current_processing(value=True):
    global _interrupted
    _interrupted = value


def throw_exception_if_processing_interrupted():
    if _interrupted:
        interrupt_current_processing(False)
        raise InterruptProcessingException


def get_torch_device():
    return torch.device("cpu")


def get_torch_device_name(device):
    return device.type


def intermediate_device():
    return torch.device("cpu")


def unet_offload_device():
    return torch.device("cpu")


def get_free_memory(dev=None, torch_free_too=False):
    return 8 << 30


def get_total_memory(dev=None, torch_total_too=False):
    return 16 << 30


def minimum_inference_memory():
    return 1 << 30


def extra_reserved_memory():
    return 400 << 20


def free_memory(memory_required, device, keep_loaded=()):
    calls.append(("free_memory", memory_required))


def load_models_gpu(models, memory_required=0, force_patch_weights=False, minimum_memory_required=None):
    calls.append(("load_models_gpu", (tuple(models), memory_required)))
    for patcher in models:
        patcher.load(patcher.load_device, share * patcher.model_size())


share = 1.0  # of each model's bytes that its device has room for


def small_card(of_each_model):
    """How much of each model fits on the device from now on; the rest is cast layer by layer."""
    global share
    share = of_each_model


def unload_all_models():
    calls.append(("unload_all_models", ()))


def soft_empty_cache(force=False):
    calls.append(("soft_empty_cache", ()))


# --- comfy.ops, comfy.model_patcher, comfy.ldm.modules.attention


def cast_bias_weight(s, input=None, dtype=None, device=None, bias_dtype=None, offloadable=False):
    weight = s.weight.to(device=device, dtype=dtype, copy=True)
    bias = None if s.bias is None else s.bias.to(device=device, dtype=bias_dtype, copy=True)
    return (weight, bias, None) if offloadable else (weight, bias)


def uncast_bias_weight(s, weight, bias, offload_stream):
    calls.append(("uncast_bias_weight", ()))


class ModelPatcher:
    def __init__(self, model, load_device, offload_device, size=0, weight_inplace_update=False):
        self.model, self.load_device, self.offload_device = model, load_device, offload_device
        self._loaded = 0

    def is_dynamic(self):
        return False

    def model_size(self):
        return sum(tensor.nbytes for tensor in self.model.state_dict().values())

    def loaded_size(self):
        return self._loaded

    def load(self, device_to=None, lowvram_model_memory=0):
        """Layers that can be cast are left where they are once the others have taken the memory."""
        self._loaded = 0
        for layer in self.model.modules():
            size = sum(tensor.nbytes for tensor in layer.parameters(recurse=False))
            if hasattr(layer, "comfy_cast_weights"):
                layer.comfy_cast_weights = self._loaded + size > lowvram_model_memory
                size = 0 if layer.comfy_cast_weights else size
            self._loaded += size


def optimized_attention(q, k, v, heads, mask=None, attn_precision=None, skip_reshape=False, skip_output_reshape=False):
    """As ComfyUI's attention_pytorch. q, k, v: [B, H, L, D] with skip_reshape."""
    assert skip_reshape and skip_output_reshape and q.shape[1] == heads, "no node asks for other layouts"
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)


# --- comfy.utils, comfy_execution


class ProgressBar:
    """ComfyUI's bar; each of its messages to the editor is kept in `messages`, none is left out."""

    messages: ClassVar[list] = []  # (node, value, total, preview)

    def __init__(self, total, node_id=None):
        self.total, self.current, self.node_id = total, 0, node_id

    def update_absolute(self, value, total=None, preview=None):
        self.total = self.total if total is None else total
        self.current = min(value, self.total)
        running = get_executing_context()
        node = self.node_id or (running.node_id if running else None)
        if registry.nodes and node in registry.nodes:
            registry.nodes[node].update(value=self.current, max=self.total)
        self.messages.append((node, self.current, self.total, preview))


class NodeState(Enum):
    Pending = "pending"
    Running = "running"
    Finished = "finished"
    Error = "error"


class DynamicPrompt:
    """A prompt, and what nodes that expand add to it."""

    def __init__(self, original_prompt):
        self.original_prompt, self.ephemeral_prompt, self.ephemeral_parents = original_prompt, {}, {}

    def get_node(self, node_id):
        return (self.ephemeral_prompt if node_id in self.ephemeral_prompt else self.original_prompt)[node_id]

    def has_node(self, node_id):
        return node_id in self.original_prompt or node_id in self.ephemeral_prompt

    def add_ephemeral_node(self, node_id, node_info, parent_id, display_id):
        self.ephemeral_prompt[node_id], self.ephemeral_parents[node_id] = node_info, parent_id

    def get_parent_node_id(self, node_id):
        return self.ephemeral_parents.get(node_id)


registry = SimpleNamespace(dynprompt=DynamicPrompt({}), nodes={})  # of the running prompt


def get_progress_state():
    return registry


class ExecutionContext(NamedTuple):
    prompt_id: str
    node_id: str
    list_index: int | None


_context = ContextVar("running node", default=None)


def get_executing_context():
    return _context.get()


class CurrentNodeContext:
    def __init__(self, prompt_id, node_id, list_index=None):
        self.context = ExecutionContext(prompt_id, node_id, list_index)

    def __enter__(self):
        self._token = _context.set(self.context)
        return self

    def __exit__(self, exc_type, exc_val, exc_tb):
        _context.reset(self._token)


class _Node:
    """A node of a graph that is being built."""

    def __init__(self, id, class_type, inputs):
        self.id, self._made = id, {"class_type": class_type, "inputs": inputs}

    def out(self, index):
        return [self.id, index]

    def set_override_display_id(self, override_display_id):
        self._made["override_display_id"] = override_display_id

    def serialize(self):
        return dict(self._made)


class ExecutionBlocker:
    """An output that stops the nodes behind it with a message."""

    def __init__(self, message):
        self.message = message


class GraphBuilder:
    _built = 0

    def __init__(self, prefix=None):
        running = get_executing_context()
        GraphBuilder._built += 1
        self.prefix = prefix or f"{running.node_id if running else ''}.0.{GraphBuilder._built}."
        self.nodes = {}

    def node(self, class_type, id=None, **kwargs):
        name = f"{self.prefix}{id or len(self.nodes) + 1}"
        return self.nodes.setdefault(name, _Node(name, class_type, kwargs))

    def finalize(self):
        return {name: node.serialize() for name, node in self.nodes.items()}


# --- comfy.cli_args, server, nodes


class LatentPreviewMethod(Enum):
    NoPreviews = "none"
    Auto = "auto"


args = SimpleNamespace(disable_metadata=False, preview_method=LatentPreviewMethod.NoPreviews, preview_size=512)
parser = argparse.ArgumentParser()
parser.add_argument("--preview-method", type=LatentPreviewMethod)


class PromptServer:
    instance = None  # a program may load nodes without starting the server


def module(name, *contents, **values):
    """A module of this name with these things of this file in it."""
    made = ModuleType(name)
    vars(made).update({each: globals()[each] for each in contents}, **values)
    made.__path__ = []
    return made


_FOLDERS = """
models_dir add_model_folder_path get_folder_paths get_full_path get_save_image_path get_input_directory
get_output_directory get_user_directory
"""
_MANAGEMENT = """
InterruptProcessingException interrupt_current_processing throw_exception_if_processing_interrupted get_torch_device
get_torch_device_name intermediate_device unet_offload_device free_memory get_free_memory get_total_memory
minimum_inference_memory load_models_gpu unload_all_models soft_empty_cache extra_reserved_memory
"""
folder_paths = module("folder_paths", *_FOLDERS.split())
MODULES = [
    folder_paths,
    module("comfy_api.latest", io=host_api.io(), Types=host_api.Types, ComfyExtension=host_api.ComfyExtension),
    module("comfy.cli_args", "args", "parser", "LatentPreviewMethod"),
    module("comfy.ldm.modules.attention", "optimized_attention"),
    module("comfy.model_management", *_MANAGEMENT.split()),
    module("comfy.model_patcher", "ModelPatcher"),
    module("comfy.ops", "cast_bias_weight", "uncast_bias_weight"),
    module("comfy.utils", "ProgressBar"),
    module("comfy_execution.graph", "DynamicPrompt"),
    module("comfy_execution.graph_utils", "GraphBuilder", "ExecutionBlocker"),
    module("comfy_execution.progress", "NodeState", "get_progress_state"),
    module("comfy_execution.utils", "ExecutionContext", "CurrentNodeContext", "get_executing_context"),
    module("server", "PromptServer"),
    module("nodes", NODE_CLASS_MAPPINGS={}),
]


def by_name():
    """{name: module}, the packages round the modules too."""
    found = {}
    for each in MODULES:
        parts = each.__name__.split(".")
        for depth in range(1, len(parts)):
            found.setdefault(".".join(parts[:depth]), module(".".join(parts[:depth])))
        found[each.__name__] = each
    for name, each in found.items():
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(found[parent], child, each)
    return found
