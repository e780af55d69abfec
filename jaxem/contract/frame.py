"""The coordinates of a computation: rows and params are moved into them, and results back.

float32 keeps 7 digits. Rows of float64 that lie far from 0 lose digits when they are rounded, so
their origin is moved before, in float64 on the host, and the results are moved back in float64. A
`Frame` does both, for fits and for the methods that are called after them. Inside the compiled
programs the model's standard `units` are used in addition.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxem.contract.affine import FAR
from jaxem.contract.parts import any_part
from jaxem.contract.units import Identity, Units, each_copy
from jaxem.inputs import arrays
from jaxem.numerics.tracing import is_traced


class Frame(NamedTuple):
    """Host coordinates, and the dtype of the programs that compute in them.

    Attributes:
        units: the change from the data's coordinates to those of the frame, on the host; `Identity`
            where nothing has to be moved.
        dtype: the dtype of the programs.
    """

    units: Units
    dtype: Any

    @classmethod
    def of(cls, model: Any, rows: Any, params: Any, dtype: Any) -> "Frame":
        """The frame for rows and params of a model.

        Args:
            model: the model.
            rows: rows on the host, or None.
            params: params on the host, or None.
            dtype: the dtype of the programs.
        """
        if dtype != np.float32 or not model.additive:
            return cls(Identity(), dtype)
        return cls(model.origin(rows, params), dtype)

    @property
    def moves(self) -> bool:
        """Whether anything is moved."""
        return not self.units.is_identity

    # --- into the frame ---------------------------------------------------------------------------

    def model(self, model: Any) -> Any:
        """The model with its hyperparameters in this frame."""
        return self.units.model(model)

    def rows(self, rows: Any) -> Any:
        """The rows in this frame, on the device. They are moved before they are rounded."""
        if self.moves:
            rows = arrays.map_rows(self.units.rows, rows, self.dtype)
        return jax.tree.map(lambda leaf: arrays.on_device(leaf, self.dtype), rows)

    def params(self, params: Any, batch: bool = False) -> Any:
        """The params in this frame, as NumPy arrays. They are moved before they are rounded.

        Args:
            params: params in the data's units. If they are traced, only their dtype changes.
            batch: whether the leaves have a leading axis of starts or fits.
        """
        if is_traced(params):
            return jax.tree.map(lambda leaf: leaf.astype(self.dtype), params)
        if self.moves:
            params = self._on_host(self.units.params, params, batch)
        return jax.tree.map(lambda leaf: np.asarray(leaf).astype(self.dtype), params)

    # --- out of the frame -------------------------------------------------------------------------

    def params_back(self, params: Any, batch: bool = False, judged: Any = None) -> Any:
        """Params in the data's units.

        Args:
            params: params in this frame.
            batch: whether the leaves have a leading axis of starts or fits.
            judged: which entries of that axis decide whether float32 can hold the params (None:
                all).

        Returns:
            Arrays on the device, or NumPy arrays of float64 where float32 cannot hold the params.
        """
        if not self.moves:
            return params
        wide = self._on_host(self.units.back, params, batch)
        if self.units.loses_digits(wide if judged is None else jax.tree.map(lambda leaf: leaf[judged], wide)):
            return wide
        return jax.tree.map(lambda leaf: arrays.on_device(leaf, self.dtype), wide)

    def _on_host(self, move, params, batch):
        """move(params), for each entry of a leading axis by itself where the units need that."""
        return _wide(partial(each_copy, move) if batch and not self.units.broadcasts else move, params)

    def rows_back(self, rows: Any) -> Any:
        """Rows in the data's units.

        Returns:
            Arrays on the device, or NumPy arrays of float64 where float32 cannot hold the rows.
        """
        if not self.moves:
            return rows
        wide = _wide(self.units.rows_back, rows)
        far = any(_is_far(leaf) for leaf in jax.tree.leaves(wide))
        return wide if far else jax.tree.map(lambda leaf: arrays.on_device(leaf, self.dtype), wide)

    def log_prob_back(self, log_prob: jax.Array) -> Any:
        """Log densities [n] of the rows in the data's units, in nats, from those in this frame."""
        volume = self.units.log_volume()
        if not self.moves or not np.any(volume):
            return log_prob
        return arrays.on_device(np.asarray(log_prob, np.float64) - volume, self.dtype)

    def total_back(self, value: Any, weights: Any) -> Any:
        """A log-likelihood in the data's units from one in this frame, total in nats.

        Args:
            value: the log-likelihood or the objective of all rows, or a history of them.
            weights: the weights of the rows [n].
        """
        volume = self.volume(weights)
        return arrays.on_device(np.asarray(value, np.float64) - volume, self.dtype) if volume else value

    def volume(self, weights: Any) -> float:
        """By how much the log-likelihood of all rows is larger in this frame, total in nats.

        Args:
            weights: the weights of the rows [n].
        """
        if not self.moves:
            return 0.0
        return float(np.sum(np.asarray(weights, np.float64) * self.units.log_volume()))


