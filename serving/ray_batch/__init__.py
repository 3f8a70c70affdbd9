"""The commands on Ray Data: a batch over many GPUs (`batch`), and when each process worked in it (`timeline`)."""
