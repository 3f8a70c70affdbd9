"""The commands that measure a service, which process.py starts: `load`, `soak` and `cold-start`."""
