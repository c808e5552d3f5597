"""Run an exported detector on photos. Needs numpy, onnxruntime and Pillow only; this file works on its own.

    predictor = OnnxPredictor("model.onnx")
    result = predictor("photo.jpg")
    print(result["boxes"], result["scores"], result["class_names"])

or, for one line per detection,

    python onnx_predictor.py model.onnx photo.jpg ...
"""

import json
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

MAX_ASPECT_RATIO = 10  # of an image if the longer side does not have a limit of its own
MODES = {1: "L", 3: "RGB", 4: "RGBA"}


class OnnxPredictor:
    """A detector in an ONNX file with everything around it: resize, pad, run, and masks in the size of the image.

    Args:
        path: file that the package's export has written.
        score_threshold: detections with a lower score are left out; the file has a threshold of its own.
        threads: number of threads of ONNX Runtime; None for its default.
        providers: ONNX Runtime's execution providers, best first.

    Attributes:
        metadata: what the file says about itself: "category_names", "category_ids", "short_side", "size_divisor", ...

    Raises:
        ValueError: the file is not an exported detector.
    """

    def __init__(
        self,
        path: str,
        score_threshold: float = 0.0,
        threads: int | None = None,
        providers: Sequence[str] = ("CPUExecutionProvider",),
    ):
        options = onnxruntime.SessionOptions()
        if threads is not None:
            options.intra_op_num_threads = threads
        self.session = onnxruntime.InferenceSession(str(path), options, providers=list(providers))
        texts = self.session.get_modelmeta().custom_metadata_map
        self.metadata: dict[str, Any] = {name: _parse(text) for name, text in texts.items()}
        if self.metadata.get("part") != "detector":
            raise ValueError(f"{path} is not a detector exported by detbackbones (part: {self.metadata.get('part')})")
        self.score_threshold = score_threshold
        self.output_names = [output.name for output in self.session.get_outputs()]

    def __call__(self, image: Any) -> dict[str, Any]:
        """Detect objects in one image, see `predict`."""
        return self.predict([image])[0]

    def predict(self, images: Sequence[Any]) -> list[dict[str, Any]]:
        """Detect objects in a batch of images.

        Args:
            images: paths, Pillow images, or arrays H x W x C; uint8, or numbers of any type if the file has an
                "image_range", the values that become 0 and 255.

        Returns:
            Per image, best first: "boxes" N x 4 float32 xyxy in pixels of the image, "scores" N float32, "labels" N
            int64 from 0, "category_ids" and "class_names" of N, and, if the detector has them, "masks" N x H x W bool.
        """
        arrays = [self._read(image) for image in images]
        return self.predict_resized([self.resize(array) for array in arrays], [array.shape[:2] for array in arrays])

    def predict_resized(
        self, arrays: Sequence[np.ndarray], output_sizes: Sequence[tuple[int, ...]] | None = None
    ) -> list[dict[str, Any]]:
        """Detect objects in arrays H x W x C uint8 as they are, without a resize.

        Args:
            arrays: the images.
            output_sizes: sizes that results are mapped to; default: the arrays' own.

        Returns:
            See `predict`.
        """
        if not arrays:
            return []
        outputs, sizes = self.run(arrays), [array.shape[:2] for array in arrays]
        return [
            self._result(outputs, index, output_size, size)
            for index, (size, output_size) in enumerate(zip(sizes, output_sizes or sizes))
        ]

    def resize(self, array: np.ndarray) -> np.ndarray:
        """Resize H x W x C uint8 to the size that the detector was tested with; with Pillow, bilinear, antialiased."""
        size = array.shape[0], array.shape[1]
        height, width = resized_shape(*size, self.metadata["short_side"], self.metadata["long_side"])
        if (height, width) == size:
            return array
        if array.shape[2] == 3:
            return np.asarray(Image.fromarray(array).resize((width, height), Image.Resampling.BILINEAR))
        channels = [Image.fromarray(np.ascontiguousarray(channel)) for channel in np.moveaxis(array, 2, 0)]
        return np.stack([np.asarray(c.resize((width, height), Image.Resampling.BILINEAR)) for c in channels], axis=2)

    def run(self, arrays: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """Run the network on arrays H x W x C uint8 as they are, and return the file's outputs by name."""
        divisor = self.metadata["size_divisor"]
        height, width = (-(-max(side) // divisor) * divisor for side in zip(*(array.shape[:2] for array in arrays)))
        batch = np.zeros((len(arrays), self.metadata["channels"], height, width), dtype=np.uint8)
        for padded, array in zip(batch, arrays):
            padded[:, : array.shape[0], : array.shape[1]] = np.moveaxis(array, 2, 0)
        sizes = np.array([array.shape[:2] for array in arrays], dtype=np.int64)
        return dict(zip(self.output_names, self.session.run(None, {"images": batch, "sizes": sizes})))

    def _read(self, image: Any) -> np.ndarray:
        """Return an image as H x W x C uint8."""
        channels, limits = self.metadata["channels"], self.metadata.get("image_range")
        if not isinstance(image, (np.ndarray, Image.Image)):
            image = Image.open(image)
        if isinstance(image, Image.Image):
            if channels not in MODES:
                raise ValueError(f"the detector takes {channels} channels; give arrays H x W x {channels}")
            image = ImageOps.exif_transpose(image)
            if image.mode.startswith(("I", "F")):  # more than 8 bits, which convert() would clip
                image = np.stack([np.asarray(image)] * channels, axis=2)
            else:
                image = np.asarray(image.convert(MODES[channels]))
        array = image[..., None] if image.ndim == 2 else image
        if limits is not None:
            array = scale_to_bytes(array, *limits)
        if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != channels or not array.size:
            raise ValueError(
                f"expected uint8 H x W x {channels}, got {array.dtype} {' x '.join(map(str, array.shape))}"
            )
        return array

    def _result(
        self, outputs: dict[str, np.ndarray], index: int, size: tuple[int, ...], resized: tuple[int, ...]
    ) -> dict[str, Any]:
        """Return the detections of one image of a batch, in pixels of `size`."""
        own = (outputs["image_indices"] == index) & (outputs["scores"] >= self.score_threshold)
        own &= ~np.isin(outputs["labels"], self.metadata.get("unused_labels", []))
        scale = np.array([size[1] / resized[1], size[0] / resized[0]] * 2, dtype=np.float32)
        labels = outputs["labels"][own]
        result: dict[str, Any] = {
            "boxes": outputs["boxes"][own] * scale,
            "scores": outputs["scores"][own],
            "labels": labels,
            "category_ids": [self.metadata["category_ids"][label] for label in labels],
            "class_names": [self.metadata["category_names"][label] for label in labels],
        }
        if "masks" in outputs:
            paste = PASTES[self.metadata.get("mask_paste", "torchvision")]
            result["masks"] = paste(outputs["masks"][own], result["boxes"], size)
        return result


def resized_shape(height: int, width: int, short_side: int | None, long_side: int | None) -> tuple[int, int]:
    """Return height and width with the short side at `short_side`, or smaller if the long side would pass its limit."""
    if short_side is None:
        return height, width
    limit = MAX_ASPECT_RATIO * short_side if long_side is None else long_side
    scale = min(short_side / min(height, width), limit / max(height, width))
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def scale_to_bytes(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Scale numbers linearly to uint8, so that `low` becomes 0 and `high` 255. NaN becomes 0."""
    numbers: np.ndarray[Any, np.dtype[np.floating]] = values.astype(np.float64 if values.itemsize > 4 else np.float32)
    scaled = (numbers - float(low)) * (255 / ((float(high) - float(low)) or 1)) + 0.5
    return np.nan_to_num(scaled, nan=0).clip(0, 255).astype(np.uint8)


def paste_masks(probabilities: np.ndarray, boxes: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """Resize each mask to its box and keep the pixels with a probability of at least 0.5.

    Args:
        probabilities: N x M x M float32 in [0, 1].
        boxes: N x 4 float32 xyxy in pixels; they may reach out of the image.
        size: height and width of the image.

    Returns:
        N x height x width bool.
    """
    height, width = size
    masks = np.zeros((len(boxes), height, width), dtype=bool)
    grids = np.pad(probabilities, ((0, 0), (1, 1), (1, 1)))  # a border of zeros, and boxes larger by one cell
    half = (boxes[:, 2:] - boxes[:, :2]) * np.float32(0.5)
    centre = (boxes[:, 2:] + boxes[:, :2]) * np.float32(0.5)
    half *= np.float32(grids.shape[-1] / probabilities.shape[-1])
    corners = np.concatenate([centre - half, centre + half], axis=1).astype(np.int64)
    for mask, grid, (x1, y1, x2, y2) in zip(masks, grids, corners.tolist()):
        left, right, top, bottom = max(x1, 0), min(x2 + 1, width), max(y1, 0), min(y2 + 1, height)
        if left >= right or top >= bottom:
            continue
        rows = _positions(np.arange(top, bottom) - y1, len(grid) / max(y2 - y1 + 1, 1))
        columns = _positions(np.arange(left, right) - x1, len(grid) / max(x2 - x1 + 1, 1))
        mask[top:bottom, left:right] = _bilinear(grid, rows, columns) >= 0.5
    return masks


def sample_masks(probabilities: np.ndarray, boxes: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """Sample each mask at the centres of the pixels in its box, as detectron2 and mmdetection do; see `paste_masks`."""
    height, width = size
    masks = np.zeros((len(boxes), height, width), dtype=bool)
    cells = probabilities.shape[-1]
    grids = np.pad(probabilities, ((0, 0), (1, 1), (1, 1)))  # outside of the box a mask is zero
    for mask, grid, (x1, y1, x2, y2) in zip(masks, grids, boxes):
        left, top = max(int(np.floor(x1)) - 1, 0), max(int(np.floor(y1)) - 1, 0)
        right, bottom = min(int(np.ceil(x2)) + 1, width), min(int(np.ceil(y2)) + 1, height)
        if left >= right or top >= bottom or x1 >= x2 or y1 >= y2:
            continue
        rows = _positions(np.arange(top, bottom) - y1, cells / (y2 - y1)) + 1
        columns = _positions(np.arange(left, right) - x1, cells / (x2 - x1)) + 1
        mask[top:bottom, left:right] = _bilinear(grid, rows, columns) >= 0.5
    return masks


PASTES = {"torchvision": paste_masks, "detectron2": sample_masks}  # by "mask_paste" of the file


def _positions(pixels: np.ndarray, cells_per_pixel: float) -> np.ndarray:
    """Return where the centres of pixels lie in a grid, in cells from the centre of its first one."""
    return (pixels.astype(np.float32) + np.float32(0.5)) * np.float32(cells_per_pixel) - np.float32(0.5)


def _bilinear(grid: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Return the values of a grid at fractional rows and columns; beyond its border, those of the border."""
    (top, bottom, down), (left, right, across) = map(_neighbours, (rows, columns), grid.shape)
    lines = grid[top] * (1 - down[:, None]) + grid[bottom] * down[:, None]
    return lines[:, left] * (1 - across) + lines[:, right] * across


def _neighbours(positions: np.ndarray, cells: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the two cells that each position lies between, and the share of the second."""
    positions = positions.clip(0, cells - 1)
    low = positions.astype(np.int64)
    return low, np.minimum(low + 1, cells - 1), positions - low.astype(np.float32)


def _parse(text: str) -> Any:
    """Return a value of the metadata, which is JSON if the package wrote it."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def main(words: Sequence[str]) -> None:
    """Print the detections in images."""
    if len(words) < 2:
        raise SystemExit("usage: python onnx_predictor.py model.onnx IMAGE ...")
    predictor = OnnxPredictor(words[0])
    for path in words[1:]:
        result = predictor(path)
        for box, score, name in zip(result["boxes"], result["scores"], result["class_names"]):
            print(f"{path}: {name} {score:.3f} at {', '.join(f'{value:.1f}' for value in box)}")


if __name__ == "__main__":
    main(sys.argv[1:])
