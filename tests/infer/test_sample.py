from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from f5_tts.data.tokenizer import Vocabulary
from f5_tts.infer.sample import Request, initial_noise, noise_stream, sample, sample_requests
from f5_tts.model.cfm import CFM
from f5_tts.model.flow import time_grid

DIT_CASES = [
    "s1.steps16.cfg2",
    "s1.steps8.cfg2",
    "s1.steps4.cfg2",
    "s1.steps8.cfg0",
    "s1.steps7.cfg2.epss",
    "s1.steps16.cfg2.noepss",
    "clamp.steps4.cfg2",
]
ALONE = [f"{model}.{case}" for model in ("dit_v1", "dit_v0") for case in DIT_CASES]
ALONE += ["dit_v1.s1.steps8.maxdur20", "unett_e2.s1.steps16.cfg2"]
TOGETHER = [
    f"{model}.{case}" for model in ("dit_v1", "dit_v0") for case in ("s2.steps8.cfg2.attnmask", "s2.steps16.cfg2")
]
TOGETHER += ["unett_e2.s2.steps8.cfg2"]
LETTERS = Vocabulary([" ", *"abcdefghijklmnopqrstuvwxyz"])


def published_lens(text: Tensor, prompt_lens: Tensor, duration: Tensor, settings: dict) -> Tensor:
    """Compute the total frames by the published rule.

    They are the requested frames, but more than the tokens and more than the prompt.
    """
    tokens = (text >= 0).sum(1)
    return torch.maximum(torch.maximum(tokens, prompt_lens) + 1, duration).clamp(max=settings.get("max_duration", 4096))


def run_case(model, golden: dict[str, Tensor], name: str, settings: dict) -> tuple[Tensor, Tensor]:
    """Sample a golden case; return it with the frames of each item."""
    case = settings["input"]
    prompt, text, noise = golden[f"in.{case}.cond"], golden[f"in.{case}.text"], golden[f"{name}.y0"]
    prompt_lens = golden.get(f"in.{case}.lens", torch.full((len(prompt),), prompt.shape[1]))
    lens = published_lens(text, prompt_lens, golden[f"in.{case}.duration"], settings)
    times = time_grid(settings["steps"], settings["sway_sampling_coef"], epss=settings.get("use_epss", True))
    return sample(model, prompt, prompt_lens, lens, text, noise, times, settings["cfg_strength"]), lens


