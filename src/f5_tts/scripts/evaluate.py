"""Evaluate a checkpoint on a held-out test set: error rate and speaker similarity.

`python -m f5_tts.scripts.evaluate -cn F5TTS_Mini eval.ckpt=FILE eval.out=DIR` selects the guidance strength with the
lowest error rate on dev.jsonl, by the first of eval.recognisers. It synthesizes test.jsonl with that strength, scores
these clips by all of them, and writes DIR/scores.json, DIR/results.md and DIR/wavs. `eval.list=FILE` names a list of
one's own, in any format of docs/evaluation.md, and `eval.wavs=FOLDER` instead of a checkpoint scores clips that another
system made.
"""

from __future__ import annotations

from f5_tts.commands import start

if __name__ == "__main__":  # before the imports below, which take seconds
    start("evaluate")

import shlex
from dataclasses import replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

from f5_tts.config.reward_names import full_name
from f5_tts.config.schema import ConfigError, EvalConfig, TrainConfig
from f5_tts.data.audio import load_audio
from f5_tts.data.paths import exists
from f5_tts.data.tokenizer import Vocabulary
from f5_tts.eval.agreement import describe_agreement, judge_recordings
from f5_tts.eval.comparison import check_comparable, describe_change
from f5_tts.eval.evaluator import (
    EvalAudio,
    EvalSynthesizer,
    build_eval_synthesizer,
    clips_error_rate,
    digest,
    find_eval_vocabulary,
    judging_settings,
    load_eval_model,
    score_clips,
    settings_of,
)
from f5_tts.eval.examples import copy_examples, keep_examples
from f5_tts.eval.judges import Judges, build_judges, check_judges, rewards_of_run
from f5_tts.eval.progress import Progress, close_progress, open_progress
from f5_tts.eval.results import FILE, Result, read_result, select_examples, write_result
from f5_tts.eval.test_set import EvalItem, items_folder, read_items, unseen_speakers
from f5_tts.eval.texts import read_eval_list
from f5_tts.files import ensure_writable_dir
from f5_tts.model.cfm import CFM
from f5_tts.model.checkpoint import Checkpoint, ModelSpec, check_spec, read_checkpoint
from f5_tts.model.mel import LogMel
from f5_tts.report.evaluation import describe_errors, write_page
from f5_tts.scripts.flags import require_task


def evaluate(cfg: TrainConfig) -> Result:
    """Evaluate the checkpoint, or clips of another system; write the scores.

    Raises:
        ConfigError: eval.out is missing, or not exactly one of eval.ckpt and eval.wavs is given, or
            eval.against is eval.out.
    """
    settings = cfg.eval
    require_task(settings)
    out = Path(str(settings.out))
    dev, test = evaluation_items(settings)
    if settings.against is not None:
        if Path(settings.against).resolve() == out.resolve():
            raise ConfigError(f"eval.against={settings.against} is eval.out, which is written; name another folder")
        check_comparable(read_result(Path(settings.against)), test, settings)
    ensure_writable_dir(out, "eval.out")
    result = evaluate_weights(cfg, dev, test) if settings.ckpt else evaluate_clips(cfg, test)
    write_result(result, out)
    write_page(result, out)
    close_progress(out)
    return result


def evaluate_weights(cfg: TrainConfig, dev: list[EvalItem], test: list[EvalItem]) -> Result:
    """Evaluate the checkpoint, or reuse an earlier result of the same weights; write a few clips."""
    settings = cfg.eval
    if not dev:
        settings.cfg_strengths = [cfg.infer.cfg_strength]
        print(f"no eval.dev_list: the guidance is infer.cfg_strength={cfg.infer.cfg_strength:g}")
    checkpoint = read_checkpoint(Path(str(settings.ckpt))).with_weights()
    vocabulary = find_eval_vocabulary(cfg, checkpoint)
    check_spec(checkpoint, ModelSpec.of(cfg.model, vocabulary))
    identity = settings_of(cfg, checkpoint, vocabulary, dev + test)
    result = reuse_result(cfg, digest(identity))
    if result is None:
        progress = open_progress(Path(str(settings.out)), identity, cfg.model.mel_spec.target_sample_rate)
        fields = evaluate_checkpoint(cfg, checkpoint, vocabulary, dev, test, progress)
        result = Result(ckpt=str(settings.ckpt), mark=digest(identity), **fields)
    return replace(result, rewards=rewards_of_run(checkpoint))


def evaluate_clips(cfg: TrainConfig, test: list[EvalItem]) -> Result:
    """Score the clips of another system, one for each item; those that are missing are printed.

    Raises FileNotFoundError if none is there.
    """
    folder, settings = Path(str(cfg.eval.wavs)), cfg.eval
    missing = [item.id for item in test if not exists(folder / f"{item.id}.wav")]
    items = [item for item in test if item.id not in missing]
    if not items:
        raise FileNotFoundError(f"eval.wavs={folder} has no clip of an item; they are named by id, as {test[0].id}.wav")
    if missing:
        print(f"eval.wavs={folder}: {len(missing)} of {len(test)} items have no clip: {', '.join(missing)}")
    judges = build_judges(settings)
    check_judges(judges, items, settings)
    reader = EvalAudio(mel=LogMel(cfg.model.mel_spec), settings=settings)
    clips = [load_audio(folder / f"{item.id}.wav", reader.sample_rate) for item in items]
    heard = {"the clips": [sha256(clip.numpy().tobytes()).hexdigest() for clip in clips]}
    progress = open_progress(Path(str(settings.out)), heard | judging_settings(settings, items), reader.sample_rate)
    scores = score_clips(items, clips, reader, judges, progress)
    floors, recordings = judge_recordings(items, reader, judges, progress.part("recordings"))
    chosen = select_examples(next(iter(scores.values())), settings.num_wavs)
    keep_examples(Path(str(settings.out)), items, clips, chosen, reader)
    return Result(
        ckpt=str(folder),
        guidance={},
        dev_error_rates={},
        scores=scores,
        rtf=None,
        **judge_names(cfg, judges),
        floors=floors,
        recordings=recordings,
    )


