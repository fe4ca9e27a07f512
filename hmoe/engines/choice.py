"""Which engine moves tokens on which mesh."""
from __future__ import annotations

from types import ModuleType
from typing import Any

from hmoe.compat.stack import mtf
from hmoe.engines import einsum, index

ENGINES = ("auto", "index", "einsum")


def engine_of(mesh_impl: Any, asked: str) -> ModuleType:
    """The engine for a mesh.

    Args:
      mesh_impl: what the graph is lowered for.
      asked: "index", "einsum", or "auto": einsum on TPUs, whose matrix units multiply
        sooner than memory gathers; index on processors and GPUs.
    """
    if asked == "auto":
        asked = "einsum" if isinstance(mesh_impl, mtf.simd_mesh_impl.SimdMeshImpl) else "index"
    return {"index": index, "einsum": einsum}[asked]
