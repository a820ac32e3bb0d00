import dataclasses

import pytest
import torch

from data.errors import UserError
from data.loader import Lesson
from model.config import (
    CorruptionConfig,
    DropoutConfig,
    Optimisation,
    SamplingConfig,
    SupervisedConfig,
    ValidationConfig,
)
from model.corruption import Corruption
from model.ground_truth import draw_timesteps, edited, ground_truth
from model.supervised import encode_lessons, supervised_loss, told, train_supervised
from model.trainer import Trainer, generator
from model.validation import Validation
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
    truth = ground_truth(bundle, lessons, encode_lessons(bundle, lessons), CONFIG, drawn(len(lessons)))
    tokens = 9 * CONFIG.noise_draws * 4
    assert truth.noisy.shape == (tokens, bundle.model.config.latent_dim)
    clean = truth.pictures.latents[truth.batch.noisy_target]
    assert torch.equal(truth.clean, clean)
    times = truth.timesteps[:, None]
    assert torch.allclose(truth.noisy, (1 - times) * clean + times * truth.noise, atol=1e-6)
    assert truth.timesteps.view(-1, 9).std(1).max() == 0, "one time for all tokens of a picture"
    assert truth.batch.noisy_turn.tolist() == [1, 1, 1, 1, 2, 2, 3, 3]


def test_a_turn_that_only_asks_teaches_its_answer_and_draws_nothing():
    bundle = toy_bundle()
    drawing = [Lesson.of(toy_example(turns, f"s{turns}")) for turns in (1, 2)]
    asking = [dataclasses.replace(lesson, asks=1) for lesson in drawing]
    truth = ground_truth(bundle, asking, encode_lessons(bundle, asking), CONFIG, drawn(2))
    assert truth.batch.noisy_session.unique().tolist() == [1] and truth.batch.noisy_turn.unique().tolist() == [1]
    assert truth.batch.text_turn.tolist() == [1, 1, 2], "every intent is a target"
    loss, _ = supervised_loss(bundle, truth, 1.0)
    assert loss.isfinite()
    reading = [dataclasses.replace(lesson, asks=len(lesson.instructions)) for lesson in drawing]
    truth = ground_truth(bundle, reading, encode_lessons(bundle, reading), CONFIG, drawn(2))
    loss, metrics = supervised_loss(bundle, truth, 2.0)
    assert metrics["flow_loss"] == 0 and loss.item() == pytest.approx(2 * metrics["trace_loss"])
    loss.backward()
    assert bundle.model.language_model.lm_head.weight.grad.abs().max() > 0


@pytest.mark.parametrize("hidden", ["text", "vit", "clean"])
def test_hidden_conditions_shorten_what_is_seen_and_not_what_is_drawn(hidden):
    bundle = toy_bundle()
    lessons = [Lesson.of(toy_example(turns, f"s{turns}")) for turns in (1, 3)]
    tables = encode_lessons(bundle, lessons)
    config = dataclasses.replace(CONFIG, dropout=DropoutConfig(**{hidden: 1.0}))
    seen, hiding = (ground_truth(bundle, lessons, tables, which, drawn(2)) for which in (CONFIG, config))
    assert len(hiding.batch.scatter) < len(seen.batch.scatter)
    assert torch.equal(hiding.batch.noisy_target, seen.batch.noisy_target) and torch.equal(hiding.clean, seen.clean)
    taught = [] if hidden == "text" else seen.batch.text_turn.tolist()
    assert hiding.batch.text_turn.tolist() == taught, "what nobody asked for is not to be written"
    loss, _ = supervised_loss(bundle, hiding, 1.0)
    assert loss.isfinite()


def test_recomputing_activations_is_a_setting_and_changes_no_weight(tmp_path):
    lessons = [Lesson.of(toy_example(turns, f"s{turns}")) for turns in (1, 3)]
    found = []
    for recompute in (False, True):
        bundle = toy_bundle()
        optimisation = dataclasses.replace(CONFIG.optimisation, recompute=recompute)
        trainer = Trainer(bundle.model, optimisation, tmp_path / str(recompute))
        truth = ground_truth(bundle, lessons, encode_lessons(bundle, lessons), CONFIG, drawn(2))
        trainer.update(supervised_loss(bundle, truth, 1.0)[0])
        assert bundle.model.language_model.model.recompute is recompute
        found.append(torch.cat([p.detach().flatten() for p in bundle.model.parameters()]))
    assert torch.allclose(*found, atol=1e-6)
    with pytest.raises(UserError, match="Linear cannot recompute"):
        Trainer(torch.nn.Linear(1, 1), dataclasses.replace(CONFIG.optimisation, recompute=True), tmp_path / "other")


