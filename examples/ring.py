"""Toy example of stage 2 that trains in a minute: eight modes on a ring instead of speech.

A sample is one frame of two mel bins. `python examples/ring.py` prints a table and draws runs/ring/ring.png. A text is
one of two classes, and the modes alternate between them, four to each. A small network learns the flow from noise to
the modes of a class. Then a reward favors samples in the direction of one mode of each class, at any radius, and every
algorithm starts from that network. The table shows the reward and the validity: the share of samples near a mode of
their class, which the reward does not ask for.

Data, network and reward are defined in this file; rollouts, advantages and losses are the code that trains speech.
"""

from __future__ import annotations

import argparse
import copy
import math
import sys
from pathlib import Path
from statistics import fmean, pstdev
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Adam
from torch.optim.lr_scheduler import CosineAnnealingLR

from f5_tts.config.load import compose_config
from f5_tts.config.schema import RLConfig, RLTrainConfig
from f5_tts.entrypoint import run_command
from f5_tts.files import user_path
from f5_tts.model.flow import interpolate
from f5_tts.model.heads import Velocity
from f5_tts.model.losses import gaussian_nll, velocity_mse
from f5_tts.model.snapshot import Snapshot
from f5_tts.plotting import new_figure
from f5_tts.rl.advantage import GroupAdvantage
from f5_tts.rl.grpo import PolicyLoss, collect_experience
from f5_tts.rl.rollout import rollout_grid, solve_mean
from f5_tts.types import RewardBatch, Rollout, SpeechBatch

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MODES, RADIUS, STD = 8, 2.0, 0.12  # of the ring: number of modes, radius, standard deviation of a mode
GOALS = torch.tensor([0, 3])  # the rewarded mode of each class
WIDTH = 128  # hidden units per layer
NUM_PROMPTS, NUM_TESTED = 32, 1024  # prompts per update, samples per evaluation
EVERY = 5  # updates between evaluations
RATE = {"flow": 3e-3, "rl": 1e-3}  # learning rates
COLORS = ("#1f5f99", "#d95f02")  # one per class
COMMON = ["rl.mini_repeat_count=16", "rl.steps=16", "rl.window.size=2", "rl.window.t_range=[0.05,0.6]"]
COMMON += ["rl.temperature=1.0", "rl.credit=sample", "rl.advantage_clip=5.0", "rl.train_sigma=false"]
SETTINGS = {  # f5r runs without a KL penalty: the published form of it destroys the base model
    "gaussian_grpo": ["rl.shared_noise=true", "rl.kl_weight=0.02", "rl.anchor_weight=0.01"],
    "flow_grpo": ["rl.shared_noise=true", "rl.kl_weight=0.02", "rl.anchor_weight=0.01", "rl.sde.a=0.5"],
    "nft": ["rl.shared_noise=false", "rl.kl_weight=0.1", "rl.nft.num_times=2"],
    "f5r": ["rl.shared_noise=false", "rl.kl_weight=0", "rl.advantage=grpo", "rl.max_grad_steps=2"],
}


# --- the ring ---


def mode_centers() -> Tensor:
    """Return the modes' centers, of shape `8 2`."""
    angles = 2 * math.pi * torch.arange(MODES) / MODES
    return RADIUS * torch.stack([angles.cos(), angles.sin()], dim=-1)


