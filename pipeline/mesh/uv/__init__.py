"""UV unwrapping: charts, parameterisation, packing."""
