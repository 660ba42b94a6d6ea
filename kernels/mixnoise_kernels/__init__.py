"""The Triton backend of mixnoise. Imports torch and triton, never mixnoise.

This release has no kernels in it yet: :mod:`mixnoise.ops` runs the PyTorch backend everywhere.
"""
