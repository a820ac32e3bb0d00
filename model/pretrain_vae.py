"""Train the latent space on rendered scenes.

Two phases. First encoder and decoder learn together, from pieces of scenes if these are large: as many pixels of more
scenes, which a step learns more from. Whole scenes must follow, because group norm and attention see all of a picture.
Then the latents are whitened by folding the transform into the encoder's last and the decoder's first convolution, and
the decoder alone goes on learning. Flow matching sees squared error only: a property of the picture that moves the
latents little would be passed over, so after whitening every direction carries the same variance. The decoder also
learns to bear errors of the latents, which sampling makes: large ones first, then small ones, because the finest
details (letters) are read only by a decoder that may trust its latents.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor, nn

from data.errors import UserError
from data.loader import render_scenes
from data.scenes import World, wider_than
from model import distributed
from model.atomic import replace_folder
from model.config import VaeConfig
from model.loading import load_vae
from model.trainer import Report, Trainer, generator, numpy_generator
from model.vae import new_vae, stride_of

START_LOG_VARIANCE = -6.0


def train_vae(config: VaeConfig, world: World, folder: Path, report: Report) -> Path:
    """Train on scenes of a world and save the autoencoder, or take the one that the configuration names.

    Args:
        folder: where the finished autoencoder goes; a run that was cut off goes on from `<folder>.work`.

    Returns:
        `folder`, or that of the ready one.

    Raises:
        UserError: pieces of a size that latents or scenes have not, or a start of other sizes.
    """
    if config.checkpoint:
        return Path(config.checkpoint) / "vae"
    if folder.exists():
        return folder
    stride = stride_of(config.channels)
    if config.crop % stride or config.crop > world.image_size:
        problem = f"no whole latents of {stride} pixels make pieces of {config.crop} in {world.image_size}"
        raise UserError(problem, "Correct vae.crop")
    wide, seed = round(config.wide * config.scenes), config.optimisation.seed
    scenes = render_scenes(world, config.scenes - wide, seed)
    if wide:
        scenes = np.concatenate((scenes, render_scenes(wider_than(world), wide, seed)))
    work = folder.with_name(f"{folder.name}.work")
    torch.manual_seed(config.optimisation.seed)
    vae: Any = _begun(config)
    vae.to(distributed.device())
    first = round(config.optimisation.steps * config.whiten_at)
    _train_both(vae, config, first, scenes, work / "both", report)
    whiten(vae, _to_tensor(scenes[: config.scenes - wide][:1024]).to(vae.device))
    _train_decoder(vae, config, first, scenes, work / "decoder", report)
    temporary = work / "finished"
    vae.save_pretrained(temporary)
    replace_folder(temporary, folder)
    return folder


def _begun(config: VaeConfig) -> AutoencoderKL:
    """The autoencoder as training finds it: random, or the one to start from."""
    if not config.start:
        return new_vae(config.channels, config.latent_channels, config.layers_per_block)
    vae = load_vae(Path(config.start)).train()
    if (*vae.config["block_out_channels"], vae.config["latent_channels"]) != (*config.channels, config.latent_channels):
        raise UserError(
            f"the autoencoder of {config.start} has other sizes", "Correct vae.channels and .latent_channels"
        )
    last = vae.encoder.conv_out
    assert last.bias is not None
    with torch.no_grad():  # whitening scaled the means alone: what the variances were learned beside is gone
        last.weight[config.latent_channels :] = 0.0
        last.bias[config.latent_channels :] = START_LOG_VARIANCE
    return vae


def _to_tensor(images: np.ndarray) -> Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2).float().div(127.5).sub(1.0)


def _batch(scenes: np.ndarray, config: VaeConfig, step: int, crop: int = 0) -> Tensor:
    """Whole scenes, or pieces of `crop` pixels from as many scenes as make the same area."""
    random = numpy_generator(config.optimisation.seed, step, "vae batch")
    count, side, stride = config.optimisation.batch_size, scenes.shape[1], stride_of(config.channels)
    if not crop:
        return _to_tensor(scenes[random.integers(0, len(scenes), count)])
    count *= (side // crop) ** 2
    chosen = random.integers(0, len(scenes), count)
    corners = random.integers(0, (side - crop) // stride + 1, (count, 2)) * stride
    pieces = [scenes[i, y : y + crop, x : x + crop] for i, (y, x) in zip(chosen, corners, strict=True)]
    return _to_tensor(np.stack(pieces))


def _reconstruction_loss(output: Tensor, target: Tensor) -> Tensor:
    return F.l1_loss(output, target) + F.mse_loss(output, target)


def _train_both(
    vae: AutoencoderKL, config: VaeConfig, steps: int, scenes: np.ndarray, work: Path, report: Report
) -> None:
    trainer = Trainer(vae, dataclasses.replace(config.optimisation, steps=steps), work)
    for step in trainer.steps():
        crop = config.crop if step < config.crop_until * steps else 0
        images = _batch(scenes, config, step, crop).to(vae.device)
        posterior = vae.encode(images).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=generator(config.optimisation.seed, step, "posterior"))
        noise = noise.to(vae.device)
        output = vae.decode(posterior.mean + posterior.std * noise).sample
        reconstruction = _reconstruction_loss(output, images)
        divergence = posterior.kl().sum() / config.optimisation.batch_size  # of as many pieces as make a scene
        stats = trainer.update(reconstruction + config.kl_weight * divergence)
        _report(report, config, step, {"vae/loss": reconstruction.item(), **stats})
    trainer.use_average()
    trainer.save()


def _train_decoder(
    vae: AutoencoderKL, config: VaeConfig, first: int, scenes: np.ndarray, work: Path, report: Report
) -> None:
    vae.encoder.requires_grad_(False)
    steps = config.optimisation.steps - first
    rate = config.optimisation.learning_rate / 2
    trainer = Trainer(vae, dataclasses.replace(config.optimisation, steps=steps, learning_rate=rate), work)
    for step in trainer.steps():
        images = _batch(scenes, config, first + step).to(vae.device)
        with torch.no_grad():
            latents = vae.encode(images).latent_dist.mean
        random = generator(config.optimisation.seed, first + step, "latent noise")
        amount = _most_noise(config, step / steps) * torch.rand((len(latents), 1, 1, 1), generator=random)
        noise = (amount * torch.randn(latents.shape, generator=random)).to(vae.device)
        reconstruction = _reconstruction_loss(vae.decode(latents + noise).sample, images)
        _report(report, config, first + step, {"vae/loss": reconstruction.item(), **trainer.update(reconstruction)})
    trainer.use_average()
    vae.encoder.requires_grad_(True)


def _most_noise(config: VaeConfig, share: float) -> float:
    """Largest standard deviation of the latents' noise after a share of the decoder's steps."""
    first, last = config.decoder_noise
    return first + (last - first) * share


def _report(report: Report, config: VaeConfig, step: int, metrics: dict[str, float]) -> None:
    if step % 10 == 0:
        report(step, {**metrics, "progress": (step + 1) / config.optimisation.steps})


@torch.no_grad()
def whiten(vae: AutoencoderKL, images: Tensor) -> None:
    """Fold a whitening of the latent channels (zero mean, unit covariance over `images`) into the autoencoder.

    The encoder's side is exact. The decoder's is exact inside the picture; at its border the zero padding of the first
    convolution stands for another value than before, which the training of the decoder mends.
    """
    means = torch.cat([vae.encode(chunk).latent_dist.mean for chunk in images.split(128)])
    flat = means.permute(0, 2, 3, 1).flatten(0, 2).double()
    mean = flat.mean(0)
    values, vectors = torch.linalg.eigh(torch.cov(flat.T))
    # Symmetric (ZCA) whitening; the floor keeps a dead channel from being blown up into noise.
    root = values.clamp(min=1e-6 * values.max()).sqrt()
    forward, backward = vectors @ torch.diag(1 / root) @ vectors.T, vectors @ torch.diag(root) @ vectors.T
    last, first = vae.encoder.conv_out, vae.decoder.conv_in
    _fold_forward(last, forward, mean)
    _fold_backward(first, backward, mean)


def _fold_forward(conv: nn.Conv2d, matrix: Tensor, mean: Tensor) -> None:
    """Let the first channels of a convolution's output be matrix @ (output - mean)."""
    assert conv.bias is not None
    z = mean.numel()
    weight = torch.einsum("ij,jchw->ichw", matrix, conv.weight[:z].double())
    conv.weight[:z] = weight.to(conv.weight.dtype)
    conv.bias[:z] = (matrix @ (conv.bias[:z].double() - mean)).to(conv.bias.dtype)


def _fold_backward(conv: nn.Conv2d, matrix: Tensor, mean: Tensor) -> None:
    """Let a convolution read matrix @ input + mean."""
    assert conv.bias is not None
    constant = torch.einsum("ojhw,j->o", conv.weight.double(), mean)
    conv.bias += constant.to(conv.bias.dtype)
    conv.weight.copy_(torch.einsum("ojhw,ji->oihw", conv.weight.double(), matrix).to(conv.weight.dtype))
