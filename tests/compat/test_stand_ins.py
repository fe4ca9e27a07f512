"""The stand-ins: each import in a process of its own, since imports cannot be undone."""

from __future__ import annotations

import subprocess
import sys

import pytest

from hmoe import compat
from hmoe.compat import stand_ins


def run_python(code: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=300
    )


def needs_stand_ins() -> bool:
    """TensorFlow 2.12 was the last that Mesh TensorFlow 0.1.21 imports under by itself."""
    from tensorflow.python.framework import ops

    return "tensor_conversion_registry" in ops.register_tensor_conversion_function.__module__


def test_upstream_imports_after_install_and_installing_twice_changes_nothing() -> None:
    result = run_python(
        "from hmoe import compat\n"
        "import sys\n"
        "compat.install()\n"
        "import mesh_tensorflow.transformer.utils, t5.models\n"
        "print(t5.models.mesh_transformer.__name__)\n"
        "import tensorflow as tf\n"
        "from tensorflow.python.framework import ops\n"
        "from tensorflow.python.tpu import tpu_config, tpu_estimator\n"
        "def state():\n"
        "    return [tf.estimator, tf.compat.v1.estimator, tpu_config, tpu_estimator,\n"
        "            ops.register_tensor_conversion_function,\n"
        "            sys.modules.get('t5.models.hf_model')]\n"
        "before = state()\n"
        "compat.install()\n"
        "from tensorflow.python.tpu import tpu_config, tpu_estimator\n"
        "print(all(a is b for a, b in zip(before, state())))"
    )
    assert result.stdout == "t5.models.mesh_transformer\nTrue\n", result.stderr


def test_without_install_the_import_fails() -> None:
    """Why this package exists; when this test fails, a stand-in is no longer needed."""
    compat.install()
    if not needs_stand_ins():
        pytest.skip("this TensorFlow needs no stand-in")
    result = run_python("import mesh_tensorflow")
    assert result.returncode == 1
    assert "estimator" in result.stderr or "register_tensor_conversion_function" in result.stderr


def test_importing_compat_imports_no_tensorflow() -> None:
    result = run_python("import sys, hmoe.compat\nprint('tensorflow' in sys.modules)")
    assert result.stdout == "False\n", result.stderr


def test_stand_in_for_tpu_estimator_names_the_stack() -> None:
    import tensorflow

    with pytest.raises(ValueError) as error:
        stand_ins.NoTPUEstimator(model_fn=None)
    assert str(error.value) == (
        f"--tpu needs TPUEstimator, which TensorFlow {tensorflow.__version__} no longer has; "
        "install tensorflow==2.15.1 on Python 3.10 or 3.11, or leave out --tpu to run on this "
        "machine"
    )


def test_stand_in_for_torch_model_says_what_to_install() -> None:
    with pytest.raises(ImportError) as error:
        stand_ins.NoTorchModel("t5-small")
    assert str(error.value) == (
        "t5.models.HfPyTorchModel needs PyTorch; install it with: pip install torch"
    )


def test_tpu_estimator_is_real_only_where_tensorflow_has_it() -> None:
    import tensorflow

    assert compat.tpu_estimator_is_real() == tensorflow.__version__.startswith("2.15.")
