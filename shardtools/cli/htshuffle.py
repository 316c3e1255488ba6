"""The htshuffle command."""

from __future__ import annotations

import click

from shardtools.cli.choice_line import CHOICE_OPTIONS, SEED_OPTION
from shardtools.cli.common import run_command
from shardtools.cli.exchanging import ExchangeLine, exchange, exchange_options
from shardtools.cli.numbers import Whole
from shardtools.cli.options import CommandLine

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


_SEED = click.option(
    "--seed",
    type=Whole(least=0),
    metavar="N",
    help="Seed of the random order, and of --sample.  [default: a random one, which is shown]",
)


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}, epilog=EPILOG)
@click.option("--no-shuffle", is_flag=True, help="Keep the order, and only change the number of shards.")
@exchange_options([*(option for option in CHOICE_OPTIONS if option is not SEED_OPTION), _SEED])
def main(line: CommandLine, own: ExchangeLine, no_shuffle: bool) -> None:
    """Write the samples of SRC in a random order to the shards DST."""
    run_command("htshuffle", line, lambda: _shuffle(line, own, no_shuffle))


def _shuffle(line: CommandLine, own: ExchangeLine, no_shuffle: bool) -> int:
    from shardtools.programs.shuffle import shuffle_exchange

    options = line.run_options(own.spill)
    what = shuffle_exchange(
        line.destination, own.settings(), options, own.choice(), seed=own.seed, no_shuffle=no_shuffle
    )
    return exchange(what, line, options)
