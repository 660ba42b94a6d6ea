"""DACL as a scikit-learn transformer: a table in, features out."""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

try:
    from scipy.sparse import issparse
    from sklearn.base import (
        BaseEstimator,
        ClassNamePrefixFeaturesOutMixin,
        TransformerMixin,
        clone,
    )
    from sklearn.utils import check_random_state
    from sklearn.utils.validation import check_is_fitted
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"{error}; pip install 'mixnoise[tables]'", name=error.name
    ) from error

import numpy as np
import torch

from mixnoise.checks import check_float, check_integer
from mixnoise.features import frozen
from mixnoise.model import DACL
from mixnoise.networks import TableEncoder, projector
from mixnoise.noises.base import Noise
from mixnoise.noises.hidden import Hidden
from mixnoise.plugins import NoisePluginError
from mixnoise.registry import get_noise
from mixnoise.seeding import derive_seed, preserved_random_state
from mixnoise.tabular import encoder_file
from mixnoise.tabular.columns import Columns
from mixnoise.tabular.noise import TableNoise
from mixnoise.tabular.rows import Rows, held_out, parts
from mixnoise.tabular.sparse_scale import scale_of, scaled_rows
from mixnoise.tabular.table_input import columns_of, table_of, validated
from mixnoise.train import LossNotFinite, pretrain
from mixnoise.training.optim import make_optimizer

#: scikit-learn's own checks that ``DACLEncoder`` does not pass, and why; for ``check_estimator``.
EXPECTED_FAILED_CHECKS: dict[str, str] = {}

_NOT_SAVED = ("run_dir", "resume", "verbose", "random_state")  # of the parameters
# What the model and the columns are made of: set_params changes it for the next fit alone.
_FITTED = ("n_components", "n_layers", "noise", "alpha", "temperature", "categorical_features")
_SCALE, _TEMPERATURE = "sparse_scale", "loss.temperature"  # among the tensors
# Held out for stopping early: a tenth, but no more than tell one epoch from the next.
_VALIDATION_SHARE, _VALIDATION_ROWS = 0.1, 2048
_LEAST_ROWS_TO_HOLD_OUT = 50


