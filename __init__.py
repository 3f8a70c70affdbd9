"""ComfyUI-TRELLIS2-Stages: what ComfyUI loads. Nothing of the pack is imported before ComfyUI asks for it."""

WEB_DIRECTORY = "./web"


async def comfy_entrypoint():
    """The pack's extension, for ComfyUI's V3 loader."""
    import logging

    try:
        from .nodes import load

        return load()
    except BaseException:
        # ComfyUI shows an error here as one line without its origin
        logging.getLogger(__name__).exception("ComfyUI-TRELLIS2-Stages could not be loaded")
        raise
