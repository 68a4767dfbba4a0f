from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace
from math import pi
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from tests.tiny import MINI_MEL
from torch import Tensor

from f5_tts.config.schema import DatasetsConfig
from f5_tts.data.audio import Source
from f5_tts.data.batching import BatchPlan, by_frames, collate, load_batches, shuffle_blocks
from f5_tts.data.dataset import AudioReader, SpeechDataset
from f5_tts.data.rows import Row
from f5_tts.data.tokenizer import Vocabulary
from f5_tts.model.mel import LogMel
from f5_tts.types import SpeechBatch, Utterance

LETTERS = Vocabulary([" ", *"abcdefgh"])
FRAMES_PER_SECOND = 50.0


def settings(**changes: str | int | bool) -> DatasetsConfig:
    values = {
        "name": "tiny",
        "batch_size_per_gpu": 400,
        "batch_size_type": "frame",
        "max_samples": 64,
        "max_seconds": 30.0,
        "max_empty_batches": 16,
        "num_workers": 0,
        "pair_speakers": False,
    }
    return DatasetsConfig(**(values | changes))  # pyright: ignore[reportArgumentType]


def never_read(source: Source) -> tuple[Tensor, Tensor]:
    raise AssertionError("a plan needs no audio")


def plan_of(durations: list[float], *, pairs: bool = False, seed: int = 0, **changes: str | int) -> BatchPlan:
    """Make the batch plan of a data set whose rows alternate between two speakers."""
    rows = [Row(audio_path="", text="a", duration=s, speaker="xy"[i % 2]) for i, s in enumerate(durations)]
    dataset = SpeechDataset(rows, never_read, pair_speakers=pairs, seed=seed)
    chosen = settings(pair_speakers=pairs, **changes)
    return BatchPlan(dataset=dataset, settings=chosen, frames_per_second=FRAMES_PER_SECOND, seed=seed)


def random_durations(num: int) -> list[float]:
    torch.manual_seed(6)
    return (torch.rand(num) * 3 + 0.2).tolist()


# --- items of a batch ---


@pytest.mark.parametrize("pairs", [False, True])
def test_a_batch_counted_in_frames_never_holds_more_than_its_budget(pairs):
    plan = plan_of(random_durations(60), pairs=pairs)
    for epoch in range(3):
        frames = [seconds * FRAMES_PER_SECOND for seconds in plan.dataset.durations(epoch)]
        sizes = [sum(frames[index] for index, _, _ in batch) for batch in plan.epoch(epoch)]
        assert max(sizes) <= 400
        assert sum(sizes) / len(sizes) > 200  # the mean batch is more than half full


def test_batches_of_frames_and_their_order_are_those_of_f5_tts(table):
    golden = table("g7_batch_sampler")
    lengths, runs = np.array(golden["frame_lengths"]), [c for c in golden["cases"] if not c["drop_residual"]]
    assert len(runs) == 16
    for case in runs:
        chosen = settings(batch_size_per_gpu=case["frames_threshold"], max_samples=case["max_samples"])
        for epoch, order in case["order_seed666"].items():
            expected = [case["batches_sorted"][place] for place in order]
            assert by_frames(lengths, chosen, 666, int(epoch)) == expected


def test_batches_with_repeats_are_those_of_the_fork(table):
    """Repeat batches as stage 2 does.

    Stage 2 uses each batch several times, with adjacent copies of each item (`SpeechBatch.repeat`).
    """
    lengths = np.array(table("g7_batch_sampler")["frame_lengths"])
    for case in table("g7_rl_sampling")["repeat_sampler"]:
        chosen = settings(batch_size_per_gpu=case["frames_threshold"], max_samples=case["max_samples"])
        copies, passes = case["mini_repeat_count"], case["repeat_count"]
        batches = by_frames(lengths, chosen, case["seed"], case["epoch"])
        repeated = [np.repeat(batch, copies).tolist() for batch in batches for _ in range(passes)]
        assert repeated[:12] == case["first_12_batches"] and len(repeated) == case["len"]


@pytest.mark.parametrize("kind", ["frame", "sample"])
@pytest.mark.parametrize("pairs", [False, True])
def test_every_item_comes_once_an_epoch_with_the_epochs_prompt(kind, pairs):
    size = {"frame": 400, "sample": 7}[kind]
    plan = plan_of(random_durations(60), pairs=pairs, batch_size_type=kind, batch_size_per_gpu=size)
    for epoch in (0, 4):
        partners = plan.dataset.prompt_indices(epoch) if pairs else [-1] * 60
        keys = sorted(key for batch in plan.epoch(epoch) for key in batch)
        assert keys == [(index, partners[index], index) for index in range(60)]


