"""Draw images of textured shapes that occlude each other, with the visible mask of every shape."""

from dataclasses import dataclass

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

SHAPES = ("circle", "square", "triangle", "star", "cross")
EMPTY_SHARE, CROWD_SHARE = 0.08, 0.05  # of the images
OBJECT_COUNTS, COUNT_SHARES = (1, 2, 3, 4, 5, 6), (0.12, 0.2, 0.24, 0.2, 0.14, 0.1)
SIZES = (  # radius in pixels, range of the centre as a share of the sides, share of the objects: small, medium, large
    ((9, 16), (0.05, 0.95), 0.32),
    ((16, 40), (0.05, 0.95), 0.52),
    ((58, 76), (0.35, 0.65), 0.16),
)
MAX_TILT = 0.35  # radians: like most of COCO's objects, shapes stand upright
MIN_VISIBLE_FRACTION, MIN_INSIDE_FRACTION = 0.5, 0.55  # of a shape under a new one; of the new one in the image


@dataclass
class DrawnObject:
    """An object of an image.

    Attributes:
        shape: index into SHAPES.
        mask: height x width bool, its visible pixels.
        crowd: whether it is a crowd region, many small shapes in one mask.
    """

    shape: int
    mask: np.ndarray
    crowd: bool


class Canvas:
    """An image that is being drawn, back to front, and the visible masks of its objects.

    Args:
        random: source of every colour and texture; the order of its calls decides the image.
        height, width: size in pixels.
    """

    def __init__(self, random: np.random.Generator, height: int, width: int):
        self.random = random
        self.height, self.width = height, width
        self.background = random.uniform(30, 225, 3)
        self.pixels = texture(random, height, width, self.background, random.uniform(8, 20))
        self.objects: list[DrawnObject] = []

    def pick_colour(self) -> np.ndarray:
        """Return a random RGB colour in [0, 255] that differs from the background by 100 in a channel at least."""
        while True:
            colour = self.random.uniform(0, 255, 3)
            if np.abs(colour - self.background).max() > 100:
                return colour

    def fill(self, corners: np.ndarray) -> np.ndarray:
        """Return the mask of a polygon, as pycocotools fills it: height x width bool."""
        rle = coco_mask.frPyObjects([corners.ravel().tolist()], self.height, self.width)[0]
        return coco_mask.decode(rle).astype(bool)

    def has_room(self, mask: np.ndarray, corners: np.ndarray) -> bool:
        """Return whether enough of a new shape lies in the image, and enough of each shape under it stays visible."""
        if mask.sum() / abs(signed_area(corners)) <= MIN_INSIDE_FRACTION:
            return False
        visible = [(other.mask & ~mask).sum() / max(1, other.mask.sum()) for other in self.objects]
        return all(fraction > MIN_VISIBLE_FRACTION for fraction in visible)

    def paint(self, shape: int, mask: np.ndarray, colour: np.ndarray, crowd: bool) -> None:
        """Draw an object in front of all others."""
        for other in self.objects:
            other.mask = other.mask & ~mask
        ys, xs = np.nonzero(mask)
        rows, columns = slice(ys.min(), ys.max() + 1), slice(xs.min(), xs.max() + 1)
        patch, inside = self.pixels[rows, columns], mask[rows, columns]
        strength = self.random.uniform(4, 14)
        patch[inside] = texture(self.random, patch.shape[0], patch.shape[1], colour, strength)[inside]
        self.objects.append(DrawnObject(shape, mask, crowd))


