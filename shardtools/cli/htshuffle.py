"""The htshuffle command."""

from __future__ import annotations

import secrets
from typing import Any

import click

from shardtools.cli.common import run_command
from shardtools.cli.exchanging import exchange, exchange_options, limits
from shardtools.cli.options import run_options

EPILOG = """\b
Examples:
  htshuffle train-@1000.tgz shuffled-@1000.tgz
  htshuffle --seed 7 gs://bucket/train-@1000.tgz http://host/shuffled-@2000.tgz
  htshuffle --memory 8GB a-@100.tar b-@100.tar all-@auto.tar --shard-size 500MB
  htshuffle --no-shuffle train-@1000.tgz train-@100.tar        fewer shards, in the same order

Every order of the samples is equally likely. The sizes of the shards differ by one sample at most. The same seed gives
the same bytes, whatever -c, -j and --memory are. Without --seed a seed is drawn, shown, and stored in the manifest.

Samples are read and written twice: from SRC to temporary data, see --spill, and from there to DST. A job that was
stopped continues with --resume.

Exit status: 0 done, 1 failed, 2 usage, 3 done with samples skipped, 130 interrupted.
"""


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}, epilog=EPILOG)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    metavar="N",
    help="Seed of the random order.  [default: a random one, which is shown]",
)
@click.option("--no-shuffle", is_flag=True, help="Keep the order, and only change the number of shards.")
@exchange_options
def main(**given: Any) -> None:
    """Write the samples of SRC in a random order to the shards DST."""
    run_command("htshuffle", given["verbose"], lambda: _shuffle(given))


def _shuffle(given: dict[str, Any]) -> int:
    from shardtools.errors import JobError
    from shardtools.jobs.exchange.duplicates import DuplicatePolicy
    from shardtools.jobs.exchange.keying import Keying
    from shardtools.jobs.exchange.plan import Exchange, earlier_seed

    if given["no_shuffle"] and given["seed"] is not None:
        raise JobError("--seed and --no-shuffle cannot be used together", fix="give one of them")
    sizes = limits(given)
    policy = DuplicatePolicy(on_duplicate=given["on_duplicate"], on_error=given["on_error"])
    if given["no_shuffle"]:
        return exchange("htshuffle", given, Exchange("htshuffle", Keying("input"), policy, **sizes))
    seed = given["seed"]
    if seed is None and given["resume"]:
        seed = earlier_seed(given["destination"], given["spill"], run_options(given))
    if seed is None:
        seed = secrets.randbits(32)
    what = Exchange("htshuffle", Keying("random", seed), policy, **sizes, job={"seed": seed})
    return exchange("htshuffle", given, what)
