"""Handwritten digits, as scikit-learn ships them."""

from __future__ import annotations

import numpy as np

from mixnoise.datasets.split import Split, make_split, stratified


def load_digits(validation: bool = False) -> Split:
    """Eight-by-eight images of handwritten digits: scikit-learn's copy of the UCI set.

    1,347 training and 450 test rows of 64 columns, stratified.

    Args:
        validation: leave the test rows out altogether and put a quarter of the training rows in
            their place: what hyper-parameters are chosen on.

    Raises:
        ImportError: without scikit-learn.

    Example:
        >>> from mixnoise.datasets import load_digits
        >>> split = load_digits()
        >>> split.x_train.shape, split.x_test.shape
        (torch.Size([1347, 64]), torch.Size([450, 64]))
    """
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    parts = stratified((x / 16).astype(np.float32), y, 450, seed=0)
    return make_split(*parts, 0.25 if validation else None)
