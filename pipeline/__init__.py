"""TRELLIS.2 as a library: a picture in, a textured GLB out. Start reading at stages.py."""

__version__ = "0.2.0"
