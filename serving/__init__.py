"""Many pictures, many GPUs, a service: on Ray and FastAPI, above the pipeline. Nothing imports this folder."""