@pytest.mark.parametrize("name", ALONE)
def test_a_whole_sampling_is_the_published_one_within_1e_4(name, golden_model, tensors, table):
    golden, settings = tensors("g3_sample"), table("g3_sample")["cases"][name]
    mel, lens = run_case(golden_model(name.split(".")[0]), golden, name, settings)
    assert lens.tolist() == [mel.shape[1]]
    torch.testing.assert_close(mel, golden[f"{name}.out"], atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", TOGETHER)
def test_the_full_length_item_of_a_batch_is_the_published_one_within_1e_4(name, golden_model, tensors, table):
    golden, settings = tensors("g3_sample"), table("g3_sample")["cases"][name]
    mel, lens = run_case(golden_model(name.split(".")[0]), golden, name, settings)
    full = lens == mel.shape[1]
    assert full.tolist() == [True, False]
    torch.testing.assert_close(mel[full], golden[f"{name}.out"][full], atol=1e-4, rtol=0)


def test_the_golden_cases_are_all_run(table):
    assert {*ALONE, *TOGETHER} == table("g3_sample")["cases"].keys()


# --- requests ---


def request(frames: int, prompt_frames: int, text: str, seed: int) -> Request:
    generator = torch.Generator().manual_seed(100 + seed)
    prompt = torch.randn(prompt_frames, 20, generator=generator)
    return Request(prompt_mel=prompt, text=f"ab {text}", frames=frames, seed=seed)


REQUESTS = [request(9, 5, "cde", 1), request(14, 3, "fghijklm", 2), request(4, 8, "n", 3)]


@pytest.mark.parametrize("name", ["dit_v1", "dit_avgup", "dit"])
def test_speech_does_not_depend_on_what_it_is_made_with(name, golden_model):
    model, times = golden_model(name), time_grid(4, -1.0)
    together = sample_requests(model, REQUESTS, LETTERS, times, 2.0)
    for mel, one in zip(together, REQUESTS, strict=True):
        torch.testing.assert_close(mel, sample_requests(model, [one], LETTERS, times, 2.0)[0], atol=1e-5, rtol=0)


def test_speech_comes_in_order_without_its_prompt_as_long_as_asked_for(golden_model):
    mels = sample_requests(golden_model("dit_v1"), REQUESTS, LETTERS, time_grid(2, None), 0.0)
    assert [mel.shape for mel in mels] == [(9, 20), (14, 20), (4, 20)]
    assert not any(mel.requires_grad for mel in mels)


def test_the_model_is_told_the_text_of_prompt_and_speech(golden_model):
    model, times, one = golden_model("dit_v1"), time_grid(2, None), REQUESTS[0]
    prompt_lens, lens = torch.tensor([5]), torch.tensor([14])
    prompt, text, noise = one.prompt_mel[None], LETTERS.encode(["ab cde"]), initial_noise(one)[None]
    expected = sample(model, prompt, prompt_lens, lens, text, noise, times, 0.0)
    assert torch.equal(sample_requests(model, [one], LETTERS, times, 0.0)[0], expected[0, 5:])


def test_the_same_seed_gives_the_same_speech_and_another_seed_another(golden_model):
    def spoken(seed: int) -> Tensor:
        return sample_requests(
            golden_model("dit_v1"), [replace(REQUESTS[0], seed=seed)], LETTERS, time_grid(2, None), 1.0
        )[0]

    assert torch.equal(spoken(1), spoken(1))
    assert (spoken(1) - spoken(2)).abs().mean() > 0.1


def test_noise_is_standard_normal_and_covers_the_prompt_too():
    noise = initial_noise(request(1500, 500, "a", 7))
    assert noise.shape == (2000, 20)
    assert noise.mean().item() == pytest.approx(0, abs=0.02) and noise.std().item() == pytest.approx(1, abs=0.02)


# --- drawn velocities ---


def drawing(golden_model, ln_sigma: float | None = None) -> CFM:
    """Return the golden Gaussian model with sampled velocities, and with `ln_sigma` everywhere if it is given."""
    model = golden_model("dit")
    model.sample_from_dist, head = True, model.transformer.proj_out_ln_sig
    if ln_sigma is not None:
        torch.nn.init.zeros_(head.weight)
        torch.nn.init.constant_(head.bias, ln_sigma)
    return model


@pytest.mark.parametrize("method", ["euler", "midpoint"])
def test_drawn_speech_does_not_depend_on_what_it_is_made_with_and_follows_its_seed(golden_model, method: str):
    model, times = drawing(golden_model), time_grid(3, -1.0)
    together = sample_requests(model, REQUESTS, LETTERS, times, 2.0, method)
    for mel, one in zip(together, REQUESTS, strict=True):
        torch.testing.assert_close(
            mel, sample_requests(model, [one], LETTERS, times, 2.0, method)[0], atol=1e-5, rtol=0
        )
        other = sample_requests(model, [replace(one, seed=one.seed + 9)], LETTERS, times, 2.0, method)[0]
        assert (mel - other).abs().mean() > 0.1


def test_each_step_draws_its_velocity_from_the_head_with_new_noise(golden_model):
    """Take one step of length 1: expect the mean plus σ ε, where ε is the second noise of the seed."""
    one, ln_sigma = REQUESTS[0], -0.5
    source = noise_stream(one)
    _, first = next(source), next(source)
    drawn = sample_requests(drawing(golden_model, ln_sigma), [one], LETTERS, time_grid(1, None), 2.0)[0]
    mean = sample_requests(golden_model("dit"), [one], LETTERS, time_grid(1, None), 2.0)[0]
    sigma = torch.tensor(ln_sigma).exp()
    torch.testing.assert_close(drawn, mean + sigma * first[len(one.prompt_mel) :], atol=1e-5, rtol=0)


def test_a_model_that_is_sure_of_itself_speaks_as_its_mean(golden_model):
    times = time_grid(4, -1.0)
    drawn = sample_requests(drawing(golden_model, -30.0), REQUESTS, LETTERS, times, 2.0)
    for mel, mean in zip(drawn, sample_requests(golden_model("dit"), REQUESTS, LETTERS, times, 2.0), strict=True):
        torch.testing.assert_close(mel, mean, atol=1e-6, rtol=0)


def test_prompt_frames_are_put_back_and_frames_past_the_prompt_are_not_shown_to_the_model(golden_model):
    model, times = golden_model("dit_v1"), time_grid(2, None)
    torch.manual_seed(5)
    prompt, noise = torch.randn(2, 6, 20), torch.randn(2, 11, 20)
    prompt_lens, lens, text = torch.tensor([6, 2]), torch.tensor([11, 9]), torch.tensor([[1, 2], [3, 4]])
    mel = sample(model, prompt, prompt_lens, lens, text, noise, times, 1.0)
    assert torch.equal(mel[0, :6], prompt[0]) and torch.equal(mel[1, :2], prompt[1, :2])

    other = prompt.clone()
    other[1, 2:] = 99.0
    assert torch.equal(sample(model, other, prompt_lens, lens, text, noise, times, 1.0), mel)
