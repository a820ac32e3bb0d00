"""Free-running sessions: each turn the model writes an intent trace, then samples the picture it will go on from.

All trajectories run as one batch on one key/value cache, and members of a group share a row of it until they differ:
what two of them do alike is written, drawn, encoded and kept once. Those whose session is over leave. What replay needs
is kept: the ids of the traces with their log-probabilities, and the states of the stochastic steps. The history holds
uint8 pictures, re-encoded, exactly as replay will see them. `walk` is the loop, `rollout` runs it on built sessions,
`model.pipeline` on a user's picture.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from data.loader import Example
from model.bundle import Bundle
from model.config import SamplingConfig
from model.context import Context
from model.images import Pixels, at_size
from model.pictures import Pictures
from model.tokenizer import encode_texts
from model.trajectories import Exploration, GoOn, Script, Trajectory
from model.turn_sampler import Sampler


def rollout(
    bundle: Bundle,
    examples: Sequence[Example],
    config: SamplingConfig,
    *,
    seed: int,
    step: int = 0,
    group_size: int = 1,
    shared_noise: bool = True,
    exploration: Exploration | None = None,
    true_history: bool = False,
    true_intents: bool = False,
    go_on: GoOn | None = None,
) -> list[Trajectory]:
    """Run every session `group_size` times, all at once; see `walk`.

    Args:
        examples: sessions with at least their source picture, all of one size.
        exploration: None samples the deterministic flow.
        true_history: go on from the target picture and the known intent of each turn instead of what was drawn and
            written (needs the targets).
        true_intents: write the known intent of each turn instead of sampling a trace.
    """
    scripts = []
    for example in examples:
        turns = example.session.turns
        known = [turn.intent or turn.instruction for turn in turns] if config.write_trace else []
        traces, intents = known if true_intents else [], known if true_history else []
        texts = [turn.instruction for turn in turns]
        scripts.append(Script(example.session.id, list(example.images), texts, traces, intents))
    sampler = Sampler(bundle, config, seed, step, exploration, shared_noise=shared_noise, true_history=true_history)
    return walk(sampler, scripts, group_size, go_on)


def walk(
    sampler: Sampler,
    scripts: Sequence[Script],
    group_size: int = 1,
    go_on: GoOn | None = None,
) -> list[Trajectory]:
    """Run every script `group_size` times, all at once; trajectories of one script lie in a row.

    Random numbers depend on the sampler's seed and step, the script's name, the member's number in its group and the
    turn, never on the batch: a session that runs alone gives what it gives in company. Members that did the same in a
    turn, from the same history, hold the same `TurnSample`. `go_on` may let members of a group go on from one another.
    The model goes on from pictures as it drew them; trajectories show them at the size of their source.
    """
    bundle = sampler.bundle
    members = [(i, member) for i in range(len(scripts)) for member in range(group_size)]
    trajectories = [Trajectory(i, [scripts[i].images[0]], member=k, before=[k]) for i, k in members]
    images = np.stack([script.images[0] for script in scripts])
    size = images.shape[2], images.shape[1]
    context = Context(bundle.model, bundle.special, len(scripts), guided=sampler.guidance.uses_image)
    pictures = _open_turn(bundle, context, images, scripts, 0)
    playing, stands, turn = list(range(len(members))), [i for i, _ in members], 0  # row of the context of who plays
    while True:
        acting = [trajectories[index] for index in playing]
        names = [(scripts[one.session].name, one.member) for one in acting]
        given = [scripts[one.session].traces[turn] for one in acting if scripts[one.session].traces]
        context, made, samples, images = sampler.turn(context, stands, names, turn, pictures.latent_grids[0], given)
        histories, shown = [pictures.select([row]) for row in range(len(pictures))], at_size(images, size)
        for one, before, after in zip(acting, stands, made, strict=True):
            one.append(samples[after], shown[after], histories[before])
        turn += 1
        staying = [k for k, one in enumerate(acting) if len(scripts[one.session].instructions) > turn]
        if not staying:
            return trajectories
        played = [acting[k] for k in staying]
        chosen = go_on(played) if go_on is not None else range(len(played))
        rows = [made[staying[k]] for k in chosen]
        if sampler.true_history:  # one true picture after one history: whatever the members made, a row serves them all
            first = {one.session: row for one, row in zip(played, rows, strict=True)}
            rows = [first[one.session] for one in played]
        kept = list(dict.fromkeys(rows))
        playing, stands = [playing[k] for k in staying], [kept.index(row) for row in rows]
        for index, one, k in zip(playing, played, chosen, strict=True):
            trajectories[index] = one.stays() if one is played[k] else one.went_on_from(played[k])
        listed = [scripts[played[stands.index(row)].session] for row in range(len(kept))]
        context = context.keeping(kept)
        if sampler.true_history:
            _correct(context, sampler, listed, turn - 1)
        images = np.stack([script.images[turn] for script in listed]) if sampler.true_history else images[kept]
        pictures = _open_turn(bundle, context, images, listed, turn)


def _correct(context: Context, sampler: Sampler, scripts: Sequence[Script], turn: int) -> None:
    """Put the known intents of a turn in the place of what was written in it, one script per row."""
    context.drop_branch()
    if scripts[0].intents:
        context.append_text(encode_texts(sampler.bundle.tokenizer, [script.intents[turn] for script in scripts]))


def _open_turn(bundle: Bundle, context: Context, images: Pixels, scripts: Sequence[Script], turn: int) -> Pictures:
    """Append picture and instruction of a turn, one of each per row."""
    pictures = bundle.encode(images)
    context.append_pictures(pictures)
    context.append_text(encode_texts(bundle.tokenizer, [script.instructions[turn] for script in scripts]))
    return pictures
