"""Trains the small checkpoint of this pack on procedurally generated objects; the pack does not import this."""
