"""The Triton backend of mixnoise. Imports torch and triton, never mixnoise.

NT-Xent: normalize.py, triangle.py, rows.py, loss.py and gradient.py hold kernels, tiles.py what
they share, blocks.py their sizes, unit_rows.py, nt_xent.py and nt_xent_rows.py the launches.
Mixing: hash.py, elementary.py, views.py and views_gradient.py hold kernels, mix.py the launches.
Drawing: partners.py and draw.py, likewise. launch.py launches all of them, operators.py registers
them with PyTorch; aot.py compiles all of aot_cases.py without a GPU.
"""