class DACLEncoder(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Features of a table, learned without labels by contrasting mixed rows (DACL).

    Takes what scikit-learn takes: NumPy arrays, data frames of pandas, polars and others that
    narwhals knows, sparse matrices. In data frames numbers, booleans, dates and durations are
    numbers, text is categories, and what is missing may stay so:

    - Numbers are scaled by median and quartiles and softly limited, so that no outlier matters. A
      missing one, NaN or masked, is the median, and a column of its own says where they were.
      Dates of a column must have a time zone in all calls, or in none.
    - Categories are embedded, and swapped for those of another row instead of mixed. A missing one
      is a category of its own; those that were seen once, were not among the 255 most frequent, or
      were never seen share one code. Numbers are refused where no category of ``fit`` was one.
    - Columns of text of which no value occurs twice (identifiers), or all are the same, are left
      out.
    - Sparse matrices are scaled by each column's largest magnitude, and stay sparse. None of their
      values may be missing.

    Args:
        n_components: features that come out, the width of the network, >= 1.
        n_layers: of the network, each a linear map, batch norm and ReLU, >= 1.
        noise: for the numbers, a name as :func:`mixnoise.get_noise` has it, or a noise.
        alpha: lower end of the share of a row that stays its own, c ~ U(alpha, 1), in [0, 1]. Of a
            noise that has another strength, such as sigma of "gaussian", or is not given by name,
            that is its own, and alpha is that of the categories alone.
        temperature: of the NT-Xent loss, > 0.
        batch_size: rows a step, >= 2.
        max_iter: epochs at most, >= 1.
        learning_rate: peak of AdamW's, > 0.
        categorical_features: "auto" takes text for categories; or names, positions or a mask of
            further columns that are, whatever they hold: numbers, dates, times of day. Integers are
            positions, as in scikit-learn, also where names are integers.
        early_stopping: hold a tenth of the rows out, 2,048 at most, and stop when their loss, which
            needs no label, has not become lower in ``n_iter_no_change`` epochs. Not done with fewer
            than 50 rows.
        n_iter_no_change: see there, >= 1.
        random_state: a seed, a ``RandomState`` or None. The same seed gives the same features, bit
            for bit, on the same machine with the same number of threads.
        verbose: a progress bar on a terminal, lines in a log.
        run_dir: a folder for the run, as :func:`mixnoise.pretrain` has it; None keeps none.
        resume: go on with a run in ``run_dir`` that was interrupted, with its ``random_state``, not
            None.

    Attributes:
        model_: the :class:`mixnoise.DACL` that was trained, in evaluation mode;
            ``model_.encoder`` is the network.
        columns_: what was learned of the columns; None for sparse matrices.
        history_: a row for each epoch, as :class:`mixnoise.train.Run` has it.
        n_iter_: epochs that were trained.
        n_features_in_, feature_names_in_: of the data seen in ``fit``.

    Raises:
        ValueError, TypeError: an argument breaks its rule; fewer than two rows in ``fit``; a number
            is infinite, NaN in a sparse matrix, or a masked integer; other columns than in ``fit``.

    Example:
        >>> import numpy as np
        >>> from mixnoise.sklearn import DACLEncoder
        >>> X = np.random.default_rng(0).normal(size=(200, 5))
        >>> DACLEncoder(n_components=16, max_iter=2, random_state=0).fit_transform(X).shape
        (200, 16)

    Source: Verma et al., DACL, arXiv 2011.04419; swapping categories: SCARF, arXiv 2106.15147.
    """

    model_: DACL
    columns_: Columns | None
    history_: list[dict[str, float]]

    def __init__(
        self,
        n_components: int = 128,
        *,
        n_layers: int = 2,
        noise: str | Noise = "dacl+",
        alpha: float = 0.7,
        temperature: float = 0.5,
        batch_size: int = 512,
        max_iter: int = 100,
        learning_rate: float = 1e-3,
        categorical_features: str | Sequence[Any] = "auto",
        early_stopping: bool = True,
        n_iter_no_change: int = 10,
        random_state: Any = None,
        verbose: bool = False,
        run_dir: str | os.PathLike[str] | None = None,
        resume: bool = False,
    ) -> None:
        self.n_components = n_components
        self.n_layers = n_layers
        self.noise = noise
        self.alpha = alpha
        self.temperature = temperature
        self.batch_size = batch_size
        self.max_iter = max_iter
        self.learning_rate = learning_rate
        self.categorical_features = categorical_features
        self.early_stopping = early_stopping
        self.n_iter_no_change = n_iter_no_change
        self.random_state = random_state
        self.verbose = verbose
        self.run_dir = run_dir
        self.resume = resume

    @torch.inference_mode(False)  # in which nothing can be trained
    def fit(self, X: Any, y: Any = None) -> DACLEncoder:
        """Learn what the columns are, and the network, from the rows of a table.

        Whatever is raised, the encoder is what it was before.

        Args:
            X: a table ``(N, columns)``, N >= 2: an array of real numbers, a data frame or a sparse
                matrix.
            y: ignored.

        Returns:
            The encoder itself.

        Raises:
            ValueError: a parameter breaks its rule; fewer than two rows; a number is infinite, or
                NaN in a sparse matrix; no column has anything to learn from; ``run_dir`` holds a
                run already, and ``resume`` is False.
            TypeError: a parameter is of another kind; a column of a data frame that is not among
                ``categorical_features`` holds neither numbers, dates nor text.
            LossNotFinite: the loss became NaN or infinite.
        """
        former = self.__dict__.copy()
        try:
            return self._fit(X)
        except BaseException:
            # A network that has not learned to the end must not pass for one that has.
            self.__dict__.clear()
            self.__dict__.update(former)
            raise

    def _fit(self, X: Any) -> DACLEncoder:
        self._check_parameters()
        if self.resume and self.random_state is None:
            raise ValueError(
                "resume needs the random_state of the run in run_dir, got None, which draws another"
            )
        x = self._start(X)
        data, validation = x, None
        if self.early_stopping and len(x) >= _LEAST_ROWS_TO_HOLD_OUT:
            n = min(int(len(x) * _VALIDATION_SHARE), _VALIDATION_ROWS)
            generator = torch.Generator().manual_seed(derive_seed(self._seed, "held out", 0))
            data, validation = held_out(x, n, generator)
        try:
            run = pretrain(
                self.model_,
                data,
                epochs=self.max_iter,
                batch_size=self.batch_size,
                lr=self.learning_rate,
                seed=self._seed,
                validation=validation,
                patience=None if validation is None else self.n_iter_no_change,
                evaluate_every=None if validation is None else 1,
                run_dir=self.run_dir,
                resume=self.resume,
                progress=bool(self.verbose),
            )
        finally:
            self.model_.eval()
        self.history_, self.n_iter_ = run.history, len(run.history)
        return self

    @torch.inference_mode(False)  # which turns gradients on, also under no_grad
    def partial_fit(self, X: Any, y: Any = None) -> DACLEncoder:
        """Go once through some rows, with a constant learning rate.

        The first call, unless ``fit`` was called before, also learns what the columns are, from its
        rows alone. Parameters that shape the network are those of that call.

        Args:
            X: a table ``(N, columns)``, N >= 2, as for :meth:`fit`; after the first call with the
                columns of that one.
            y: ignored.

        Returns:
            The encoder itself.

        Raises:
            ValueError, TypeError: as for :meth:`fit`; or the columns are others than before, or
                hold another kind of values.
            LossNotFinite: the loss became NaN or infinite; the network is the one before that
                batch.
        """
        self._check_parameters()
        if hasattr(self, "model_"):
            x = self._rows(validated(self, X, reset=False, least_rows=2))
        else:
            x = self._start(X)
            self.history_, self.n_iter_ = [], 0
        if not hasattr(self, "_optimizer"):
            self._optimizer = make_optimizer("adamw", self.model_, self.learning_rate, 1e-4)
        for group in self._optimizer.param_groups:
            group["lr"] = self.learning_rate  # which set_params may have changed
        seed = derive_seed(self._seed, "partial_fit", self.n_iter_)
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed), device="cpu")
        generator = torch.Generator().manual_seed(derive_seed(seed, "noise", 0))
        device = next(self.model_.parameters()).device
        self.model_.train()
        try:
            for step, rows in enumerate(order.split(self.batch_size)):
                if len(rows) < 2:
                    continue  # a row alone has no partner
                before = [buffer.clone() for buffer in self.model_.buffers()]  # batch norm's
                loss = self.model_(x[rows].to(device), generator=generator)
                if not loss.isfinite():
                    for buffer, value in zip(self.model_.buffers(), before, strict=True):
                        buffer.copy_(value)
                    raise LossNotFinite(
                        f"the loss became {loss.item()} at batch {step} of these rows; the network "
                        f"is the one before it: look at its rows, lower learning_rate="
                        f"{self.learning_rate} or raise temperature={self.temperature}",
                        step,
                        rows,
                    )
                self._optimizer.zero_grad()
                loss.backward()
                self._optimizer.step()
        finally:
            self.model_.eval()
        self.n_iter_ += 1
        return self

    def transform(self, X: Any) -> Any:
        """Features of the rows of a table. Threads may call it at the same time.

        Args:
            X: a table ``(N, columns)``, N >= 1, with the columns of ``fit``; sparse if it was
                sparse there.

        Returns:
            An array ``(N, n_components)``, float32; a data frame if ``set_output`` asks for one.

        Raises:
            NotFittedError: neither ``fit`` nor ``partial_fit`` was called.
            ValueError: no rows; a number is infinite, or NaN in a sparse matrix; the columns are
                others than in ``fit``, or hold another kind of values.
            TypeError: a column holds neither numbers, dates nor text.
        """
        check_is_fitted(self, "model_")
        x = self._rows(validated(self, X, reset=False, least_rows=1))
        with frozen(self.model_.encoder) as encode:
            return np.concatenate([encode(part).cpu().numpy() for part in parts(x)])

    def inspect_columns(self, X: Any) -> Columns | None:
        """What ``fit`` would take the columns for; None for sparse matrices.

        Nothing of the estimator changes.
        """
        X = validated(clone(self), X, reset=True, least_rows=2)
        rng = check_random_state(copy.deepcopy(self.random_state))
        return columns_of(X, self.categorical_features, rng)

    def matrix(self, X: Any) -> Any:
        """What the network takes, float32: scaled numbers, then codes of categories."""
        check_is_fitted(self, "model_")
        x = self._rows(validated(self, X, reset=False, least_rows=1))
        return torch.cat(list(parts(x))).numpy()

    def untrained(self) -> DACLEncoder:
        """The same encoder with the weights that training began with."""
        check_is_fitted(self, "model_")
        other = copy.copy(self)
        other.set_params(**self._fitted)
        other._make_model(self._seed)
        return other

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything that ``transform`` needs, and the projector, into a safetensors file.

        Weights are tensors, the rest is JSON in its header. It is written beside and renamed. A
        noise of another distribution must be installed where the file is loaded. A temperature that
        is a tensor becomes a number.

        Raises:
            ValueError: the noise is not one that a name can stand for; or a parameter, such as the
                transform of "augment", has no form in JSON.
        """
        check_is_fitted(self, "model_")
        parameters = {**self.get_params(), **self._fitted}
        if isinstance(noise := parameters["noise"], Noise):
            parameters["noise"] = noise.config()
            try:
                again = get_noise(**parameters["noise"])
                known = [*map(type, again.modules())] == [*map(type, noise.modules())]
            except (TypeError, ValueError, NoisePluginError):
                known = False
            if not known:
                raise ValueError(
                    f"{type(noise).__name__} cannot be saved, for no name stands for it: see "
                    "register_noise"
                )
        if not isinstance(parameters["categorical_features"], str):
            parameters["categorical_features"] = list(parameters["categorical_features"])
        tensors = self.model_.state_dict()
        if _TEMPERATURE in tensors:
            parameters["temperature"] = tensors.pop(_TEMPERATURE).item()
        content = {
            "parameters": _plain({k: v for k, v in parameters.items() if k not in _NOT_SAVED}),
            "columns": None if self.columns_ is None else self.columns_.as_dict(),
            "n_features_in": self.n_features_in_,
            "feature_names_in": getattr(self, "feature_names_in_", np.array([])).tolist(),
            "history": self.history_,
            "n_iter": self.n_iter_,
            "seed": self._seed,
        }
        if self.columns_ is None:
            tensors[_SCALE] = torch.from_numpy(self._scale)
        encoder_file.write(Path(path), content, tensors)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> DACLEncoder:
        """An encoder that ``save`` wrote; nothing is unpickled.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is not one of these files, or not whole.
        """
        found, tensors = encoder_file.read(Path(path))
        parameters = found["parameters"]
        if isinstance(parameters["noise"], dict):
            parameters["noise"] = get_noise(**parameters["noise"])
        encoder = cls(**parameters)
        encoder.n_features_in_ = found["n_features_in"]
        if found["feature_names_in"]:
            encoder.feature_names_in_ = np.array(found["feature_names_in"], dtype=object)
        encoder.history_, encoder.n_iter_ = found["history"], found["n_iter"]
        encoder.columns_ = None
        if found["columns"] is None:
            encoder._scale = tensors.pop(_SCALE).numpy()
        else:
            encoder.columns_ = Columns.from_dict(found["columns"])
        encoder._make_model(found["seed"])
        encoder.model_.load_state_dict(tensors)
        return encoder

    @property
    def _n_features_out(self) -> int:
        n_components: int = self._fitted["n_components"]
        return n_components

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.input_tags.allow_nan = True
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags

    def __getstate__(self) -> dict[str, Any]:
        # A pickle is of what was learned; partial_fit makes another optimiser.
        return {k: v for k, v in super().__getstate__().items() if k != "_optimizer"}

    def _start(self, X: Any) -> Rows:
        """Look at the columns and make a network for them; returns the rows for it."""
        X = validated(self, X, reset=True, least_rows=2)
        rng = check_random_state(self.random_state)
        seed = int(rng.randint(np.iinfo(np.int32).max))
        columns = columns_of(X, self.categorical_features, rng)
        if columns is None:
            self._scale = scale_of(X)
        self.columns_ = columns
        self._make_model(seed)
        return self._rows(X)

    @torch.inference_mode(False)  # what is made in it can never be trained
    def _make_model(self, seed: int) -> None:
        self._seed = seed
        if hasattr(self, "_optimizer"):
            del self._optimizer
        n_numbers, cardinalities = self.n_features_in_, []
        if self.columns_ is not None:
            n_numbers, cardinalities = self.columns_.n_numbers, self.columns_.cardinalities
        noise = TableNoise(self._noise_of_numbers(), n_numbers, self.alpha)
        with preserved_random_state(), torch.device("cpu"):
            torch.manual_seed(seed)
            encoder = TableEncoder(n_numbers, cardinalities, self.n_components, self.n_layers)
            model = DACL(encoder, projector(self.n_components), noise, self.temperature)
            model.float()  # whatever the default dtype is
        # Except while it learns, so that transform changes nothing and threads can share it.
        self.model_ = model.eval()
        self._fitted = {name: getattr(self, name) for name in _FITTED}

    def _noise_of_numbers(self) -> Noise:
        if isinstance(self.noise, Hidden) and self.noise.at is not None:
            raise ValueError(
                f"noise must mix rows of the table, for which 'hidden' stands for its inner noise, "
                f"got 'hidden' at {self.noise.at!r}: give the inner noise alone, or train with "
                "mixnoise.DACL, which mixes inside of a network"
            )
        if isinstance(self.noise, Noise):
            return self.noise
        if not isinstance(self.noise, str):
            raise TypeError(f"noise must be a name or a Noise, got {type(self.noise).__name__}")
        try:
            return get_noise(self.noise, alpha=self.alpha)
        except TypeError:  # it has another strength
            try:
                return get_noise(self.noise)
            except TypeError as error:
                raise ValueError(
                    f"noise {self.noise!r} cannot be made of its name alone ({error}); give the "
                    "noise itself"
                ) from error

    def _check_parameters(self) -> None:
        for name, least in (
            ("n_components", 1),
            ("n_layers", 1),
            ("batch_size", 2),
            ("max_iter", 1),
            ("n_iter_no_change", 1),
        ):
            check_integer(name, getattr(self, name), least)
        if not 0 < check_float("learning_rate", self.learning_rate, "finite and > 0") < math.inf:
            raise ValueError(f"learning_rate must be finite and > 0, got {self.learning_rate}")

    def _rows(self, X: Any) -> Rows:
        """What the network takes, of a validated X."""
        if issparse(X) != (self.columns_ is None):
            now, then = ("sparse", "dense") if issparse(X) else ("dense", "sparse")
            raise ValueError(f"X is {now}, and the encoder was fitted on {then} data")
        if self.columns_ is None:
            return scaled_rows(X, self._scale)
        return torch.from_numpy(self.columns_.transform(table_of(X, self.columns_.chosen)))


def _plain(value: Any) -> Any:
    """The same with Python's numbers for NumPy's, of which JSON knows nothing."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_plain(v) for v in value]
    return value.item() if isinstance(value, np.generic) else value
