import dataclasses

import torch

from data.loader import Lesson
from model.config import Optimisation, SupervisedConfig
from model.supervised import draw_timesteps, edited, encode_lessons, lay_out, supervised_loss, train_supervised
from model.trainer import Trainer, generator
from tests.model.toys import toy_bundle, toy_example

CONFIG = SupervisedConfig(
    noise_draws=2,
    optimisation=Optimisation(steps=30, learning_rate=5e-3, warmup=2, batch_size=3, ema_decay=0.5, checkpoint_every=4),
)


def drawn(count):
    return [generator(0, 0, f"{index}") for index in range(count)]


def test_every_target_picture_is_seen_at_every_drawn_time():
    bundle = toy_bundle()
    lessons = [Lesson.of(toy_example(turns, f"s{turns}")) for turns in (1, 3)]
    truth = lay_out(bundle, lessons, encode_lessons(bundle, lessons), CONFIG, drawn(len(lessons)))
    tokens = 9 * CONFIG.noise_draws * 4
    assert truth.noisy.shape == (tokens, bundle.model.config.latent_dim)
    clean = truth.pictures.latents[truth.batch.noisy_target]
    assert torch.equal(truth.clean, clean)
    times = truth.timesteps[:, None]
    assert torch.allclose(truth.noisy, (1 - times) * clean + times * truth.noise, atol=1e-6)
    assert truth.timesteps.view(-1, 9).std(1).max() == 0, "one time for all tokens of a picture"
    assert truth.batch.noisy_turn.tolist() == [1, 1, 1, 1, 2, 2, 3, 3]


def test_tokens_that_an_edit_changes_weigh_more():
    bundle = toy_bundle()
    lesson = Lesson.of(toy_example(2, "s"))
    images = lesson.images.copy()
    images[1] = images[0]
    images[2, :16, :16] = 255 - images[1, :16, :16]
    pair = [Lesson(chosen, ("a", "a"), ("a", "a")) for chosen in (images[[0, 0, 0]], images)]
    still, moved = (edited(table) for table in encode_lessons(bundle, pair))
    assert still.eq(0).all()
    assert moved.view(3, -1)[:2].eq(0).all() and moved.view(3, -1)[2].max() > 0
    truth = lay_out(bundle, [lesson], encode_lessons(bundle, [lesson]), CONFIG, drawn(1))
    assert truth.weights.min() >= 1 and truth.weights.max() <= 1 + CONFIG.edited_weight and truth.weights.std() > 0


def test_shifted_times_lean_to_noise():
    plain, shifted = (draw_timesteps(4000, s, torch.Generator().manual_seed(0)) for s in (1.0, 3.0))
    assert abs(plain.mean() - 0.5) < 0.02
    assert torch.allclose(shifted, 3 * plain / (1 + 2 * plain))


def train(folder, batches, bundle, steps=CONFIG.optimisation.steps):
    config = dataclasses.replace(CONFIG, optimisation=dataclasses.replace(CONFIG.optimisation, steps=steps))
    seen = []
    work = Trainer(bundle.model, config.optimisation, folder)
    train_supervised(bundle, config, batches, work, lambda step, metrics: seen.append(metrics), "sft")
    return seen


def test_it_learns_what_it_is_shown_and_resumes_to_the_same_bits(tmp_path):
    bundle = toy_bundle()
    lessons = [Lesson.of(toy_example(turns, f"s{turns}")) for turns in (1, 2, 2)]
    tables = encode_lessons(bundle, lessons)
    truth = lay_out(bundle, lessons, tables, CONFIG, drawn(len(lessons)))
    before, _ = supervised_loss(bundle, truth, 0.2)
    seen = train(tmp_path / "whole", lambda step: (lessons, tables), bundle)
    after, metrics = supervised_loss(bundle, truth, 0.2)
    assert after < 0.8 * before and metrics["trace_accuracy"] > 0.5
    assert seen[-1]["progress"] == 1.0 and seen[-1]["sft/flow_loss"] > 0

    def killed(step):
        if step == 17:
            raise KeyboardInterrupt
        return lessons, tables

    again = toy_bundle()
    try:
        train(tmp_path / "cut", killed, again)
    except KeyboardInterrupt:
        again = toy_bundle()
    train(tmp_path / "cut", lambda step: (lessons, tables), again)
    for one, other in zip(bundle.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(one, other)
