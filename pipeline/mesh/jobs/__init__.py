"""Library calls in processes that can be killed."""
