"""What the installed TensorFlow lacks, put back; nothing else in the package knows of versions.

Mesh TensorFlow and T5 were written for a TensorFlow that still had `tf.estimator` and
`TPUEstimator`. :func:`install` gives the modules they import a stand-in where the installed
TensorFlow has none, and leaves alone whatever it has. `hmoe.compat.stack` is the one way in the
package to get at `mtf` and `tf`: it calls :func:`install` first.

Importing this package imports no TensorFlow; its functions do.
"""

from __future__ import annotations

__all__ = [
    "behave_like_v1",
    "install",
    "tpu_estimator_is_real",
    "use_resource_variables",
]


def install() -> None:
    """Puts back what the installed TensorFlow lacks; calling it again changes nothing.

    Must run before `mesh_tensorflow` or `t5` is imported. Names that exist are never replaced.
    """
    from hmoe.compat import stand_ins

    stand_ins.conversion_registry()
    stand_ins.estimator()
    stand_ins.tpu()
    stand_ins.t5_torch_models()


def behave_like_v1() -> None:
    """Gives this process TensorFlow 1 behaviour, with resource variables.

    `tf.disable_v2_behavior()` alone leaves reference variables, and then an optimizer's updates
    race with gradients that still read the old weights: runs differ, and weights are wrong.
    """
    import tensorflow.compat.v1 as tf

    tf.disable_v2_behavior()
    use_resource_variables()


def use_resource_variables() -> None:
    """Makes variables from here on resource variables, whatever was asked for before.

    For every graph that trains: a module that is imported on the way, such as a user's, may have
    called `tf.disable_v2_behavior()`, which asks for reference variables.
    """
    import tensorflow.compat.v1 as tf

    tf.enable_resource_variables()


def tpu_estimator_is_real() -> bool:
    """Whether this TensorFlow can drive a TPU by `TPUEstimator`, that is, has no stand-in."""
    install()
    from tensorflow.python.tpu import tpu_estimator

    return not getattr(tpu_estimator, "stand_in", False)
