"""Write the report of runs and evaluations: one HTML page to look at, listen to and send on.

`python -m f5_tts.scripts.report RUN [RUN ...]` reads the folders of runs (ckpts.save_dir), of evaluations (eval.out),
and those below them. It computes nothing anew: clips and scores are those of the evaluations.
"""

from __future__ import annotations

from f5_tts.commands import start

if __name__ == "__main__":  # before the imports below, which take seconds
    start("report")

from argparse import Namespace

from f5_tts.report.render import FILE, describe, write_page
from f5_tts.report.sources import find_sources


def run(arguments: Namespace) -> bool:
    """Run the command: write the page, and print the verdicts and where it is."""
    sources = find_sources(arguments.runs, arguments.before)
    path = arguments.out or arguments.runs[0] / FILE
    verdicts = write_page(sources, path, title=arguments.title, judge=arguments.judge)
    print("\n".join(verdict.headline.text for verdict in verdicts))
    print(describe(path))
    return True
