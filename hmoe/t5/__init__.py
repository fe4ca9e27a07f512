"""All that knows T5: importing this registers layers and tasks, and finds gin files.

With T5's own command, on the TPU line: `python -m hmoe.compat t5.models.mesh_transformer_main
--module_import=hmoe.t5 ...`, since Mesh TensorFlow does not import by itself there either.
"""

from __future__ import annotations

import gin

from hmoe.compat import stack  # noqa: F401  (must come before anything of T5)
from hmoe.startup import gin_files
from hmoe.t5 import configurables  # noqa: F401
from hmoe.t5.data import tasks, training_data  # noqa: F401

gin.add_config_file_search_path(str(gin_files.folder()))
