"""What install.py is made of: the standard library alone, as it may run before any requirement is there."""
