"""Jobs on a mesh that the user brings: texture it, project pictures onto it, refine its shape.

They call the stages of networks/ and finishing/. existing.py reads the materials it has, keep.py says which stay.
"""
