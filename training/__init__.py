"""Trains the small checkpoint of this pack on procedural objects; nothing of the pack imports this."""
