"""A small convolutional autoencoder for 28x28 grey images."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sextant.ranges import at_least


class ConvAutoencoder(nn.Module):
    """conv 32, conv 64, fc 128, code; the decoder mirrors it and ends in a sigmoid.

    Both convolutions halve the side (28, 14, 7): the wide one then has a quarter of the products
    it would have after a first convolution at full size.

    Args:
        latent: length of the code.

    Raises:
        ValueError: for a code shorter than 1.
    """

    def __init__(self, latent: int = 6) -> None:
        super().__init__()
        at_least(1, latent=latent)
        self.latent = latent
        self.encoder = nn.Sequential(
            nn.Conv2d(1, 32, 4, stride=2, padding=1),
            nn.SiLU(),
            nn.Conv2d(32, 64, 4, stride=2, padding=1),
            nn.SiLU(),
            nn.Flatten(),
            nn.Linear(64 * 7 * 7, 128),
            nn.SiLU(),
            nn.Linear(128, latent),
        )
        self.decoder = nn.Sequential(
            nn.Linear(latent, 128),
            nn.SiLU(),
            nn.Linear(128, 64 * 7 * 7),
            nn.SiLU(),
            nn.Unflatten(1, (64, 7, 7)),
            nn.ConvTranspose2d(64, 32, 4, stride=2, padding=1),
            nn.SiLU(),
            nn.ConvTranspose2d(32, 1, 4, stride=2, padding=1),
        )

    def encode(self, inputs: Tensor) -> Tensor:
        """Images (n, 1, 28, 28) in [0, 1] to codes (n, latent).

        Raises:
            ValueError: for images of another shape.
        """
        if inputs.shape[1:] != (1, 28, 28):
            raise ValueError(f"images must be (n, 1, 28, 28), got {tuple(inputs.shape)}")
        return self.encoder(inputs)

    def decode(self, codes: Tensor) -> Tensor:
        """Codes (n, latent) to images (n, 1, 28, 28) in [0, 1].

        Raises:
            ValueError: for codes of another length.
        """
        if codes.ndim != 2 or codes.shape[1] != self.latent:
            raise ValueError(f"codes must be (n, {self.latent}), got {tuple(codes.shape)}")
        return torch.sigmoid(self.decoder(codes))

    def forward(self, inputs: Tensor) -> Tensor:
        """Images to their reconstructions."""
        return self.decode(self.encode(inputs))