def test_items_of_one_length_fill_the_budget_to_the_last_frame():
    plan = plan_of([2.0] * 8, batch_size_per_gpu=400)  # 100 frames each
    assert [len(batch) for batch in plan.epoch(0)] == [4, 4]


def test_a_batch_counted_in_frames_never_holds_more_than_max_samples():
    plan = plan_of([0.2] * 20, max_samples=6)
    assert sorted(len(batch) for batch in plan.epoch(0)) == [2, 6, 6, 6]


def test_a_batch_counted_in_samples_holds_that_many_and_the_last_the_rest():
    plan = plan_of(random_durations(11), batch_size_type="sample", batch_size_per_gpu=4, max_samples=2)
    assert [len(batch) for batch in plan.epoch(0)] == [4, 4, 3]


def test_items_longer_than_a_whole_batch_are_left_out_and_counted():
    plan = plan_of([1.0, 2.0, 8.02, 1.0])
    assert sorted(index for batch in plan.epoch(0) for index, _, _ in batch) == [0, 1, 3]
    assert plan.num_too_long() == 1
    assert plan_of([8.02, 1.0], batch_size_type="sample", batch_size_per_gpu=2).num_too_long() == 0


def test_a_budget_that_no_item_fits_is_refused():
    with pytest.raises(
        ValueError, match=r"datasets\.batch_size_per_gpu=400 frames; the shortest item has 401: raise it"
    ):
        plan_of([8.02, 9.0]).num_too_long()


# --- order ---


@pytest.mark.parametrize("num", [48, 53])  # 16 batches of 3, and 18: the last of 2
def test_the_batches_that_two_ranks_take_at_once_are_neighbors_in_length(num):
    plan = plan_of(random_durations(num), batch_size_type="sample", batch_size_per_gpu=3)
    batches = list(plan.batches(0, epochs=3, ranks=2))
    assert sorted(key for batch in batches for key, _, _ in batch) == sorted([*range(num)] * 3)
    mean = [np.mean([plan.frames(0)[key] for key, _, _ in batch]) for batch in batches]
    apart = [abs(mean[place] - mean[place + 1]) for place in range(0, len(batches) - 1, 2)]
    alone = list(plan.batches(0, epochs=3))
    by_chance = [np.mean([plan.frames(0)[key] for key, _, _ in batch]) for batch in alone]
    assert np.mean(apart) < 0.5 * np.mean(np.abs(np.diff(by_chance)[::2]))


@pytest.mark.parametrize("num, epoch, first", [(4, 0, 0), (5, 1, 1), (5, 2, 2), (2, 2, 2)])  # 3 - 5 % 3 = 1, 3 - 10 % 3
def test_an_epoch_completes_the_block_that_the_one_before_it_began(num, epoch, first):
    order = shuffle_blocks(num, epoch, 3, np.random.default_rng(0))
    assert sorted(order) == [*range(num)]
    assert order[:first] == [*range(first)]
    blocks = [order[place : place + 3] for place in range(first, num, 3)]
    assert all(block == [*range(block[0], block[0] + len(block))] for block in blocks)


def test_one_rank_shuffles_all_batches():
    alone = shuffle_blocks(9, 2, 1, np.random.default_rng(5))
    assert alone == np.random.default_rng(5).permutation(9).tolist()


@pytest.mark.parametrize("kind, size", [("frame", 400), ("sample", 5)])
def test_the_order_depends_on_seed_and_epoch_alone(kind, size):
    def order(seed: int, epoch: int) -> list[list[tuple[int, int, int]]]:
        plan = plan_of(random_durations(60), seed=seed, batch_size_type=kind, batch_size_per_gpu=size)
        return plan.epoch(epoch)

    assert order(1, 2) == order(1, 2)
    assert order(1, 2) != order(1, 3)
    assert order(1, 2) != order(2, 2)


@pytest.mark.parametrize("kind, size", [("frame", 400), ("sample", 5)])
def test_a_run_that_goes_on_at_a_batch_sees_what_the_whole_run_sees_from_there(kind, size):
    plan = plan_of(random_durations(23), pairs=True, batch_size_type=kind, batch_size_per_gpu=size)
    whole = list(plan.batches(0, 3))
    assert whole == [batch for epoch in range(3) for batch in plan.epoch(epoch)]
    for first in range(len(whole) + 2):
        assert list(plan.batches(first, 3)) == whole[first:]


# --- padding ---


