"""EditModel: the mixture of transformers with its picture encoders and heads.

Module names are the official checkpoint's, so that its tensors map one to one. `forward` computes all turns of all
sessions of a batch; `model.context` calls the same `embed` and `decode` on a cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from transformers import PreTrainedModel
from transformers.models.qwen2.modeling_qwen2 import Qwen2RotaryEmbedding

from model.attention import additive
from model.batch import Calls, PackedBatch
from model.configuration import EditConfig
from model.guidance import Guidance, combine
from model.layers import MoTForCausalLM, RMSNorm, rotary
from model.pictures import Pictures
from model.rows import LayerCache, Rows
from model.segments import View
from model.vit import Connector, PositionTable, TimeEmbedder, VisionModel


class SessionOutput(NamedTuple):
    """text_logits (M, V) at supervised places; text_targets (M,); text_segment (M,) ordinal of the supervised text;
    velocity (ΣN, C) in the order of the noisy table, guided when `guidance` was given."""

    text_logits: Tensor
    text_targets: Tensor
    text_segment: Tensor
    velocity: Tensor


def table_ids(cells: Tensor, side: int, interpolate: bool) -> Tensor:
    """Rows of a position table for cells (..., 4) = row, column, rows, columns: row * side + column; in interpolate
    mode the fractional coordinates are bucketed into `side` cells first."""
    row, column, rows, columns = cells.unbind(-1)
    if not interpolate:
        return row * side + column
    edges = torch.arange(1 / side, 1.0, 1 / side, device=cells.device)
    fractions = ((row.double() / rows).float(), (column.double() / columns).float())
    bucket_row, bucket_column = (torch.bucketize(f, edges, right=True) for f in fractions)
    return bucket_row * side + bucket_column


class EditModel(PreTrainedModel):
    """Understanding and generation experts over one session; `from_pretrained` reads this project's folder or the
    official BAGEL folder, fails on any tensor that does not fit, and keeps the account in `load_report`."""

    config_class = EditConfig
    config: EditConfig
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules = [  # noqa: RUF012 (declared so by the base class)
        "MoTLayer",
        "SiglipEncoderLayer",
    ]

    def __init__(self, config: EditConfig) -> None:
        super().__init__(config)
        llm, vit = config.llm_config(), config.vit_config()
        width, side = llm.hidden_size, config.vit_max_num_patch_per_side
        self.language_model = MoTForCausalLM(llm)
        self.vit_model = VisionModel(vit, config.vit_positions)
        self.connector = Connector(vit.hidden_size, width, config.connector_act)
        self.vit_pos_embed = PositionTable(side, width)
        self.latent_pos_embed = PositionTable(config.max_latent_size, width)
        self.time_embedder = TimeEmbedder(width, config.timestep_channels)
        self.vae2llm = nn.Linear(config.latent_dim, width)
        self.llm2vae = nn.Linear(width, config.latent_dim)
        self._rotaries: dict[torch.device, Qwen2RotaryEmbedding] = {}
        self.load_report: Any = None
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Random start: 1/sqrt(fan in) for weights, sin-cos tables, a velocity head that starts at zero."""
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=module.in_features**-0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
        elif isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, RMSNorm):
            nn.init.ones_(module.weight)
        elif isinstance(module, PositionTable):
            module.reset()
        if module is self.llm2vae:
            nn.init.zeros_(module.weight)

    @classmethod
    def from_pretrained(cls, folder: str | Path, **options: Any) -> EditModel:  # type: ignore[override]
        """Load a folder; options: dtype ("float32", "bfloat16", ... or None for the stored one) and device."""
        from model.loading import load_model

        return load_model(Path(folder), **options)

    def gradient_checkpointing_enable(self, **_: Any) -> None:  # type: ignore[override]
        """Recompute the layers of decoder and picture encoder in the backward pass instead of keeping their
        activations."""
        self._set_recompute(True)

    def gradient_checkpointing_disable(self) -> None:
        """Keep activations again."""
        self._set_recompute(False)

    def _set_recompute(self, recompute: bool) -> None:
        for part in (self.language_model.model, self.vit_model.vision_model.encoder):
            part.recompute = recompute

    @property
    def blocks(self) -> list[nn.Module]:
        """The modules that hold most of the parameters: one after the other they are gathered from their shards."""
        return [*self.language_model.model.layers, *self.vit_model.vision_model.encoder.layers]

    def get_input_embeddings(self) -> nn.Embedding:
        return self.language_model.model.embed_tokens

    def get_output_embeddings(self) -> nn.Linear:
        return self.language_model.lm_head

    def encode_patches(self, batch: PackedBatch, pictures: Pictures) -> Tensor:
        """Connector output plus positions of the batch's ViT tokens (n, D)."""
        chosen, cells, side = batch.vit_patches, batch.vit_cells, self.config.vit_max_num_patch_per_side
        if not chosen.numel():  # all ranks gather a layer's shards at once, so one without tokens runs it on any patch
            chosen, cells = chosen.new_zeros(1, 1), cells.new_tensor([[[0, 0, 1, 1]]])
        patches = pictures.patches[chosen].to(self.dtype)
        ids = table_ids(cells, side, self.config.interpolate_pos)
        mask = None
        if not batch.uniform_vit:
            mask = additive(~batch.vit_padding[:, None, :], patches.dtype)
        features = self.connector(self.vit_model(patches, ids, mask)).flatten(0, 1)
        return (features + self.vit_pos_embed(ids.flatten())).index_select(0, batch.vit_index)

    def _latent_positions(self, cells: Tensor) -> Tensor:
        return self.latent_pos_embed(table_ids(cells, self.config.max_latent_size, self.config.interpolate_pos))

    def embed(
        self, batch: PackedBatch, pictures: Pictures | None, noisy: Tensor | None, timesteps: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Input rows of both experts, (U, D) and (G, D). timesteps (J,) per noisy picture or (ΣN,) per token."""
        und = self.language_model.model.embed_tokens(batch.token_ids)
        if pictures is not None and (batch.vit_index.numel() or isinstance(self, FSDPModule)):
            und = torch.cat((und, self.encode_patches(batch, pictures)))
        gen = [und[:0]]
        if pictures is not None and batch.clean_index.numel():
            clean = pictures.latents[batch.clean_index].to(self.dtype)
            zero = self.time_embedder(torch.zeros(1, device=clean.device))
            gen.append(self.vae2llm(clean) + zero + self._latent_positions(batch.clean_cells))
        if noisy is not None and timesteps is not None and batch.noisy_index.numel():
            if timesteps.shape[0] != batch.noisy_start.shape[0]:
                timesteps = timesteps[batch.noisy_start]
            time = self.time_embedder(timesteps).index_select(0, batch.noisy_of_token)
            latent = (self.vae2llm(noisy.to(self.dtype)) + time).index_select(0, batch.noisy_index)
            gen.append(latent + self._latent_positions(batch.noisy_cells))
        return und, torch.cat(gen[1:]) if len(gen) > 1 else gen[0]

    def rope(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """cos and sin, see `model.layers.rotary`. The frequencies are no part of the module: they are in no
        checkpoint, and a change of the model's precision must not round them."""
        device = positions.device
        if device not in self._rotaries:
            with torch.device(device):
                self._rotaries[device] = Qwen2RotaryEmbedding(self.config.llm_config())
        return rotary(self._rotaries[device], positions, self.dtype)

    def rows_of(self, batch: PackedBatch, calls: Calls) -> Rows:
        """The decoder's view of a batch."""
        return Rows(*calls, *self.rope(batch.positions))

    def decode(
        self, und: Tensor, gen: Tensor, rows: Rows, streams: Sequence[Sequence[LayerCache]] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Decoder layers; hidden states before the final norms."""
        return self.language_model.model(und, gen, rows, streams)

    def logits(self, und: Tensor) -> Tensor:
        """Vocabulary logits of understanding rows."""
        return self.language_model.lm_head(self.language_model.model.norm(und))

    def velocities(self, batch: PackedBatch, gen: Tensor) -> Tensor:
        """(views, ΣN, C) velocities in table order; float32, because guidance multiplies their rounding."""
        noisy = gen[batch.clean_index.shape[0] :].index_select(0, batch.view_rows.flatten())
        velocity = self.llm2vae(self.language_model.model.norm_moe_gen(noisy)).float()
        return velocity.unflatten(0, batch.view_rows.shape)

    def forward(
        self,
        batch: PackedBatch,
        pictures: Pictures,
        noisy: Tensor,
        timesteps: Tensor,
        guidance: Guidance | None = None,
    ) -> SessionOutput:
        """All turns of all sessions at once.

        noisy (ΣN, C); timesteps (J,) per noisy picture, or (ΣN,) constant within a picture, in [0, 1] (shifted).
        `guidance` needs a batch laid out with guided=True (ValueError otherwise).
        """
        kind, dtype = self.device.type, self.dtype
        if torch.is_autocast_enabled(kind):  # or every layer would convert the mask anew
            dtype = torch.get_autocast_dtype(kind)
        rows = self.rows_of(batch, batch.calls(dtype))
        und, gen = self.decode(*self.embed(batch, pictures, noisy, timesteps), rows)
        velocity = self.velocities(batch, gen)
        if guidance is not None and (guidance.uses_text or guidance.uses_image):
            if not batch.guided:
                raise ValueError("guidance needs sessions laid out with guided=True")
            time = timesteps if timesteps.shape[0] == noisy.shape[0] else timesteps[batch.noisy_of_token]
            views = velocity[View.FULL], velocity[View.NO_TEXT], velocity[View.NO_IMAGE]
            out = combine(guidance, *views, time, batch.noisy_of_token)
        else:
            out = velocity[View.FULL]
        return SessionOutput(self.logits(und[batch.text_index]), batch.text_targets, batch.text_segment, out)
