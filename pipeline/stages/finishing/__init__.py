"""Stages on meshes, after the networks or without them: process, unwrap, bake or color, preview, export.

finish.py calls them in a row; the other modules are parts of a stage.
"""
