"""Parameters of every learning stage. `params.yaml` sets them per profile; what it leaves out has the default here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

Share = Annotated[float, Field(ge=0, le=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]
Rewards = tuple[NonNegativeFloat, NonNegativeFloat, NonNegativeFloat, NonNegativeFloat]
"""Weights of IF, CC, GA and the success of a turn."""


@dataclass(frozen=True)
class ModelConfig:
    """Sizes of the transformer; `checkpoint` names a folder in the official layout instead of training from scratch."""

    checkpoint: str | None = None
    start: str | None = None  # folder of a base of these sizes, with which the base's training begins
    width: PositiveInt = 128
    layers: PositiveInt = 4
    heads: PositiveInt = 4
    kv_heads: PositiveInt = 2
    mlp: PositiveInt = 352
    vit_width: PositiveInt = 64
    vit_layers: PositiveInt = 2
    vit_heads: PositiveInt = 4
    vit_patch: PositiveInt = 16  # pixels; one patch is one cell of the scene
    latent_patch: PositiveInt = 2  # latents of the autoencoder along the side of a token


@dataclass(frozen=True)
class Optimisation:
    """One AdamW run with linear warm-up and cosine decay."""

    steps: PositiveInt = 1000
    batch_size: PositiveInt = 32  # examples of one update
    learning_rate: PositiveFloat = 1e-3
    final_learning_rate: NonNegativeFloat = 0.1  # share of learning_rate left at the last step
    warmup: NonNegativeInt = 50  # steps
    weight_decay: NonNegativeFloat = 0.01
    gradient_clip: PositiveFloat = 1.0  # global norm
    ema_decay: Decay = 0.99  # 0 keeps no average
    masters: bool = True  # weights in lower precision learn as float32 copies (released: no)
    recompute: bool = (
        False  # activations in the backward pass, in place of keeping them: less memory, a third more time
    )
    checkpoint_every: PositiveInt = 200  # steps
    seed: int = 0


@dataclass(frozen=True)
class VaeConfig:
    """Training of the latent space on rendered scenes; `checkpoint` names a model folder whose autoencoder is taken."""

    checkpoint: str | None = None
    start: str | None = None  # folder of a model with whose autoencoder, of these sizes, the training begins
    channels: tuple[int, ...] = (16, 32, 64, 64)  # a stride of 2 between levels: four make 1/8 of the picture's side
    layers_per_block: PositiveInt = 1
    latent_channels: PositiveInt = 4
    kl_weight: NonNegativeFloat = 1e-5  # of the sum over a scene's latents
    whiten_at: Share = 0.7  # share of the steps after which the latents are whitened and the encoder is frozen
    decoder_noise: tuple[NonNegativeFloat, NonNegativeFloat] = (0.35, 0.05)  # most on its latents, first and last step
    scenes: PositiveInt = 8192  # distinct scenes seen
    wide: Share = 0.0  # share of them that are of a wider world
    crop: NonNegativeInt = 0  # side in pixels of the pieces of scenes that are learned from at first; 0: whole scenes
    crop_until: Share = 0.6  # share of the steps before whitening
    optimisation: Optimisation = field(default_factory=lambda: Optimisation(learning_rate=2e-3, batch_size=32))


@dataclass(frozen=True)
class CorruptionConfig:
    """History pictures that differ from the ground truth while targets stay true: practice against contamination."""

    share: Share = 0.0  # of a step's sessions
    kind: Literal["samples", "pasted", "noise"] = "samples"  # the model's own, a foreign object in each, noisy latents
    refresh: PositiveInt = 20  # steps for which the samples of one rollout serve
    noise: NonNegativeFloat = 0.3  # standard deviation of what is added to latents
    sampling: SamplingConfig = field(default_factory=lambda: SamplingConfig())


@dataclass(frozen=True)
class ValidationConfig:
    """Free-running held-out sessions during a training, with the averaged weights; the best ones are kept."""

    every: NonNegativeInt = 0  # steps between two looks; 0: none
    sessions: PositiveInt = 32
    patience: NonNegativeInt = 0  # looks without a better score after which training stops; 0: never
    sampling: SamplingConfig = field(default_factory=lambda: SamplingConfig())


@dataclass(frozen=True)
class DropoutConfig:
    """Shares of conditions that learning hides, so that guidance has something to part from (BAGEL: 0.1, 0.3, 0.3)."""

    text: Share = 0.0  # instructions, each with its trace
    vit: Share = 0.0  # pictures as the encoder sees them
    clean: Share = 0.0  # pictures as latents


@dataclass(frozen=True)
class AdapterConfig:
    """LoRA: updates of low rank learn in place of the weights, into which they are folded when the model is saved."""

    rank: NonNegativeInt = 0  # 0: the weights themselves learn (released: 64)
    alpha: PositiveInt = 128  # over the rank: what an update is multiplied by
    expert: Literal["understanding", "generation", "both"] = "both"


@dataclass(frozen=True)
class SupervisedConfig:
    """Learning from ground truth: base (lessons, rendered as they are needed) and SFT (whole sessions).

    All turns of a session run in one packed forward; every target picture is seen at `noise_draws` time steps at once.
    """

    noise_draws: PositiveInt = 4
    timestep_shift: PositiveFloat = 1.0
    trace_weight: NonNegativeFloat = 0.2  # cross-entropy against flow matching (1.0)
    write_trace: bool = True  # False learns to edit without intent trace
    precision: Literal["float32", "bfloat16"] = "float32"  # of matrix products; weights stay in their own
    edited_weight: NonNegativeFloat = 4.0  # extra weight of a latent token that the edit changes; most are copies
    reading: Share = 0.0  # base only: share of the steps, from the first on, that teach traces and draw nothing
    described: Share = 0.0  # base only: share of lessons that describe, draw or locate a whole scene
    chained: Share = 0.0  # base only: share of lessons of unrelated edits one after the other
    dictated: Share = 0.0  # base only: share of lessons of several turns whose instructions are their intents
    wide: Share = 0.0  # base only: share of lessons on scenes of a wider world, with kinds and colours never met
    dropout: DropoutConfig = field(default_factory=DropoutConfig)
    labelled: PositiveInt | None = None  # SFT only: learn from the first so many ground-truth sessions; None: from all
    corruption: CorruptionConfig = field(default_factory=CorruptionConfig)  # SFT only
    validation: ValidationConfig = field(default_factory=ValidationConfig)  # SFT only
    lora: AdapterConfig = field(default_factory=AdapterConfig)  # SFT only
    optimisation: Optimisation = field(default_factory=Optimisation)


@dataclass(frozen=True)
class SamplingConfig:
    """How pictures and traces are sampled, in rollouts and evaluation."""

    points: Annotated[int, Field(ge=2)] = 9  # points of the time grid: points - 1 velocity evaluations
    shift: PositiveFloat = 1.0
    noise_scale: NonNegativeFloat = 1.0  # of a picture's first noise; below 1 draws what is likelier (released: 1)
    text_guidance: float = 1.0  # 1 is off
    image_guidance: float = 1.0
    temperature: NonNegativeFloat = 0.0  # of the trace; 0 is greedy
    max_trace: PositiveInt = 28  # tokens
    write_trace: bool = True  # False edits without intent trace


@dataclass(frozen=True)
class AnchorConfig:
    """Ground-truth sessions that RL goes on learning beside its reward, against forgetting."""

    sessions: NonNegativeInt = 0  # of every update; 0: none (released: none)
    labelled: PositiveInt | None = None  # as in SFT: from the first so many; None: from all
    weight: NonNegativeFloat = 1.0
    trace_weight: NonNegativeFloat = 1.0  # cross-entropy against flow matching, as in SFT
    noise_draws: PositiveInt = 2


@dataclass(frozen=True)
class RlConfig:
    """Multi-turn RL on traces and pictures. Comments name the choice of the released code where it differs."""

    sessions: PositiveInt = 8  # groups of one iteration (released: 16)
    group_size: Annotated[int, Field(ge=2)] = 8  # trajectories of a session (released: 6)
    max_turns: PositiveInt | None = None  # sessions are cut after as many turns; None is whole sessions
    replay_batch: PositiveInt = 16  # trajectories replayed in one forward
    epochs: PositiveInt = 1  # passes over an iteration's experience
    minibatches: PositiveInt = 1  # parts of it, an optimiser step each (released: 2)
    sampling: SamplingConfig = field(default_factory=lambda: SamplingConfig(temperature=1.0))
    sde: Literal["flow", "cps"] = "cps"  # released: flow
    noise_level: NonNegativeFloat = 0.6  # released: 1.3 with flow
    window: PositiveInt = 2  # stochastic steps of a picture
    window_range: tuple[NonNegativeInt, PositiveInt] = (0, 6)  # it lies in [low, high), drawn for the whole iteration
    shared_noise: bool = True  # one initial noise of a turn for the group; False for pictures alone, but for grpo
    policies: Annotated[tuple[Literal["image", "text"], ...], Field(min_length=1)] = ("image", "text")
    alternate: bool = False  # policies learn in turns, each while the other is greedy; else all at once, as released
    objective: Literal["grpo", "nft", "best"] = "grpo"  # of the picture; only grpo samples with noise on the way
    nft_draws: PositiveInt = 4  # noisy copies of every sampled picture, for best too
    nft_strength: PositiveFloat = 1.0  # how far along the policy's change the good and the bad policy lie
    advantage: Literal["turn", "session", "improvement"] = "turn"  # released: session
    filter: bool = True  # a failed turn ends the learning of its successors
    filter_threshold: float = 0.0  # a turn fails with IF at or below it
    mask_text: bool = False  # whether the filter masks text too (released: True, by accident)
    resample: Literal["none", "healthy", "best"] = "none"  # after a turn, corrupted trajectories go on from healthy
    # siblings, or all of a group from its best one (released: not there)
    scale: Literal["deviation", "none"] = "deviation"  # of a group's advantages
    advantage_clip: PositiveFloat = 5.0
    clip: PositiveFloat = 1e-3  # of the picture's ratio (released: 1e-5)
    text_clip: PositiveFloat = 0.2  # (released: 1e-5)
    ratio_guard: bool = False
    kl: Literal["none", "velocity", "latent"] = "velocity"  # released: latent; velocity where no step draws noise
    kl_weight: NonNegativeFloat = 1e-3
    text_weight: NonNegativeFloat = 1.0
    image_weight: NonNegativeFloat = 1.0
    anchor: AnchorConfig = field(default_factory=AnchorConfig)
    rewards: Rewards = (0.3, 0.3, 0.4, 0.0)
    minimum_spread: NonNegativeFloat = 1e-3  # groups whose rewards spread less teach nothing
    lora: AdapterConfig = field(default_factory=AdapterConfig)
    generation_learning_rate: PositiveFloat | None = None  # of the generation expert; None: as the other's
    alert_every: NonNegativeInt = 5  # iterations between two looks at held-out sessions; 0: none (released: 20)
    alert_sessions: PositiveInt = 16
    alert_window: PositiveInt = 4  # looks over which the reward rises and the held-out score falls
    alert_fall: NonNegativeFloat = 0.03  # smaller falls of the held-out score are noise
    stop_on_alert: bool = False
    samples_every: NonNegativeInt = 10  # iterations between two drawings of a group's samples; 0: none
    optimisation: Optimisation = field(
        default_factory=lambda: Optimisation(
            steps=20,  # iterations
            learning_rate=1e-4,
            final_learning_rate=1.0,
            warmup=0,
            weight_decay=0.0,
            ema_decay=0.0,
            checkpoint_every=5,
        )
    )


@dataclass(frozen=True)
class EvaluationConfig:
    """Free-running evaluation over all turns of the benchmark."""

    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    batch_size: PositiveInt = 48  # sessions
    sessions: PositiveInt | None = None  # None is the whole benchmark
    strips: NonNegativeInt = 6  # sessions drawn as strips of pictures
    true_history: bool = True  # also every turn on the targets of the turns before (contamination gap), and with their
    # intents too (ceiling)
    seed: int = 0
