"""Stand-ins for what a TensorFlow may lack, with one function to add each of them.

Nothing that exists is replaced. The stand-ins have what Mesh TensorFlow, gin and T5 use when they
are imported or when they describe a run; running a model is the work of
`hmoe.t5.sessions.estimator`.
"""

from __future__ import annotations

import collections
import importlib.util
import sys
import types
from collections.abc import Callable
from typing import Any, NoReturn

from hmoe.compat import patches

# The last TensorFlow with `TPUEstimator`, as a user installs it.
TPU_STACK = "tensorflow==2.15.1 on Python 3.10 or 3.11"


def add_conversion_function() -> None:
    """Adds `framework.ops.register_tensor_conversion_function`, which has moved."""

    def moved() -> Callable[..., None]:
        from tensorflow.python.framework import tensor_conversion_registry

        return tensor_conversion_registry.register_tensor_conversion_function

    patches.CONVERSION_FUNCTION.add_if_missing(moved)


def add_estimator() -> None:
    """Adds `tf.estimator` and `tf.compat.v1.estimator`."""
    import tensorflow.compat.v1 as tf

    patches.ESTIMATOR_V1.add_if_missing(_estimator_module)
    patches.ESTIMATOR.add_if_missing(lambda: tf.estimator)


def _estimator_module() -> types.ModuleType:
    import tensorflow.compat.v1 as tf

    module = _module("estimator")
    module.ModeKeys = types.SimpleNamespace(TRAIN="train", EVAL="eval", PREDICT="infer")
    module.EstimatorSpec = Spec
    module.SessionRunHook = tf.train.SessionRunHook
    module.CheckpointSaverListener = tf.train.CheckpointSaverListener
    module.export = types.SimpleNamespace(ServingInputReceiver=ServingInputReceiver)
    return module


def add_tpu_modules() -> None:
    """Adds `tensorflow.python.tpu.tpu_config` and `tpu_estimator`."""
    import tensorflow.python.tpu  # noqa: F401  (the package of both)

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
    for patch, module in ((patches.TPU_CONFIG, config), (patches.TPU_ESTIMATOR, tpu_estimator)):
        sys.modules[module.__name__] = module
        patch.replace(module)


def add_torch_models() -> None:
    """Adds `t5.models.hf_model` where PyTorch is missing, so that `import t5.models` works.

    Only to Python's table of modules: the import of `t5.models` makes it an attribute.
    """
    name = "t5.models.hf_model"
    if name in sys.modules or importlib.util.find_spec("torch") is not None:
        return
    module = _module(name)
    module.HfPyTorchModel = NoTorchModel
    sys.modules[name] = module


def _module(name: str) -> Any:
    module = types.ModuleType(name, "A stand-in of hmoe.compat.")
    module.stand_in = True  # type: ignore[attr-defined]
    return module


class Settings:
    """Keeps its keyword arguments as attributes, as `RunConfig` and `TPUConfig` do."""

    def __init__(self, **settings: Any) -> None:
        self.__dict__.update(settings)


class Spec(Settings):
    """The result of a model function, as `EstimatorSpec` and `TPUEstimatorSpec` are."""

    def __init__(self, mode: str, **settings: Any) -> None:
        super().__init__(mode=mode, **settings)


ServingInputReceiver = collections.namedtuple(
    "ServingInputReceiver", ["features", "receiver_tensors", "receiver_tensors_alternatives"]
)
ServingInputReceiver.__new__.__defaults__ = (None,)


class NoTPUEstimator:
    """Takes the place of `TPUEstimator`, and says where to find a real one."""

    def __init__(self, *unused_args: Any, **unused_settings: Any) -> None:
        raise_no_tpu_estimator()


class NoTorchModel:
    """Takes the place of T5's PyTorch model, and says how to get it."""

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