def judge_names(cfg: TrainConfig, judges: Judges) -> dict[str, Any]:
    """Return the fields of a result that name its judges."""
    return {"speaker_judge": full_name(cfg.eval.speaker.name), "titles": judges.titles()}


def evaluation_items(settings: EvalConfig) -> tuple[list[EvalItem], list[EvalItem]]:
    """Read the items of dev, which may be none where eval.list is given, and of test.

    Raises:
        ConfigError: a key is given that belongs to eval.list, without it.
    """
    if settings.list is None:
        given = [key for key in ("dev_list", "recordings", "prompts") if getattr(settings, key) is not None]
        if given:
            raise ConfigError(f"eval.{given[0]} belongs to eval.list, which is not set; say eval.list=FILE too")
        paths = [items_folder(settings.items_dir) / f"{split}.jsonl" for split in ("dev", "test")]
        dev, test = map(read_items, paths)
        for items, path in zip((dev, test), paths, strict=True):
            unseen_speakers(items, path)
        return dev, test
    dev = read_eval_list(settings.dev_list, settings) if settings.dev_list else []
    return dev, read_eval_list(settings.list, settings)


def evaluate_checkpoint(
    cfg: TrainConfig,
    checkpoint: Checkpoint,
    vocabulary: Vocabulary,
    dev: list[EvalItem],
    test: list[EvalItem],
    progress: Progress,
) -> dict[str, Any]:
    """Select the guidance strength on the dev set by the first recogniser; score the same test clips by each one.

    Judges are built before the synthesis, which takes longer, so that a wrong setting of one is reported early.
    """
    settings = cfg.eval
    judges, names = build_judges(settings), [entry.name for entry in settings.recognisers]
    check_judges(judges, dev + test, settings)
    model, synthesizer = load_eval_model(cfg, checkpoint, vocabulary), build_eval_synthesizer(cfg, vocabulary)
    rates = dev_error_rates(model, dev, synthesizer, judges, names[0], progress.part("dev")) if dev else {}
    guidance = float(min(rates, key=lambda strength: rates[strength])) if rates else settings.cfg_strengths[0]
    takes, on_test = test * settings.takes, progress.part("test")  # each position in the list has its own noise
    clips = synthesizer.synthesize(model, takes, guidance, progress=on_test)
    scores = score_clips(takes, clips, synthesizer, judges, on_test)
    floors, recordings = judge_recordings(dev + test, synthesizer, judges, progress.part("recordings"))
    chosen = select_examples(scores[names[0]], settings.num_wavs)
    keep_examples(Path(str(settings.out)), test, clips, chosen, synthesizer)
    return {
        "guidance": dict.fromkeys(names, guidance),
        "dev_error_rates": {names[0]: rates} if rates else {},
        "scores": scores,
        "rtf": synthesizer.real_time_factor(on_test.seconds(f"{guidance:g}"), clips),
        **judge_names(cfg, judges),
        "floors": floors,
        "recordings": recordings,
    }


def dev_error_rates(
    model: CFM,
    dev: list[EvalItem],
    synthesizer: EvalSynthesizer,
    judges: Judges,
    recognizer: str,
    progress: Progress,
) -> dict[str, float]:
    """Compute the error rate on the unseen speakers of dev at each guidance strength, by one recognizer."""
    settings = synthesizer.settings
    unseen = [item for item in dev if not item.seen] * settings.dev_takes

    def rate(strength: float) -> float:
        clips = synthesizer.synthesize(model, unseen, strength, progress=progress)
        return clips_error_rate(unseen, clips, synthesizer, judges, recognizer)

    return {f"{s:g}": progress.kept(f"rate_{s:g}", partial(rate, s)) for s in settings.cfg_strengths}


def reuse_result(cfg: TrainConfig, mark: str) -> Result | None:
    """Return the result in eval.known and copy its clips, if its fingerprint is the same; else return None."""
    settings = cfg.eval
    if settings.known is None or not (Path(settings.known) / FILE).is_file():
        return None
    known = read_result(Path(settings.known))
    if known.mark != mark:
        return None
    print(f"{settings.ckpt} has the weights of {known.ckpt}, bit for bit: its scores are those in {settings.known}")
    copy_examples(Path(settings.known), Path(str(settings.out)))
    return replace(known, ckpt=str(settings.ckpt))


def run(cfg: TrainConfig) -> bool:
    """Run the command: evaluate the checkpoint and print its scores."""
    result = evaluate(cfg)
    for entry in cfg.eval.recognisers:
        print(result.summary(entry.name))
    print("\n".join([*describe_errors(result), *describe_agreement(result)]))
    if cfg.eval.against is not None:
        print("\n".join(describe_change(read_result(Path(cfg.eval.against)), result)))
    print(f"wrote {cfg.eval.out}: scores.json, wavs/ and a page; next: f5-tts report {shlex.quote(str(cfg.eval.out))}")
    return True
