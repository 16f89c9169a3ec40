"""Draws glyphs at random places and in visual domains, which make a glyph look different from task to task."""

from __future__ import annotations

import math

import torch
from torch.nn import functional

IMAGE_SIZE = 20
"""Width and height of an image in pixels."""
DOMAINS = 20


def place(canvas: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Turn (12 degrees), scale (15 %) and shift glyphs [n, h, w] at random; return images [n, 1, 20, 20]."""
    count = len(canvas)
    angle = _spread(count, 1, generator)[:, 0] * math.radians(12)
    zoom = 1 / (1 + _spread(count, 1, generator)[:, 0] * 0.15)
    cos, sin = angle.cos() * zoom, angle.sin() * zoom
    shift = _spread(count, 2, generator) * 0.12
    matrix = torch.stack([torch.stack([cos, -sin, shift[:, 0]], 1), torch.stack([sin, cos, shift[:, 1]], 1)], 1)
    grid = functional.affine_grid(matrix, [count, 1, IMAGE_SIZE, IMAGE_SIZE], align_corners=False)
    return functional.grid_sample(canvas[:, None], grid, align_corners=False)


def render_domain(images: torch.Tensor, domain: int, generator: torch.Generator) -> torch.Tensor:
    """Render images [n, 1, 20, 20] in domain 0..19: noise, stripes, blur, occlusion or contrast; odd ones inverted."""
    images = 1 - images if domain % 2 else images
    return _EFFECTS[domain % 5](images, domain, generator)


def _spread(count: int, width: int, generator: torch.Generator) -> torch.Tensor:
    return torch.rand(count, width, generator=generator) * 2 - 1


def _noise(images: torch.Tensor, domain: int, generator: torch.Generator) -> torch.Tensor:
    return images * 0.8 + 0.2 * torch.randn(images.shape, generator=generator)


def _stripes(images: torch.Tensor, domain: int, generator: torch.Generator) -> torch.Tensor:
    rows, columns = torch.meshgrid(torch.arange(IMAGE_SIZE), torch.arange(IMAGE_SIZE), indexing="ij")
    shape = (len(images), 1, 1, 1)
    pitch = 0.5 + torch.rand(shape, generator=generator)
    phase = torch.rand(shape, generator=generator) * 2 * math.pi
    return images * 0.75 + 0.25 * torch.sin(pitch * (columns + (domain % 3) * rows) + phase)


def _blur(images: torch.Tensor, domain: int, generator: torch.Generator) -> torch.Tensor:
    return functional.avg_pool2d(images, 3, 1, 1) + 0.1 * torch.randn(images.shape, generator=generator)


def _occlusion(images: torch.Tensor, domain: int, generator: torch.Generator) -> torch.Tensor:
    holes = (torch.rand((len(images), 1, 6, 6), generator=generator) > 0.15).float()
    return images * functional.interpolate(holes, size=(IMAGE_SIZE, IMAGE_SIZE))


def _contrast(images: torch.Tensor, domain: int, generator: torch.Generator) -> torch.Tensor:
    shape = (len(images), 1, 1, 1)
    gain = 0.4 + 0.4 * torch.rand(shape, generator=generator)
    offset = 0.2 * torch.rand(shape, generator=generator)
    return images * gain + offset + 0.05 * torch.randn(images.shape, generator=generator)


_EFFECTS = (_noise, _stripes, _blur, _occlusion, _contrast)
