"""Writes checkpoints in ComfyUI core's layout."""

import torch
from safetensors.torch import load_file, save_file

PREFIXES = {
    "structure_model.": "sparse_structure_flow_model",
    "img2shape_512.": "shape_slat_flow_model_512",
    "img2shape.": "shape_slat_flow_model_1024",
    "shape2txt.": "tex_slat_flow_model_1024",
    "struct_dec.": "sparse_structure_decoder",
    "shape_dec.": "shape_slat_decoder",
    "txt_dec.": "tex_slat_decoder",
}


def bundle(checkpoint, path, prefixes, dtype=torch.float32, outer=""):
    """Write ComfyUI core's layout: several models in one file, told apart by prefix."""
    tensors = {}
    for prefix in prefixes:
        for key, value in load_file(checkpoint / "ckpts" / f"{PREFIXES[prefix]}.safetensors").items():
            if value.dtype != torch.complex64:
                tensors[outer + prefix + key] = value.to(dtype)
    save_file(tensors, path)
