"""Writing of WAV files."""

from __future__ import annotations
