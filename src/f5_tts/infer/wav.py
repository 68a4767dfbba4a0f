"""A waveform -> a WAV file."""

from __future__ import annotations
