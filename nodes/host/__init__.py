"""What the nodes need of ComfyUI: model folders, memory manager, progress, pictures, health."""