def draw_image(random: np.random.Generator, side: int) -> tuple[np.ndarray, list[DrawnObject]]:
    """Draw one image whose longest side is at most `side` pixels.

    Returns:
        height x width x 3 uint8, and its objects from back to front.
    """
    factors = random.choice([1.0, 1.0, 1.0, 0.75], 2)
    height, width = ((side * factors).astype(int) // 8 * 8).tolist()
    canvas = Canvas(random, height, width)
    if random.random() >= EMPTY_SHARE:
        if random.random() < CROWD_SHARE:
            _add_crowd(canvas)
        for _ in range(random.choice(OBJECT_COUNTS, p=COUNT_SHARES)):
            _add_object(canvas)
    return canvas.pixels.astype(np.uint8), canvas.objects


def _add_crowd(canvas: Canvas) -> None:
    random = canvas.random
    shape = int(random.integers(len(SHAPES)))
    middle = random.uniform(0.25, 0.75, 2) * (canvas.width, canvas.height)
    colour = canvas.pick_colour()
    mask = np.zeros((canvas.height, canvas.width), bool)
    for _ in range(random.integers(10, 18)):
        centre = middle + random.normal(0, 14, 2)
        mask |= canvas.fill(outline(SHAPES[shape], centre, random.uniform(4, 7), random.uniform(-MAX_TILT, MAX_TILT)))
    canvas.paint(shape, mask, colour, crowd=True)


def _add_object(canvas: Canvas) -> None:
    """Place one shape at random, unless no attempt finds room for it."""
    random = canvas.random
    for _ in range(8):
        shape = int(random.integers(len(SHAPES)))
        radii, positions, _ = SIZES[random.choice(len(SIZES), p=[share for *_, share in SIZES])]
        radius = random.uniform(*radii)
        centre = random.uniform(*positions, 2) * (canvas.width, canvas.height)
        corners = outline(SHAPES[shape], centre, radius, random.uniform(-MAX_TILT, MAX_TILT))
        mask = canvas.fill(corners)
        if mask.any() and canvas.has_room(mask, corners):
            canvas.paint(shape, mask, canvas.pick_colour(), crowd=False)
            return


def outline(shape: str, centre: np.ndarray, radius: float, angle: float) -> np.ndarray:
    """Return the corners of a shape that fits into a circle: N x 2 pixels, x first; at angle 0 it stands upright."""
    if shape == "cross":
        a = 0.36  # half the width of an arm
        corners = [(a, 1), (a, a), (1, a), (1, -a), (a, -a), (a, -1)]
        corners += [(-x, -y) for x, y in corners]
        rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        return centre + radius * (np.array(corners) * 0.94) @ rotation.T
    count = {"circle": 40, "square": 4, "triangle": 3, "star": 10}[shape]
    steps = np.arange(count) + (0.5 if shape == "square" else 0)
    angles = angle + steps * 2 * np.pi / count - np.pi / 2
    radii = np.where(np.arange(count) % 2, 0.42, 1.0) if shape == "star" else np.ones(count)
    return centre + radius * radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], 1)


def texture(random: np.random.Generator, height: int, width: int, colour: np.ndarray, strength: float) -> np.ndarray:
    """Return a colour with low-frequency blotches, stripes and grain: height x width x 3 float in [0, 255]."""
    coarse = random.normal(0, 1, (random.integers(3, 7), random.integers(3, 7), 3)).astype(np.float32)
    channels = [Image.fromarray(coarse[..., c]).resize((width, height), Image.Resampling.BICUBIC) for c in range(3)]
    blotches = np.stack([np.asarray(channel) for channel in channels], -1)
    angle, period = random.uniform(0, np.pi), random.uniform(5, 18)
    y, x = np.mgrid[:height, :width]
    waves = np.sin((x * np.cos(angle) + y * np.sin(angle)) * 2 * np.pi / period)
    stripes = waves[..., None] * random.uniform(0, 0.7)
    grain = random.normal(0, 0.35, (height, width, 1))
    return np.clip(colour + strength * (blotches + stripes + grain), 0, 255)


def signed_area(corners: np.ndarray) -> float:
    """Return the area of a polygon, N x 2 pixels; its sign tells the direction in which the corners run."""
    x, y = corners[:, 0], corners[:, 1]
    return 0.5 * float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))
