"""What a checkpoint is worth: on held-out objects, by kind of evaluation a file; the pictures of the README."""
