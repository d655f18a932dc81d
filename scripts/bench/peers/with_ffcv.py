"""FFCV: one .beton file from the page cache, batches made by compiled code in two threads.

The very bytes of the JPEGs are stored (its own writer would encode them anew). Its guide's advice for data that
fit into memory: os_cache, a random order, as many workers as cores.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import harness
import numpy as np
import simplejpeg
from ffcv.fields import IntField, RGBImageField
from ffcv.fields.decoders import CenterCropRGBImageDecoder, IntDecoder, RandomResizedCropRGBImageDecoder
from ffcv.fields.rgb_image import IMAGE_MODES
from ffcv.loader import Loader, OrderOption
from ffcv.transforms import NormalizeImage, RandomHorizontalFlip
from ffcv.writer import DatasetWriter
from harness import BATCH, MEAN, RATIO, SCALE, SIZE, STD, THREADS, Batches


class JpegField(RGBImageField):
    """Stores a JPEG as it is."""

    def encode(self, destination: Any, image: bytes, malloc: Any) -> None:
        height, width, *_ = simplejpeg.decode_jpeg_header(image)
        destination["mode"] = IMAGE_MODES["jpg"]
        destination["height"], destination["width"] = height, width
        destination["data_ptr"], storage = malloc(len(image))
        storage[:] = np.frombuffer(image, np.uint8)


class Files:
    """What the writer indexes."""

    def __init__(self, images: list[Path]):
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[bytes, int]:
        return self.images[index].read_bytes(), int(index)


def prepare(images: list[Path], out: Path) -> None:
    fields = {"image": JpegField(), "label": IntField()}
    DatasetWriter(str(out / "photos.beton"), fields, num_workers=THREADS).from_indexed_dataset(Files(images))


def load(images: list[Path], out: Path, level: str) -> Any:
    if level == "center":
        # A ratio of the shorter side, cut to whole pixels; a crop of 224 x 224 is then only copied.
        height, width, *_ = simplejpeg.decode_jpeg_header(images[0].read_bytes())
        pipeline = [CenterCropRGBImageDecoder((SIZE, SIZE), ratio=(SIZE + 0.5) / min(height, width))]
    else:
        pipeline = [
            RandomResizedCropRGBImageDecoder((SIZE, SIZE), scale=SCALE, ratio=RATIO),
            RandomHorizontalFlip(),
            NormalizeImage(MEAN, STD, np.float32),
        ]
    loader = Loader(
        str(out / "photos.beton"),
        batch_size=BATCH,
        num_workers=THREADS,
        os_cache=True,
        order=OrderOption.RANDOM,
        drop_last=False,
        batches_ahead=2,
        custom_fields={"image": RGBImageField},
        pipelines={"image": pipeline, "label": [IntDecoder()]},
    )

    def epoch() -> Batches:
        return iter(loader)

    return epoch


if __name__ == "__main__":
    harness.main(["ffcv", "torch", "numba"], prepare, load)
