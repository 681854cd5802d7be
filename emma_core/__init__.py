"""emma_core: EMMA image fusion (arXiv:2305.11443), its data, its metrics and its report.

Everything public is loaded on first use, so that ``import emma_core`` costs nothing:

    >>> import emma_core
    >>> emma_core.__version__
    '0.1.0'
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"
__distribution__ = "emma-tasks"

_PUBLIC = {
    "fuse_pair": "emma_core.fuse",
    "load_fuser": "emma_core.fusers",
    "fusion_metrics": "emma_core.metrics.fusion",
    "read_image": "emma_core.images",
    "write_image": "emma_core.images",
    "find_pairs": "emma_core.pairs",
}

__all__ = ["__version__", *sorted(_PUBLIC)]  # noqa: PLE0604 - the names are strings, which ruff cannot see


def __getattr__(name: str) -> Any:  # noqa: ANN401 - PEP 562 hook: the public API is heterogeneous
    """Load a public name from the module that defines it."""
    if name not in _PUBLIC:
        raise AttributeError(f"module 'emma_core' has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    """List the public names, loaded or not."""
    return __all__
