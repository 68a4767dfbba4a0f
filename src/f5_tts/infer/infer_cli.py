"""Command `f5-tts_infer-cli` by the name of its module in F5-TTS."""

from __future__ import annotations

from f5_tts.infer.cli import main

if __name__ == "__main__":
    main()