def _wide(function, tree):
    """The result of function(tree) in float64 on the host, whatever the default dtype of JAX is."""
    with jax.enable_x64(True):
        moved = function(jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), tree))
        return jax.tree.map(np.asarray, moved)


def _is_far(rows):
    """Whether a column of the rows [n, ...] has a mean over FAR times its standard deviation."""
    rows = np.ma.masked_invalid(rows.reshape(len(rows), -1))
    return rows.dtype.kind == "f" and bool((np.abs(rows.mean(0)) > FAR * rows.std(0)).any())


# --- how the results of methods leave the frame that they were computed in ------------------------


def unchanged(frame: Frame, outcome: Any) -> Any:
    """Results without units: probabilities, hidden values, entropies."""
    return outcome


def log_densities(frame: Frame, outcome: Any) -> Any:
    """Results that are log densities log p(x_i) [n]."""
    return frame.log_prob_back(outcome)


def data_rows(frame: Frame, outcome: Any) -> Any:
    """Results that are rows like those of the data."""
    return frame.rows_back(outcome)


def hidden_and_rows(frame: Frame, outcome: Any) -> Any:
    """Results that are pairs (hidden values, rows)."""
    return outcome[0], frame.rows_back(outcome[1])


def model_params(frame: Frame, outcome: Any) -> Any:
    """Results that are params of the model."""
    return frame.params_back(outcome)


def expectations(frame: Frame, outcome: Any) -> Any:
    """Results that are an `EStep`."""
    return outcome._replace(log_prob=frame.log_prob_back(outcome.log_prob))


def called_in_frame(model: Any, program: Any, gives: Any, arguments: dict) -> Any:
    """The result of program(model, **arguments), computed in the frame that the arguments need.

    Args:
        model: the model whose method is called.
        program: the compiled method.
        gives: how the result leaves the frame, such as `unchanged` or `data_rows`.
        arguments: the checked arguments, by name.
    """
    frame = _frame_of_call(model, arguments)
    as_they_are = "resp" in arguments and any_part(model, "posterior_has_units")
    if frame is None or as_they_are:
        return program(model, **arguments)
    moved = dict(arguments)
    for name in ("x", "future"):
        if name in moved:
            moved[name] = frame.rows(moved[name])
    if "params" in moved:
        moved["params"] = frame.params(moved["params"])
    outcome = gives(frame, program(frame.model(model), **moved))
    if gives is expectations and any_part(model, "posterior_has_units"):
        return outcome._replace(resp=program(model, **arguments).resp)
    return outcome


def _frame_of_call(model, arguments) -> Frame | None:
    """The frame for the rows and params of a call; None where they are not moved."""
    rows, params = arguments.get("x"), arguments.get("params")
    leaves = jax.tree.leaves((rows, params))
    if not leaves or is_traced(model, leaves) or arrays.default_float() == np.float64:
        return None
    if not any(isinstance(leaf, np.ndarray) and leaf.dtype == np.float64 for leaf in leaves):
        return None
    rows, params = arrays.on_host(rows), arrays.on_host(params)
    if not all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves((rows, params))):
        return None
    frame = Frame.of(model, rows, params, np.dtype(np.float32))
    return frame if frame.moves else None
