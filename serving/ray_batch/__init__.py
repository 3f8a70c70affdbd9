"""The commands on Ray Data: a batch over many GPUs (`batch`), and who worked when in it (`timeline`)."""