def test_tokens_that_an_edit_changes_weigh_more():
    bundle = toy_bundle()
    lesson = Lesson.of(toy_example(2, "s"))
    images = lesson.images.copy()
    images[1] = images[0]
    images[2, :16, :16] = 255 - images[1, :16, :16]
    pair = [Lesson(chosen, ("a", "a"), ("a", "a")) for chosen in (images[[0, 0, 0]], images)]
    latents = (table.latents.view(3, 9, -1) for table in encode_lessons(bundle, pair))
    still, moved = (edited(shown[1:], shown[:-1]) for shown in latents)
    assert still.eq(0).all()
    assert moved[0].eq(0).all() and moved[1].max() > 0
    truth = ground_truth(bundle, [lesson], encode_lessons(bundle, [lesson]), CONFIG, drawn(1))
    assert truth.weights.min() >= 1 and truth.weights.max() <= 1 + CONFIG.edited_weight and truth.weights.std() > 0


def test_shifted_times_lean_to_noise():
    plain, shifted = (draw_timesteps(4000, s, torch.Generator().manual_seed(0)) for s in (1.0, 3.0))
    assert abs(plain.mean() - 0.5) < 0.02
    assert torch.allclose(shifted, 3 * plain / (1 + 2 * plain))


def train(folder, batches, bundle, steps=CONFIG.optimisation.steps, **other):
    config = dataclasses.replace(CONFIG, **other, optimisation=dataclasses.replace(CONFIG.optimisation, steps=steps))
    seen = []
    work = Trainer(bundle.model, config.optimisation, folder)
    told_so = told(bundle, config, batches)
    train_supervised(bundle, config, told_so, work, lambda step, metrics: seen.append(metrics), "sft")
    return seen


def test_it_learns_what_it_is_shown_and_resumes_to_the_same_bits(tmp_path):
    bundle = toy_bundle()
    lessons = [Lesson.of(toy_example(turns, f"s{turns}")) for turns in (1, 2, 2)]
    tables = encode_lessons(bundle, lessons)
    truth = ground_truth(bundle, lessons, tables, CONFIG, drawn(len(lessons)))
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


SHORT = dataclasses.replace(CONFIG, optimisation=dataclasses.replace(CONFIG.optimisation, steps=8))
LESSONS = [Lesson.of(toy_example(turns, f"s{turns}")) for turns in (1, 2, 3)]


def corrupting(kind, refresh=3):
    fast = SamplingConfig(points=3, max_trace=3)
    return dataclasses.replace(SHORT, corruption=CorruptionConfig(1.0, kind, refresh, sampling=fast))


def test_products_in_bfloat16_round_and_teach_the_same_float32_weights(tmp_path):
    lessons = [Lesson.of(toy_example(turns, f"s{turns}")) for turns in (1, 2, 2)]
    found = {}
    for precision in ("float32", "bfloat16"):
        bundle = toy_bundle()
        shown = (lessons, encode_lessons(bundle, lessons))
        found[precision] = train(tmp_path / precision, lambda _, shown=shown: shown, bundle, precision=precision)
        assert {weight.dtype for weight in bundle.model.parameters()} == {torch.float32}
    (whole, *_, last), (rounded, *_, learned) = found["float32"], found["bfloat16"]
    assert rounded["sft/loss"] != whole["sft/loss"]
    assert rounded["sft/loss"] == pytest.approx(whole["sft/loss"], rel=0.02)
    assert learned["sft/loss"] == pytest.approx(last["sft/loss"], rel=0.2) and learned["sft/loss"] < rounded["sft/loss"]


@pytest.mark.parametrize("kind", ["samples", "pasted", "noise"])
def test_corrupted_histories_leave_the_targets_true(tmp_path, kind):
    bundle, config = toy_bundle(), corrupting(kind)
    tables = encode_lessons(bundle, LESSONS)
    corruption = Corruption(bundle, config, lambda step: (LESSONS, tables), lambda random: LESSONS[1], tmp_path)
    histories = corruption.histories(4, LESSONS, tables)
    assert histories[0] is None and [len(h) for h in histories[1:]] == [1, 2]
    true = tables[2].select([1, 2]).latents
    assert histories[2].latents.shape == true.shape and not torch.equal(histories[2].latents, true)
    plain, corrupted = (ground_truth(bundle, LESSONS, tables, config, drawn(3), shown) for shown in (None, histories))
    assert torch.equal(plain.clean, corrupted.clean) and torch.equal(plain.noisy, corrupted.noisy)
    seen = corrupted.pictures.latents[corrupted.batch.clean_index]
    assert seen.shape == plain.pictures.latents[plain.batch.clean_index].shape
    rows = {tuple(row) for row in seen.tolist()}
    assert {tuple(row) for row in histories[2].latents.tolist()} <= rows
    assert {tuple(row) for row in tables[2].select([0]).latents.tolist()} <= rows


