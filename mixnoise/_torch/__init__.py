"""The PyTorch backend: any device, memory linear in the input, no compiler needed."""
