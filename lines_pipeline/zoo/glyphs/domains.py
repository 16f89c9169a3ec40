"""Puts drawings into images: at random places, in the mild domain of pretraining or in one of 20 others."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch.nn import functional

IMAGE_SIZE = 20
"""Width and height of an image in pixels."""
MILD, PLAIN = "mild", "plain"
_ROWS, _COLUMNS = torch.meshgrid(torch.arange(IMAGE_SIZE).float(), torch.arange(IMAGE_SIZE).float(), indexing="ij")


def render(canvas: torch.Tensor, domain: str, strength: float, generator: torch.Generator) -> torch.Tensor:
    """Return images [n, 1, 20, 20] of drawings [n, 64, 64] in a domain; a strength of 0 leaves nearly plain ones."""
    return _DOMAINS[domain](canvas, strength, generator)


def clean(canvas: torch.Tensor) -> torch.Tensor:
    """Return images [n, 1, 20, 20] of drawings as they are, in the middle: those that heads are made of."""
    return _placed(canvas, torch.eye(2, 3).expand(len(canvas), 2, 3))


def place(
    canvas: torch.Tensor,
    generator: torch.Generator,
    *,
    turn: float = 12.0,
    shift: float = 0.12,
    shear: float = 0.0,
    size: float = 1.0,
) -> torch.Tensor:
    """Turn (degrees), scale by 15 %, shift and shear drawings at random; return images [n, 1, 20, 20]."""
    count = len(canvas)
    angle = _spread(count, generator) * math.radians(turn)
    zoom = 1 / (size * (1 + _spread(count, generator) * 0.15))
    across, down = _spread(count, generator) * shift, _spread(count, generator) * shift
    slant = _spread(count, generator) * shear * zoom
    cos, sin = angle.cos() * zoom, angle.sin() * zoom
    matrix = torch.stack([torch.stack([cos, slant - sin, across], 1), torch.stack([sin, cos, down], 1)], 1)
    return _placed(canvas, matrix)


def _placed(canvas: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    halved = functional.avg_pool2d(canvas[:, None], 2)
    grid = functional.affine_grid(matrix, [len(canvas), 1, IMAGE_SIZE, IMAGE_SIZE], align_corners=False)
    return functional.grid_sample(halved, grid, align_corners=False)


def _spread(count: int, generator: torch.Generator) -> torch.Tensor:
    return torch.rand(count, generator=generator) * 2 - 1


def _each(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Return a random number for each image, in 0..1: [n, 1, 1, 1]."""
    return torch.rand(len(images), 1, 1, 1, generator=generator)


