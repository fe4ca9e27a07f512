"""The cross entropy of each target, apart from T5's output z-loss."""

from __future__ import annotations

from typing import NamedTuple

from mesh_tensorflow.transformer import transformer

from hmoe.compat.stack import mtf, tf


def target_weights(targets: mtf.Tensor, with_given_part: bool = True) -> mtf.Tensor:
    """Returns 1.0 for each target that counts and 0.0 for the others.

    Args:
      targets: int32 [*batch_dims, length]; 0 is padding, negative ids are not to be scored.
      with_given_part: whether the inputs' part of a joined sequence counts as well.

    Returns:
      float32 in the shape of `targets`.
    """
    weights = mtf.cast(mtf.greater(targets, 0), tf.float32)
    if with_given_part:
        return weights
    given = transformer.delimited_lm_inputs_mask(targets)
    return weights * mtf.cast(mtf.logical_not(given), tf.float32)


class TargetLosses(NamedTuple):
    """The loss of each target.

    Attributes:
      cross_entropy: float32 [*batch_dims, length], in nats; 0 where the weight is 0.
      below_zero: float32 [*batch_dims, length], the amount by which it is below 0 that rounding
        cannot explain. No probability is above 1, so this is 0 unless a sum over the mesh is wrong.
    """

    cross_entropy: mtf.Tensor
    below_zero: mtf.Tensor


class TargetCrossEntropy:
    """Computes the cross entropy of given targets, with or without label smoothing.

    Everything that two such losses have in common is computed once.

    Args:
      logits: [*batch_dims, length, vocab].
      targets: int32 [*batch_dims, length].
    """

    def __init__(self, logits: mtf.Tensor, targets: mtf.Tensor):
        self._logits = mtf.cast(logits, tf.float32)
        self._vocab = logits.shape.dims[-1]
        self._targets = mtf.maximum(targets, 0)
        # [*batch_dims, length, vocab] -> [*batch_dims, length]
        self._log_z = mtf.reduce_logsumexp(self._logits, self._vocab)
        # A small cross entropy is the difference of two numbers that may be large.
        self._rounding = mtf.abs(self._log_z) * 1e-5 + 1e-3
        self._unweighted: dict[float, mtf.Tensor] = {}

    def losses(self, weights: mtf.Tensor, label_smoothing: float = 0.0) -> TargetLosses:
        """Returns the loss of each target.

        Args:
          weights: float32 [*batch_dims, length], from `target_weights`.
          label_smoothing: share of the probability that is spread over the whole vocabulary.
        """
        if label_smoothing not in self._unweighted:
            self._unweighted[label_smoothing] = self._log_z - self._score(label_smoothing)
        losses = self._unweighted[label_smoothing] * weights
        return TargetLosses(losses, mtf.relu(-losses - self._rounding))

    def _score(self, label_smoothing: float) -> mtf.Tensor:
        """Returns the mean logit [*batch_dims, length] under the smoothed target distribution."""
        rest = label_smoothing / self._vocab.size
        wanted = mtf.one_hot(
            self._targets,
            self._vocab,
            dtype=tf.float32,
            on_value=1.0 - label_smoothing + rest,
            off_value=rest,
        )
        # [*batch_dims, length, vocab] -> [*batch_dims, length]
        return mtf.reduce_sum(self._logits * wanted, reduced_dim=self._vocab)
