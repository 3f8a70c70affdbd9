"""Stages that run networks: picture -> condition -> structure -> shape -> texture -> mesh and voxels; mesh -> latents.

latents.py and sampler.py are what several of them share.
"""
