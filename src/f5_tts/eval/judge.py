"""The judge: a recogniser that was never a reward, so that a model cannot have learnt to please it."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import soxr
import torch
from jaxtyping import Float
from torch import Tensor

SAMPLE_RATE = 16_000  # Hz, what Whisper hears
FRAMES_PER_S = 100
BATCH = 8  # clips recognised at once
