"""TRELLIS.2 as a library: a picture in, a textured GLB out. Start reading at stages/__init__.py."""

__version__ = "0.2.0"
