"""Recipes of seconds, as the files that ``--config`` takes; what is trained by them is good for nothing."""

from __future__ import annotations

TINY_DETECTOR = """
model = "yolov5n"
width = 0.0625
size = 64
epochs = 2
batch = 4
nominal_batch = 4
"""

TINY_SEGMENTER = """
size = [64, 96]
crop = [64, 64]
balance = 0.5
[network]
encoder_weights = "none"
decoder_channels = 16
[schedule]
frozen_epochs = 0
batch = 2
warm_up_epochs = 0
final_epochs = 0
"""