def corrupted_training(folder, stop_at=None):
    bundle, config = toy_bundle(), corrupting("samples")
    tables = encode_lessons(bundle, LESSONS)
    corruption = Corruption(bundle, config, lambda step: (LESSONS, tables), lambda random: LESSONS[1], folder)
    asked = []

    def batches(step):
        asked.append(step)
        if step == stop_at:
            raise KeyboardInterrupt
        return LESSONS, tables

    work = Trainer(bundle.model, config.optimisation, folder)
    train_supervised(bundle, config, told(bundle, config, batches, corruption), work, lambda *_: None, "sft")
    return asked, list(bundle.model.parameters())


def test_a_run_that_is_cut_off_amid_the_service_of_samples_goes_on_with_them(tmp_path):
    _, whole = corrupted_training(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        corrupted_training(tmp_path / "cut", stop_at=5)
    asked, again = corrupted_training(tmp_path / "cut")
    assert asked[0] == 4, "step 4 uses the samples that were drawn before step 3"
    assert all(torch.equal(one, other) for one, other in zip(whole, again, strict=True))


def validated(folder, monkeypatch, scores, patience, stop_at=None):
    """A training whose looks at held-out sessions find the given scores."""
    monkeypatch.setattr("model.validation.held_out", lambda *_: {"IF": scores[work.step // 2]})
    bundle = toy_bundle()
    config = dataclasses.replace(SHORT, validation=ValidationConfig(every=2, patience=patience))
    tables = encode_lessons(bundle, LESSONS)
    work = Trainer(bundle.model, config.optimisation, folder)
    validation = Validation(bundle, config, [toy_example(1, "v")], work)
    seen, averages = {}, {}

    def batches(step):
        averages[step - 1] = {name: value.clone() for name, value in work.average.items()}
        if step == stop_at:
            raise KeyboardInterrupt
        return LESSONS, tables

    def report(step, metrics):
        seen[step] = metrics.get("sft/validation_score")

    train_supervised(bundle, config, told(bundle, config, batches), work, report, "sft", validation)
    return seen, averages, {n: p for n, p in bundle.model.named_parameters() if p.requires_grad}


def test_validation_stops_a_training_that_gets_no_better_and_keeps_its_best_weights(tmp_path, monkeypatch):
    scores = [0.4, 0.8, 0.4, 0.4]
    seen, _, ends = validated(tmp_path / "stopped", monkeypatch, scores, patience=1)
    assert {step: score for step, score in seen.items() if score is not None} == {1: 0.1, 3: 0.2, 5: 0.1}
    _, averages, again = validated(tmp_path / "patient", monkeypatch, scores, patience=0)
    for name, value in ends.items():
        assert torch.equal(value, averages[3][name]) and torch.equal(value, again[name])
    with pytest.raises(KeyboardInterrupt):
        validated(tmp_path / "cut", monkeypatch, scores, patience=1, stop_at=5)
    _, _, resumed = validated(tmp_path / "cut", monkeypatch, scores, patience=1)
    assert all(torch.equal(value, resumed[name]) for name, value in ends.items())


def test_looking_at_held_out_sessions_changes_nothing(tmp_path):
    bundle = toy_bundle()
    config = dataclasses.replace(SHORT, validation=ValidationConfig(2, sampling=SamplingConfig(points=3, max_trace=3)))
    work = Trainer(bundle.model, config.optimisation, tmp_path)
    work.average = {name: value + 0.1 for name, value in work.average.items()}
    before = [p.clone() for p in bundle.model.parameters()]
    state = torch.get_rng_state()
    found = Validation(bundle, config, [toy_example(2, "v")], work).look(1)
    assert found["validation_score"] == 0.0, "the judge has nothing to say about these scenes"
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(p, kept) for p, kept in zip(bundle.model.parameters(), before, strict=True))
