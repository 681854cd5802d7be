"""Fusion of two scans of one head, beside each scan alone (Table 5 of arXiv:2305.11443)."""

from __future__ import annotations

__distribution__ = "emma-tasks"
