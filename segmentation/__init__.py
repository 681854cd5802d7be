"""Semantic segmentation on fused images beside each camera alone (Table 4 of arXiv:2305.11443)."""

from __future__ import annotations

__distribution__ = "emma-tasks"