def test_utterances_are_padded_with_zeros_to_the_longest():
    def utterance(frames: int, prompt: int, text: str, number: int) -> Utterance:
        return Utterance(
            audio=torch.ones(10 * frames),
            mel=torch.full((frames, 2), float(number)),
            prompt_frames=prompt,
            text=text,
            target_text=text[-1],
            prompt_id=number,
            prompt_text=text[:-1],
            row={"number": number},
        )

    batch = collate([utterance(2, 1, "a b", 7), utterance(3, 0, "c", 4)], LETTERS)
    assert batch.mel[..., 0].tolist() == [[7, 7, 0], [4, 4, 4]]
    assert batch.lens.tolist() == [2, 3] and batch.prompt_lens.tolist() == [1, 0]
    assert batch.text.tolist() == [[1, 0, 2], [3, -1, -1]] and batch.target_texts == ["b", "c"]
    assert batch.group_ids.tolist() == [7, 4]
    assert [len(audio) for audio in batch.audio] == [20, 30]
    assert batch.prompt_texts == ["a ", ""] and [row["number"] for row in batch.rows] == [7, 4]


# --- loading ---


@pytest.fixture
def recordings(tmp_path: Path) -> list[Row]:
    """Write six clips of two speakers, sines of 0.3 to 0.8 s, and return their rows."""
    rows = []
    for index in range(6):
        seconds, path = 0.3 + 0.1 * index, str(tmp_path / f"{index}.wav")
        wave = 0.5 * torch.sin(2 * pi * 200 * (index + 1) / 16000 * torch.arange(round(16000 * seconds)))
        soundfile.write(path, wave.numpy(), 16000, subtype="FLOAT")
        rows.append(Row(audio_path=path, text="abcdef"[: index + 1], duration=seconds, speaker="xy"[index % 2]))
    return rows


def loaded(rows: list[Row], *, num_workers: int, first: int = 0) -> Iterator[SpeechBatch]:
    """Yield the batches of two epochs of pairs, as training reads them."""
    spec = replace(MINI_MEL, n_mel_channels=10, win_length=512, n_fft=512)
    dataset = SpeechDataset(rows, AudioReader(LogMel(spec), 16000), pair_speakers=True, seed=0)
    chosen = settings(batch_size_per_gpu=150, num_workers=num_workers, pair_speakers=True)
    plan = BatchPlan(dataset=dataset, settings=chosen, frames_per_second=spec.frames_per_second, seed=0)
    for batch, bad in load_batches(plan, LETTERS, first=first, epochs=2):
        assert batch is not None and not bad
        yield batch


def assert_same(batch: SpeechBatch, other: SpeechBatch) -> None:
    for field in fields(SpeechBatch):
        value, same = getattr(batch, field.name), getattr(other, field.name)
        if isinstance(value, list) and isinstance(value[0], str):
            assert value == same
        else:
            torch.testing.assert_close(value, same, atol=0, rtol=0)


def test_a_loaded_batch_holds_whole_pairs(recordings):
    batches = list(loaded(recordings, num_workers=0))
    assert sum(len(batch.lens) for batch in batches) == 12
    for batch in batches:
        for index, row in enumerate(recordings[i] for i in batch.group_ids):
            own_frames = round(row.duration * 50) + 1
            assert batch.lens[index] - batch.prompt_lens[index] == own_frames
            assert batch.target_texts[index] == row.text
            assert len(batch.audio[index]) == round(320 * (batch.lens[index].item() - 2))


def test_a_resumed_run_reads_the_same_batches(recordings):
    whole = list(loaded(recordings, num_workers=0))
    rest = list(loaded(recordings, num_workers=0, first=3))
    assert len(rest) == len(whole) - 3 > 0
    for batch, same in zip(rest, whole[3:], strict=True):
        assert_same(batch, same)


def test_reading_draws_nothing_from_the_random_state_of_training(recordings):
    before = torch.get_rng_state()
    list(loaded(recordings, num_workers=0))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.slow
def test_a_loading_process_gives_the_same_batches_in_the_same_order(recordings):
    here, there = list(loaded(recordings, num_workers=0)), list(loaded(recordings, num_workers=1))
    assert len(here) == len(there)
    for batch, same in zip(here, there, strict=True):
        assert_same(batch, same)


def test_rows_that_cannot_be_read_leave_their_batch_and_are_handed_on(recordings):
    Path(str(recordings[1].audio_path)).unlink()
    spec = replace(MINI_MEL, n_mel_channels=10, win_length=512, n_fft=512)
    dataset = SpeechDataset(recordings[:3], AudioReader(LogMel(spec), 16000), pair_speakers=False, seed=0)
    for size, numbers in ((3, [[0, 2]]), (1, [[0], [2], None])):
        chosen = settings(batch_size_type="sample", batch_size_per_gpu=size)
        plan = BatchPlan(dataset=dataset, settings=chosen, frames_per_second=50.0, seed=0)
        result = list(load_batches(plan, LETTERS, first=0, epochs=1))
        assert [row.index for loaded in result for row in loaded.bad_rows] == [1]
        read = [loaded.batch and sorted(loaded.batch.group_ids.tolist()) for loaded in result]
        assert sorted(read, key=lambda ids: ids or [9]) == numbers
