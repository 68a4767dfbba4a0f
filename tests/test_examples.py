"""Examples, run as shipped, and their claims."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from pathlib import Path
from statistics import fmean, stdev

import pytest
import torch
import torch.nn.functional as F
from examples import gradient_snr, ring
from torch import Tensor

from f5_tts.config.load import compose_config
from f5_tts.config.schema import RLTrainConfig
from f5_tts.data.tokenizer import build_vocabulary
from f5_tts.model.build import build_model
from f5_tts.model.checkpoint import write_checkpoint
from f5_tts.rl.grpo import PolicyLoss
from f5_tts.train.build_rl import check_window

RING, SNR = Path(ring.__file__), Path(gradient_snr.__file__)
RISE = 0.15  # minimum gain of the reward after 20 updates; 100 updates give 0.77


@pytest.mark.slow
def test_on_the_ring_every_algorithm_learns_but_the_published_one(tmp_path: Path):
    picture = tmp_path / "ring.png"
    command = [sys.executable, str(RING), "--seeds", "1", "--updates", "20", "--out", str(picture)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = {line.split()[0]: shares(line) for line in done.stdout.splitlines() if "±" in line}
    assert list(rows) == ["gaussian_grpo", "flow_grpo", "nft", "f5r"]
    for name in ("gaussian_grpo", "flow_grpo", "nft"):
        before, after, *validity = rows[name]
        assert after > before + RISE, name
        assert all(0 <= share <= 1 for share in validity)
    assert rows["f5r"][0] == rows["f5r"][1] and rows["f5r"][2] == rows["f5r"][3]
    assert picture.read_bytes().startswith(b"\x89PNG")


def shares(row: str) -> list[float]:
    """Parse reward before and after, and validity before and after.

    With one seed the standard deviations are zero.
    """
    numbers = re.findall(r"([\d.]+) ± 0\.000", row)
    assert len(numbers) == 4, row
    return [float(number) for number in numbers]


def test_the_ring_says_which_numbers_it_takes():
    with pytest.raises(ValueError, match="--seeds must be 1 or more, --updates a multiple of 5"):
        ring.main(["--updates", "7"])


# --- gradient_snr ---


def units(num: int, cosine: float) -> list[Tensor]:
    """Build unit vectors with this cosine between any two: a common part, and parts at right angles to all others."""
    rows = torch.eye(num + 1)
    return [math.sqrt(cosine) * rows[num] + math.sqrt(1 - cosine) * rows[index] for index in range(num)]


@pytest.mark.parametrize("cosine", [0.0, 0.2, 1.0])
def test_the_mean_cosine_is_the_share_of_the_signal(cosine: float):
    mean, error = gradient_snr.mean_cosine(units(5, cosine))
    assert (mean, error) == (pytest.approx(cosine, abs=1e-6), pytest.approx(0.0, abs=1e-6))


def test_mean_cosine_and_jackknife_error_of_three_vectors_by_hand():
    """Of two equal vectors and one at a right angle the cosines are 1, 0, 0, and without one vector 1, 0 or 0.

    The jackknife's variance is (n - 1) / n Σ (mean without i - 1/3)² = 2/3 (4/9 + 1/9 + 1/9).
    """
    one, other = torch.eye(2)
    mean, error = gradient_snr.mean_cosine([one, one, other])
    assert (mean, error) == (pytest.approx(1 / 3), pytest.approx(2 / 3))


@pytest.mark.parametrize("num", [16, 64])
def test_the_standard_error_falls_with_the_root_of_the_number_of_updates(num: int):
    """Vectors whose parts of a common direction are 0.4 or 0.8 have cosines of the products of these parts.

    The error of (mean part)² is 2 · mean · standard deviation / √n = 2 · 0.6 · 0.2 / √n.
    """
    rows, parts = torch.eye(num + 1), torch.tensor([0.4, 0.8]).repeat(num // 2)
    vectors = [part * rows[num] + (1 - part**2).sqrt() * row for part, row in zip(parts, rows, strict=False)]
    _, error = gradient_snr.mean_cosine(vectors)
    assert error == pytest.approx(0.24 / math.sqrt(num), rel=0.05)


@pytest.mark.parametrize("num", [6, 24])
def test_the_standard_error_of_pure_noise_is_root_two_too_large_and_falls_with_the_number_of_pairs(num: int):
    """Two random directions of 60 dimensions have a cosine of variance 1/60, and all pairs are uncorrelated."""
    torch.manual_seed(0)
    tries = [gradient_snr.mean_cosine(list(F.normalize(torch.randn(num, 60), dim=1))) for _ in range(300)]
    means, errors = zip(*tries, strict=True)
    expected = math.sqrt(2 / (num * (num - 1) * 60))
    assert stdev(means) == pytest.approx(expected, rel=0.15)
    assert fmean(errors) == pytest.approx(math.sqrt(2) * expected, rel=0.15)


def test_a_batch_as_many_times_as_large_has_a_cosine_of_a_half():
    """Updates of four prompts, each with cosine 0.2, keep their signal and have a quarter of the noise variance."""
    assert gradient_snr.batch_factor(0.2) == pytest.approx(4)
    averaged = [torch.stack(units(20, 0.2)[first : first + 4]).mean(dim=0) for first in range(0, 20, 4)]
    mean, _ = gradient_snr.mean_cosine(list(F.normalize(torch.stack(averaged), dim=1)))
    assert mean == pytest.approx(0.5)
    assert gradient_snr.batch_factor(0.0) == gradient_snr.batch_factor(-0.1) == math.inf


def test_the_table_gives_the_batch_of_a_clear_row_and_a_lower_bound_of_another():
    rows = [gradient_snr.Row("clear", "", 0.2, 0.02, 1.5), gradient_snr.Row("noise", "", 0.01, 0.02, 2.0)]
    assert gradient_snr.table(rows).splitlines()[2:] == [
        "| clear | +0.2000 ± 0.0200 | 1.50 | 4 x | 6 |",
        "| noise | +0.0100 ± 0.0200 | 2.00 | > 19 x | > 38 |",
    ]


@pytest.fixture
def tiny_base(tiny: list[str], tmp_path: Path) -> list[str]:
    """Write a tiny model with random weights, none of them zero; return the overrides that select it."""
    overrides = [*tiny, "datasets.batch_size_per_gpu=2", f"ckpts.init_from={tmp_path / 'tiny.pt'}"]
    cfg = compose_config("F5TTS_Mini_RL", overrides, RLTrainConfig)
    torch.manual_seed(0)
    model = build_model(cfg.model, build_vocabulary(cfg))
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.02 * torch.randn_like(weight))
    write_checkpoint(tmp_path / "tiny.pt", {"model_state_dict": model.state_dict()})
    return overrides


@pytest.mark.slow
def test_the_gradient_of_an_update_is_that_of_the_sum_of_its_losses_at_unit_length(tiny_base: list[str]):
    overrides = [*gradient_snr.ROWS["nft, fit by word"], "rl.kl_weight=0", "rl.mini_repeat_count=2", *tiny_base]
    cfg = compose_config("F5TTS_Mini_RL", overrides, RLTrainConfig)
    policy, experience = gradient_snr.prepare(cfg)
    batches = next(experience)
    torch.manual_seed(1)
    unit = gradient_snr.unit_gradient(policy, batches, PolicyLoss(cfg.rl))
    torch.manual_seed(1)
    total = torch.stack([output.loss for output in PolicyLoss(cfg.rl)(policy, batches)]).sum()
    grads = torch.autograd.grad(total, list(policy.parameters()), materialize_grads=True)
    expected = torch.cat([grad.flatten() for grad in grads])
    assert expected.norm() > 0
    torch.testing.assert_close(unit, expected / expected.norm())


@pytest.mark.soak
def test_signal_to_noise_of_two_rows_on_a_tiny_model_and_a_second_run_measures_nothing(
    tiny_base: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    arguments = ["--repeats", "3", "--rows", "K=2$|a=2$", "--out", str(tmp_path), *tiny_base]
    done = subprocess.run([sys.executable, str(SNR), *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = gradient_snr.read_rows(tmp_path / "snr.csv")
    assert list(rows) == ["draft, K=2", "flow_grpo, fit, a=2"]
    for row in rows.values():
        assert -0.5 <= row.cosine <= 1  # three unit vectors: -1/2 where they cancel
        assert row.standard_error > 0 and row.cpu_seconds > 0
        assert row.settings.startswith("3 updates: ") and row.settings.endswith(tiny_base[-1])
    assert (tmp_path / "snr.md").read_text() == gradient_snr.table(list(rows.values()))
    assert (tmp_path / "snr.png").read_bytes().startswith(b"\x89PNG")
    assert gradient_snr.main(arguments)
    assert capsys.readouterr().out == f"{(tmp_path / 'snr.md').read_text()}\n"
    assert gradient_snr.read_rows(tmp_path / "snr.csv") == rows  # CPU seconds too


@pytest.mark.parametrize(
    "argument, said",
    [("--repeats=2", "--repeats=2: a standard error needs 3 updates"), ("--rows=ppo", "--rows=ppo matches no row;")],
)
def test_signal_to_noise_says_what_it_takes(argument: str, said: str):
    with pytest.raises(ValueError, match=said):
        gradient_snr.main([argument])


@pytest.mark.slow
def test_every_row_composes_and_measures_steps_that_can_be_trained_without_a_kl():
    for name in gradient_snr.ROWS:
        cfg = compose_config("F5TTS_Mini_RL", gradient_snr.overrides_of(name), RLTrainConfig)
        assert cfg.rl.algorithm == name.split(",")[0] and cfg.rl.kl_weight == 0
        check_window(cfg.rl)
