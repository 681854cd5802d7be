"""Object detection on fused images beside each camera alone (Table 3 of arXiv:2305.11443)."""

from __future__ import annotations

__distribution__ = "emma-tasks"
