"""Every image below a folder as one record: `files`, with the bytes called `image`."""

from __future__ import annotations

from beam_jobs.sources.files import Files


class ImageFolder(Files):
    """As `Files`, without `size` and `suffix`; whether the files are images is judged later."""
