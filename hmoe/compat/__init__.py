"""All that depends on the versions of other packages; nothing else in this package knows them.

Mesh TensorFlow and T5 were written for a TensorFlow that still had `tf.estimator` and
`TPUEstimator`. `install` adds stand-ins for what the modules that they import no longer have, and
leaves alone what is there. After `import hmoe` this happens by itself when they are imported
(`import_hook`); inside the package `hmoe.compat.stack` provides `mtf` and `tf`.

What the package replaces in other packages, or reads there although it is private, is listed in
`patches`. Importing this package imports no TensorFlow; its functions do.
"""

from __future__ import annotations

import threading

__all__ = [
    "behave_like_v1",
    "install",
    "tpu_estimator_is_real",
    "use_resource_variables",
]

_installing = threading.RLock()


def install() -> None:
    """Adds what the installed TensorFlow lacks; calling it again changes nothing.

    Must run before Mesh TensorFlow or T5's models are imported. Names that exist are never
    replaced.
    """
    from hmoe.compat import stand_ins

    # Two threads that import at once must not get stand-ins of their own.
    with _installing:
        stand_ins.add_conversion_function()
        stand_ins.add_estimator()
        stand_ins.add_tpu_modules()
        stand_ins.add_torch_models()


def behave_like_v1() -> None:
    """Gives this process TensorFlow 1 behaviour, with resource variables.

    `tf.disable_v2_behavior()` alone leaves reference variables, and then an optimizer's updates
    race with gradients that still read the old weights: runs differ, and weights are wrong.
    """
    import tensorflow.compat.v1 as tf

    tf.disable_v2_behavior()
    use_resource_variables()


def use_resource_variables() -> None:
    """Makes all variables created from here on resource variables.

    Every graph that trains calls this again: a module that was imported in the meantime, such as a
    user's, may have called `tf.disable_v2_behavior()`, which asks for reference variables.
    """
    import tensorflow.compat.v1 as tf

    tf.enable_resource_variables()


def tpu_estimator_is_real() -> bool:
    """Returns whether this TensorFlow can drive a TPU with `TPUEstimator`, or has a stand-in."""
    install()
    from tensorflow.python.tpu import tpu_estimator

    return not getattr(tpu_estimator, "stand_in", False)