def _noisy(images: torch.Tensor, deviation: float | torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    return images + deviation * torch.randn(images.shape, generator=generator)


def render_mild(canvas: torch.Tensor, generator: torch.Generator, *, turn: float = 12.0) -> torch.Tensor:
    """Return images in the mild domain, turned by up to ``turn`` degrees."""
    images = place(canvas, generator, turn=turn)
    images = images * (0.8 + 0.2 * _each(images, generator))
    return _noisy(images, 0.1 * _each(images, generator), generator)


def _mild(canvas: torch.Tensor, strength: float, generator: torch.Generator) -> torch.Tensor:
    return render_mild(canvas, generator)


def _plain(canvas: torch.Tensor, strength: float, generator: torch.Generator) -> torch.Tensor:
    return _noisy(place(canvas, generator), 0.05, generator)


def _noise(canvas: torch.Tensor, strength: float, generator: torch.Generator) -> torch.Tensor:
    return _noisy(place(canvas, generator) * 0.8, 0.3 * strength, generator)


def _stripes(canvas: torch.Tensor, strength: float, generator: torch.Generator) -> torch.Tensor:
    images = place(canvas, generator)
    pitch, phase = 0.5 + _each(images, generator), _each(images, generator) * 2 * math.pi
    return images * 0.75 + 0.3 * strength * torch.sin(pitch * (_ROWS + _COLUMNS) + phase)


def _blur(canvas: torch.Tensor, strength: float, generator: torch.Generator) -> torch.Tensor:
    deviation = 0.2 + 1.5 * strength
    reach = math.ceil(3 * deviation)
    weights = torch.exp(-0.5 * (torch.arange(-reach, reach + 1).float() / deviation) ** 2)
    weights = weights / weights.sum()
    images = functional.conv2d(place(canvas, generator), weights.view(1, 1, -1, 1), padding=(reach, 0))
    return _noisy(functional.conv2d(images, weights.view(1, 1, 1, -1), padding=(0, reach)), 0.08, generator)


def _occlusion(canvas: torch.Tensor, strength: float, generator: torch.Generator) -> torch.Tensor:
    images = place(canvas, generator)
    kept = (torch.rand((len(images), 1, 6, 6), generator=generator) > 0.25 * strength).float()
    return images * functional.interpolate(kept, size=(IMAGE_SIZE, IMAGE_SIZE))


def _contrast(canvas: torch.Tensor, strength: float, generator: torch.Generator) -> torch.Tensor:
    images = place(canvas, generator)
    gain = (0.35 + 0.3 * _each(images, generator)) / (0.5 + strength)
    return _noisy(images * gain + 0.4 * strength * _each(images, generator), 0.06, generator)


def _ramp(canvas: torch.Tensor, strength: float, generator: torch.Generator) -> torch.Tensor:
    images = place(canvas, generator)
    angle, middle = _each(images, generator) * 2 * math.pi, (IMAGE_SIZE - 1) / 2
    slope = ((_COLUMNS - middle) * angle.cos() + (_ROWS - middle) * angle.sin()) / middle
    return images * 0.6 + 0.6 * strength * slope


def _pepper(canvas: torch.Tensor, strength: float, generator: torch.Generator) -> torch.Tensor:
    images = place(canvas, generator)
    drawn, share = torch.rand(images.shape, generator=generator), 0.1 * strength
    return torch.where(drawn < share, torch.zeros(()), torch.where(drawn > 1 - share, torch.ones(()), images))


def _dots(canvas: torch.Tensor, strength: float, generator: torch.Generator) -> torch.Tensor:
    images = place(canvas, generator)
    across, down = (_each(images, generator) * 4).floor(), (_each(images, generator) * 4).floor()
    dots = ((_COLUMNS + across) % 4 == 0) & ((_ROWS + down) % 4 == 0)
    return torch.maximum(images, 0.7 * strength * dots.float())


def _grid(canvas: torch.Tensor, strength: float, generator: torch.Generator) -> torch.Tensor:
    images = place(canvas, generator)
    start = (_each(images, generator) * 5).floor()
    lines = ((_COLUMNS + start) % 5 == 0) | ((_ROWS + start) % 5 == 0)
    return torch.maximum(images, 0.6 * strength * lines.float())


def _grain(canvas: torch.Tensor, strength: float, generator: torch.Generator) -> torch.Tensor:
    images = place(canvas, generator)
    return images + strength * (functional.avg_pool2d(_noisy(images, 0.6, generator), 3, 1, 1) - images)


def _wave(canvas: torch.Tensor, strength: float, generator: torch.Generator) -> torch.Tensor:
    images = place(canvas, generator)
    across, down = (_COLUMNS + 0.5) / 10 - 1, (_ROWS + 0.5) / 10 - 1
    phases = [2 * math.pi * _each(images, generator)[:, 0] for _ in range(2)]
    bent_across = across + 0.22 * strength * torch.sin(1.25 * math.pi * down + phases[0])
    bent_down = down + 0.22 * strength * torch.sin(1.25 * math.pi * across + phases[1])
    return functional.grid_sample(images, torch.stack([bent_across, bent_down], -1), align_corners=False)


def _band(canvas: torch.Tensor, strength: float, generator: torch.Generator) -> torch.Tensor:
    images = place(canvas, generator)
    width = 5 * strength
    start = (IMAGE_SIZE - width) * _each(images, generator)
    along = torch.where(_each(images, generator) < 0.5, _COLUMNS, _ROWS)
    covered = (torch.minimum(along + 1, start + width) - torch.maximum(along, start)).clamp(0, 1)
    return images * (1 - covered) + _each(images, generator) * covered


def _pixels(canvas: torch.Tensor, strength: float, generator: torch.Generator) -> torch.Tensor:
    images = place(canvas, generator)
    coarse = functional.interpolate(functional.adaptive_avg_pool2d(images, 5), size=(IMAGE_SIZE, IMAGE_SIZE))
    return _noisy(images + strength * (coarse - images), 0.05, generator)


def _invert(canvas: torch.Tensor, strength: float, generator: torch.Generator) -> torch.Tensor:
    images = place(canvas, generator)
    return images + strength * (0.6 - 1.6 * images)


def _turn(canvas: torch.Tensor, strength: float, generator: torch.Generator) -> torch.Tensor:
    return _noisy(place(canvas, generator, turn=12 + 40 * strength), 0.05, generator)


def _shear(canvas: torch.Tensor, strength: float, generator: torch.Generator) -> torch.Tensor:
    return _noisy(place(canvas, generator, shear=0.8 * strength), 0.05, generator)


def _small(canvas: torch.Tensor, strength: float, generator: torch.Generator) -> torch.Tensor:
    size = 1 / (1 + strength)
    return _noisy(place(canvas, generator, size=size, shift=0.12 + 0.3 * strength), 0.05, generator)


def _thin(canvas: torch.Tensor, strength: float, generator: torch.Generator) -> torch.Tensor:
    return _plain(-_widened(-canvas, 4 * strength), 0.0, generator)


def _bold(canvas: torch.Tensor, strength: float, generator: torch.Generator) -> torch.Tensor:
    return _plain(_widened(canvas, 4 * strength), 0.0, generator)


def _outline(canvas: torch.Tensor, strength: float, generator: torch.Generator) -> torch.Tensor:
    edge = _widened(canvas, 2.0) - canvas
    return _plain(canvas + strength * (edge - canvas), 0.0, generator)


def _widened(canvas: torch.Tensor, pixels: float) -> torch.Tensor:
    """Return drawings whose ink reaches further by ``pixels``; a fraction mixes the two whole widths beside it."""
    low = math.floor(pixels)
    narrow, wide = (
        functional.max_pool2d(canvas[:, None], 2 * reach + 1, 1, reach)[:, 0] if reach else canvas
        for reach in (low, low + 1)
    )
    return narrow + (pixels - low) * (wide - narrow)


_Domain = Callable[[torch.Tensor, float, torch.Generator], torch.Tensor]
_DOMAINS: Mapping[str, _Domain] = {
    MILD: _mild,
    PLAIN: _plain,
    "band": _band,
    "blur": _blur,
    "bold": _bold,
    "contrast": _contrast,
    "dots": _dots,
    "grain": _grain,
    "grid": _grid,
    "invert": _invert,
    "noise": _noise,
    "occlusion": _occlusion,
    "outline": _outline,
    "pepper": _pepper,
    "pixels": _pixels,
    "ramp": _ramp,
    "shear": _shear,
    "small": _small,
    "stripes": _stripes,
    "thin": _thin,
    "turn": _turn,
    "wave": _wave,
}