def draw_speech(classes: Tensor) -> Tensor:
    """Draw a sample of each class: one of its modes, plus Gaussian noise."""
    mode = 2 * torch.randint(MODES // 2, classes.shape) + classes
    return (mode_centers()[mode] + STD * torch.randn(len(classes), 2))[:, None]


def prompts(num: int) -> SpeechBatch:
    """Make prompts of both classes in turn, each a group of its own, without prompt frames."""
    return SpeechBatch(
        mel=torch.zeros(num, 1, 2),
        lens=torch.ones(num, dtype=torch.long),
        prompt_lens=torch.zeros(num, dtype=torch.long),
        text=(torch.arange(num) % 2)[:, None],
        target_texts=[""] * num,
        group_ids=torch.arange(num),
        audio=[torch.zeros(1)] * num,
    )


def is_rewarded(speech: Tensor, classes: Tensor) -> Tensor:
    """Check which samples lie in the direction of their goal, closer than to the neighboring modes."""
    x, y = speech[:, 0].unbind(-1)
    return (MODES * torch.atan2(y, x) / (2 * math.pi) - GOALS[classes]).round() % MODES == 0


def is_valid(speech: Tensor, classes: Tensor) -> Tensor:
    """Check which samples lie within four standard deviations of a mode of their class."""
    of_its_class = torch.arange(MODES) % 2 == classes[:, None]
    return ((torch.cdist(speech[:, 0], mode_centers()) < 4 * STD) & of_its_class).any(dim=1)


def reward(rollout: Rollout) -> RewardBatch:
    """Score a rollout; this takes the place of a vocoder and reward models."""
    score = is_rewarded(rollout.mel, rollout.batch.text[:, 0]).float()
    return RewardBatch(total=score, components={"goal": score}, weights={"goal": 1.0})


# --- the network, and stage 1 ---


class RingFlow(nn.Module):
    """Network from point, class and time to velocity, with the signature of CFM."""

    def __init__(self) -> None:
        super().__init__()
        widths = [(2 + 2 + 3, WIDTH), (WIDTH, WIDTH), (WIDTH, WIDTH)]
        self.trunk = nn.Sequential(*[part for sizes in widths for part in (nn.Linear(*sizes), nn.SiLU())])
        self.mean, self.ln_sigma = nn.Linear(WIDTH, 2), nn.Linear(WIDTH, 2)

    def forward(
        self, x, cond, text, time, mask=None, *, cfg_strength=0.0, grad_uncond=True, text_embedding=None
    ) -> Velocity:
        """Compute the velocity at these points."""
        assert cfg_strength == 0.0, "this network learns no velocity without a class, so it cannot be guided"
        time = time.expand(len(x))[:, None, None]
        waves = [time, (math.pi * time).sin(), (math.pi * time).cos()]
        features = self.trunk(torch.cat([x, F.one_hot(text, 2).to(x), *waves], dim=-1))
        return Velocity(self.mean(features), self.ln_sigma(features))


def learn_flow(model: nn.Module, updates: int, num: int = 512) -> None:
    """Train the flow (stage 1): velocity MSE for the mean, Gaussian NLL for ln σ.

    The NLL uses a detached mean, so it does not change the mean.
    """
    optimizer = Adam(model.parameters(), lr=RATE["flow"])
    schedule = CosineAnnealingLR(optimizer, updates)
    classes, span = torch.arange(num) % 2, torch.ones(num, 1, dtype=torch.bool)
    for _ in range(updates):
        speech, time = draw_speech(classes), torch.rand(num)
        noise = torch.randn_like(speech)
        output = model(interpolate(noise, speech, time), torch.zeros_like(speech), classes[:, None], time)
        time_span = gaussian_nll(output._replace(mean=output.mean.detach()), speech - noise, time, span, t2_weight=0.0)
        (velocity_mse(output.mean, speech - noise, span) + time_span).backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()


# --- stage 2 ---


class Score(NamedTuple):
    """Shares of samples, in [0, 1]."""

    reward: float
    validity: float


class TrainingRun(NamedTuple):
    """Result of training the base network with one algorithm."""

    before: Tensor  # samples of the base network
    after: Tensor
    scores: list[Score]  # of the base network, and after every EVERY updates

    def shares(self, index: int) -> list[float]:
        """Return one of the two scores over the course of training."""
        return [score[index] for score in self.scores]


def train(base: nn.Module, algorithm: str, updates: int) -> TrainingRun:
    """Train a copy of the base network with the algorithm."""
    rl, model = settings(algorithm), copy.deepcopy(base)
    advantage_fn = GroupAdvantage({"goal": 1.0}, {"goal": 0.05}, rl)
    experience = collect_experience(model, [[prompts(NUM_PROMPTS)]] * updates, reward, advantage_fn, rl)
    loss = PolicyLoss(rl, reference=Snapshot(model) if rl.kl_weight > 0 else None)
    optimizer, scores = Adam(model.parameters(), lr=RATE["rl"]), [score(model, rl)]
    for update, batches in enumerate(experience, start=1):
        for output in loss(model, batches):
            output.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if update % EVERY == 0:
            scores.append(score(model, rl))
    return TrainingRun(speak(base, rl), speak(model, rl), scores)


def settings(algorithm: str) -> RLConfig:
    """Compose the RL settings of an algorithm."""
    changes = [f"rl.algorithm={algorithm}", *COMMON, *SETTINGS[algorithm]]
    return compose_config("F5TTS_Mini_RL", changes, RLTrainConfig).rl


def score(model: nn.Module, rl: RLConfig) -> Score:
    """Compute reward and validity of fresh samples."""
    samples, classes = speak(model, rl), prompts(NUM_TESTED).text[:, 0]
    return Score(*(judge(samples, classes).float().mean().item() for judge in (is_rewarded, is_valid)))


@torch.no_grad()
def speak(model: nn.Module, rl: RLConfig) -> Tensor:
    """Sample both classes in turn along the mean velocity, always from the same noise."""
    noise = torch.randn(NUM_TESTED, 1, 2, generator=torch.Generator().manual_seed(0))
    return solve_mean(model, prompts(NUM_TESTED), noise, rollout_grid(rl), rl)


# --- output ---


def table(runs: dict[str, list[TrainingRun]]) -> str:
    """Format the table: mean and standard deviation over seeds, before and after."""
    lines = [f"{'':14}{'reward before':>15}{'after':>15}{'validity before':>19}{'after':>15}"]
    for name, of_seeds in runs.items():
        numbers = [
            mean_and_std([trained.shares(index)[i] for trained in of_seeds]) for index in (0, 1) for i in (0, -1)
        ]
        lines.append(f"{name:14}{numbers[0]:>15}{numbers[1]:>15}{numbers[2]:>19}{numbers[3]:>15}")
    return "\n".join(lines)


def mean_and_std(values: list[float]) -> str:
    """Format the mean and the standard deviation."""
    return f"{fmean(values):.3f} ± {pstdev(values):.3f}"


def draw(runs: dict[str, list[TrainingRun]], path: Path) -> None:
    """Plot samples of the first seed in the upper row, the scores of all seeds in the lower row."""
    figure, num = new_figure(9.0, 6.0), len(runs) + 1
    figure.set_size_inches(2.7 * num, 5.6)
    samples = {"base": next(iter(runs.values()))[0].before} | {name: seeds[0].after for name, seeds in runs.items()}
    grid = figure.add_gridspec(2, 2 * num, height_ratios=[1.15, 1])
    for column, (name, points) in enumerate(samples.items()):
        draw_samples(figure.add_subplot(grid[0, 2 * column : 2 * column + 2]), name, points)
    for index, label in enumerate(Score._fields):
        axis = figure.add_subplot(grid[1, index * num : (index + 1) * num])
        draw_courses(axis, label, {name: [trained.shares(index) for trained in seeds] for name, seeds in runs.items()})
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def draw_samples(axis: Axes, title: str, samples: Tensor) -> None:
    """Plot samples with one color per class; circles mark valid regions, thick ones the rewarded modes."""
    angles = torch.linspace(0, 2 * math.pi, 60)
    circle = 4 * STD * torch.stack([angles.cos(), angles.sin()])
    for mode, center in enumerate(mode_centers()):
        width = 2.4 if mode in GOALS.tolist() else 0.7
        axis.plot(*(center[:, None] + circle), color=COLORS[mode % 2], linewidth=width)
    for kind, color in enumerate(COLORS):
        axis.scatter(*samples[kind::2, 0].T, s=5, color=color, alpha=0.35, linewidths=0)
    axis.set(title=title, xlim=(-3, 3), ylim=(-3, 3), xticks=[], yticks=[], aspect="equal")


def draw_courses(axis: Axes, title: str, courses: dict[str, list[list[float]]]) -> None:
    """Plot means over seeds, and the range from the lowest to the highest."""
    for name, seeds in courses.items():
        shares, updates = torch.tensor(seeds), EVERY * torch.arange(len(seeds[0]))
        (line,) = axis.plot(updates, shares.mean(dim=0), label=name)
        axis.fill_between(updates, *shares.aminmax(dim=0), color=line.get_color(), alpha=0.2, linewidth=0)
    axis.set(title=title, xlabel="update", ylim=(0, 1.03))
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, loc="center right")


def main(argv: list[str]) -> bool:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="runs of every algorithm, each from a base of its own")
    parser.add_argument("--algorithms", nargs="+", choices=list(SETTINGS), default=list(SETTINGS))
    parser.add_argument("--updates", type=int, default=100, help="of stage 2; the base gets ten times as many")
    parser.add_argument("--out", type=user_path, default=Path("runs/ring/ring.png"))
    args = parser.parse_args(argv)
    if args.seeds < 1 or args.updates < 1 or args.updates % EVERY:
        raise ValueError(f"--seeds must be 1 or more, --updates a multiple of {EVERY}")
    torch.set_num_threads(1)
    runs: dict[str, list[TrainingRun]] = {name: [] for name in args.algorithms}
    for seed in range(args.seeds):
        torch.manual_seed(seed)
        base = RingFlow()
        learn_flow(base, 10 * args.updates)
        for name in args.algorithms:
            runs[name].append(train(base, name, args.updates))
            print(f"seed {seed}: {name}: reward {runs[name][-1].shares(0)[-1]:.3f}", flush=True)
    print(table(runs))
    draw(runs, args.out)
    print(f"picture: {args.out}")
    return True


if __name__ == "__main__":
    run_command(main, sys.argv[1:])
