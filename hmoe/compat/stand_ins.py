"""The stand-ins themselves, one function for each thing that a TensorFlow may lack.

Each looks whether the thing is there, and adds it only if it is not. The stand-ins hold what
Mesh TensorFlow, gin and T5 touch when they are imported or when they describe a run; running a
model is the work of `hmoe.t5.sessions.estimator`.
"""

from __future__ import annotations

import collections
import importlib.util
import sys
import types
from typing import Any, NoReturn

# The last TensorFlow with ``TPUEstimator``, as a user installs it.
TPU_STACK = "tensorflow==2.15.1 on Python 3.10 or 3.11"


def conversion_registry() -> None:
    """`framework.ops.register_tensor_conversion_function`, which moved to its own module."""
    from tensorflow.python.framework import ops

    if not hasattr(ops, "register_tensor_conversion_function"):
        from tensorflow.python.framework import tensor_conversion_registry

        ops.register_tensor_conversion_function = (
            tensor_conversion_registry.register_tensor_conversion_function
        )


def estimator() -> None:
    """`tf.estimator` and `tf.compat.v1.estimator`."""
    import tensorflow
    import tensorflow.compat.v1 as tf

    if not hasattr(tf, "estimator"):
        tf.estimator = _estimator_module()
    if not hasattr(tensorflow, "estimator"):
        tensorflow.estimator = tf.estimator


def _estimator_module() -> types.ModuleType:
    import tensorflow.compat.v1 as tf

    module = _module("estimator")
    module.ModeKeys = types.SimpleNamespace(TRAIN="train", EVAL="eval", PREDICT="infer")
    module.EstimatorSpec = Spec
    module.SessionRunHook = tf.train.SessionRunHook
    module.CheckpointSaverListener = tf.train.CheckpointSaverListener
    module.export = types.SimpleNamespace(ServingInputReceiver=ServingInputReceiver)
    return module


def tpu() -> None:
    """`tensorflow.python.tpu.tpu_config` and `tpu_estimator`."""
    import tensorflow.python.tpu as package

    if "tensorflow.python.tpu.tpu_estimator" in sys.modules:
        return
    if importlib.util.find_spec("tensorflow.python.tpu.tpu_estimator") is not None:
        return
    config = _module("tensorflow.python.tpu.tpu_config")
    config.TPUConfig = config.RunConfig = Settings
    config.InputPipelineConfig = types.SimpleNamespace(BROADCAST="broadcast")
    tpu_estimator = _module("tensorflow.python.tpu.tpu_estimator")
    tpu_estimator.TPUEstimator = NoTPUEstimator
    tpu_estimator.TPUEstimatorSpec = Spec
    for module in (config, tpu_estimator):
        sys.modules[module.__name__] = module
        setattr(package, module.__name__.rpartition(".")[2], module)


def t5_torch_models() -> None:
    """`t5.models.hf_model` where PyTorch is missing, so that `import t5.models` works."""
    name = "t5.models.hf_model"
    if name in sys.modules or importlib.util.find_spec("torch") is not None:
        return
    module = _module(name)
    module.HfPyTorchModel = NoTorchModel
    sys.modules[name] = module


def _module(name: str) -> Any:
    module = types.ModuleType(name, "Stand-in by hmoe.compat.")
    module.stand_in = True  # type: ignore[attr-defined]
    return module


class Settings:
    """Keeps its keyword arguments as attributes, as `RunConfig` and `TPUConfig` do."""

    def __init__(self, **settings: Any) -> None:
        self.__dict__.update(settings)


class Spec(Settings):
    """`EstimatorSpec` and `TPUEstimatorSpec`: what a model function says about its graph."""

    def __init__(self, mode: str, **settings: Any) -> None:
        super().__init__(mode=mode, **settings)


ServingInputReceiver = collections.namedtuple(
    "ServingInputReceiver", ["features", "receiver_tensors", "receiver_tensors_alternatives"]
)
ServingInputReceiver.__new__.__defaults__ = (None,)


class NoTPUEstimator:
    """Stands where `TPUEstimator` was."""

    def __init__(self, *unused_args: Any, **unused_settings: Any) -> None:
        raise_no_tpu_estimator()


class NoTorchModel:
    """Stands where T5's PyTorch model would be."""

    def __init__(self, *unused_args: Any, **unused_settings: Any) -> None:
        raise ImportError(
            "t5.models.HfPyTorchModel needs PyTorch; install it with: pip install torch"
        )


def raise_no_tpu_estimator() -> NoReturn:
    """Raises the error for a run on TPU under a TensorFlow without `TPUEstimator`."""
    import tensorflow

    raise ValueError(
        f"--tpu needs TPUEstimator, which TensorFlow {tensorflow.__version__} no longer has; "
        f"install {TPU_STACK}, or leave out --tpu to run on this machine"
    )
