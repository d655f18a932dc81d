"""The loader's part of the `headrace` command; beam_jobs/cli.py finds it by its entry point."""

from __future__ import annotations

import argparse
import json

import tensorflow as tf

from loader.profile import profile
from loader.profile_text import lines

tf.config.list_logical_devices()  # wakes the devices up, and whoever imports this has it quiet for their greetings


def profile_command(arguments: argparse.Namespace) -> int:
    """`headrace profile`: prints what was found; gives the exit code."""
    found = profile(
        arguments.directory,
        arguments.split,
        step_seconds=arguments.step_ms / 1000,
        seconds=arguments.seconds,
        batch_size=arguments.batch_size,
        image_size=arguments.image_size,
        augment=None if arguments.augment == "none" else arguments.augment,
        cache=arguments.cache,
        threads=arguments.threads,
    )
    if arguments.json:
        print(json.dumps(found.to_json(), indent=1))
    else:
        print("\n".join(lines(found)))
    return 0
