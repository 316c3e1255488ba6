"""The htupload command."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from shardtools.cli.choice_line import LIMIT_OPTION, SAMPLE_OPTION, WHERE_OPTION, split_pairs
from shardtools.cli.common import SKIPPED, run_command, tell
from shardtools.cli.numbers import Whole
from shardtools.cli.options import CommandLine, Function, add_options, making_options, once, refuse_options, split_names
from shardtools.cli.progress import command_progress
from shardtools.cli.results import show_replaced, show_result
from shardtools.errors import JobError, redact
from shardtools.units import format_count

if TYPE_CHECKING:
    from shardtools.jobs.choice import Choice
    from shardtools.jobs.options import RunOptions
    from shardtools.jobs.run import Plan
    from shardtools.jobs.upload import UploadOptions
    from shardtools.sources import Source
    from shardtools.sources.opening import SourceRules

EPILOG = """\b
Examples:
  htupload photos/ photos-@100.tar                 a folder: a.jpg and a.txt are one sample
  htupload --class-from-folder imagenet/train/ s3://bucket/train-@auto.tgz --shard-size 500MB
  htupload --file jpg=path --value cls=label table.csv out-@20.tar    .csv .tsv .jsonl .parquet
  htupload --as png=images --as cls=labels digits.npz out-@10.tar     .npz .npy
  htupload --key number old.zip out-@10.tgz        .zip .tar .tgz .tar.gz .tar.zst .tar.bz2 .tar.xz
  find photos -name '*.jpg' | htupload - out-@10.tar        a list of files
  htupload --shuffle --seed 7 photos/ out-@auto.tar --shard-count 10000
  htupload --split train=0.9,val=0.1 photos/ '{split}-@20.tar'

Files (of a folder, a list or an archive): the files of one sample have paths that agree up to the first dot of the file
name. The part before the dot is the sample's key, the part after it is the field. Hidden files are left out. Files
without a dot are left out and reported. Links are followed if they stay in the folder; --follow-links also follows the
others, unless they lead in circles. Links in archives are left out.

Tables: the key is in the column that --key names, else in the one called key, __key__ or id; without such a column it
is the number of the row. A --value is encoded by its field's extension. A --file is a URL, or a path relative to the
table's folder.

DST: @100 stands for 100 shards, numbered from 00, whose sizes differ by one sample at most. @auto stands for as many
shards as needed, see --shard-size and --shard-count. The same sources give the same bytes, whatever -c and -j are.
Names end in .tar, .tgz, .tar.gz or .tar.zst.

Exit status: 0 done, 1 failed, 2 usage, 3 done with samples skipped, 130 interrupted.
"""


_OPTIONS = [
    click.option(
        "--key",
        metavar="RULE",
        help="How keys are made. For files: from the path (the default), the name, the number or the hash. For a "
        "table: from the column of this name.",
    ),
    click.option(
        "--include",
        multiple=True,
        metavar="GLOB",
        help="Take only files whose path or name matches GLOB; may be repeated.",
    ),
    click.option(
        "--exclude",
        multiple=True,
        metavar="GLOB",
        help="Leave out files whose path or name matches GLOB; may be repeated.",
    ),
    click.option(
        "--class-from-folder",
        is_flag=True,
        help="Add the field cls: the number of the file's folder. The manifest has the names of the folders.",
    ),
    click.option(
        "--class-from",
        **once("one field has the class"),
        metavar="FIELD",
        help="Add the field cls: the number of the text in a field, at a path such as json.label, or in a column of a "
        "table. The manifest has the texts, sorted.",
    ),
    click.option("--follow-links", is_flag=True, help="Also follow links that lead out of the folder."),
    click.option(
        "--file",
        "files",
        multiple=True,
        metavar="FIELD=COLUMN",
        help="Tables: take FIELD from the file that COLUMN names.",
    ),
    click.option(
        "--value", "values", multiple=True, metavar="FIELD=COLUMN", help="Tables: take FIELD from the value in COLUMN."
    ),
    click.option(
        "--as", "arrays", multiple=True, metavar="FIELD=ARRAY", help="Arrays: take FIELD from the rows of ARRAY."
    ),
    click.option("--rename", multiple=True, metavar="OLD=NEW,...", help="Rename fields of files, as in jpeg=jpg."),
    click.option("--shuffle", is_flag=True, help="Write the samples in a random order."),
    click.option(
        "--seed",
        type=Whole(),
        default=0,
        metavar="N",
        show_default=True,
        help="Seed of --shuffle, --split and --sample.",
    ),
    click.option(
        "--split",
        metavar="NAME=SHARE,...",
        help="Divide the samples at random among several datasets, as in train=0.9,val=0.1. DST contains {split}, "
        "which stands for NAME.",
    ),
    click.option(
        "--shard-size", metavar="SIZE", help="With @auto: a shard has at most SIZE bytes of tar file, such as 500MB."
    ),
    click.option("--shard-count", type=Whole(least=1), metavar="N", help="With @auto: a shard has at most N samples."),
]


_NO_FIELDS = "choose files with --include and --exclude, and fields of tables and arrays with --value, --file and --as"

_NO_SIDECARS = "it is about sidecars that are read, and htupload reads none"


@dataclass(frozen=True)
class UploadLine:
    """The options of htupload, as they were typed."""

    key: str | None
    include: tuple[str, ...]
    exclude: tuple[str, ...]
    class_from_folder: bool
    follow_links: bool
    files: tuple[str, ...]
    values: tuple[str, ...]
    arrays: tuple[str, ...]
    rename: tuple[str, ...]
    shuffle: bool
    seed: int
    split: str | None
    shard_size: str | None
    shard_count: int | None
    where: str | None
    limit: int | None
    sample: float | None
    class_from: str | None

    def choice(self) -> Choice:
        """Return which samples are taken.

        Raises:
            JobError: it makes no sense.
        """
        from shardtools.programs.choosing import choice_of

        seed = self.seed if self.sample else 0
        return choice_of(where=self.where, limit=self.limit, sample=self.sample, seed=seed, class_from=self.class_from)

    def rules(self) -> SourceRules:
        """Return how sources become samples.

        Raises:
            JobError: an option is not of its form.
        """
        from shardtools.sources.opening import SourceRules

        return SourceRules(
            key=self.key,
            include=self.include,
            exclude=self.exclude,
            rename=split_pairs("--rename", "OLD=NEW", split_names(self.rename)),
            classes=self.class_from_folder,
            class_from=self.class_from,
            follow_links=self.follow_links,
            files=split_pairs("--file", "FIELD=COLUMN", self.files),
            values=split_pairs("--value", "FIELD=COLUMN", self.values),
            arrays=split_pairs("--as", "FIELD=ARRAY", self.arrays),
        )

    def layout(self) -> UploadOptions:
        """Return how samples are laid out.

        Raises:
            JobError: an option is not of its form.
        """
        from shardtools.jobs.upload import UploadOptions
        from shardtools.programs.running import size_of

        size = size_of("shard_size", self.shard_size)
        return UploadOptions(self.shuffle, self.seed, _shares(self.split), size, self.shard_count)


def _upload_options(command: Function) -> Function:
    command = add_options(command, "own", UploadLine, _OPTIONS, (WHERE_OPTION, SAMPLE_OPTION, LIMIT_OPTION))
    command = refuse_options(_NO_SIDECARS, "--index", "--verify")(command)
    return making_options(refuse_options(_NO_FIELDS, "-f", "--fields", "--field", "--drop")(command))


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}, epilog=EPILOG)
@_upload_options
def main(line: CommandLine, own: UploadLine) -> None:
    """Pack the files, tables, arrays or archives SRC into the shards DST."""
    run_command("htupload", line, lambda: _upload(line, own))


def _upload(line: CommandLine, own: UploadLine) -> int:
    from shardtools.jobs.upload import plan_upload
    from shardtools.programs.upload import open_source

    options, layout = line.run_options(), own.layout()
    with closing(open_source(line.sources, line.destination, own.rules(), layout, own.choice(), options)) as source:
        plans = plan_upload(source, line.destination, layout, options)
        if line.dry_run:
            _show_plans(plans, line.verbose, source)
            return 0
        return _run(plans, source, options, line.quiet)


def _run(plans: list[Plan], source: Source, options: RunOptions, quiet: bool) -> int:
    from shardtools.programs.upload import carry_out

    started = time.monotonic()
    shards = sum(len(plan.tasks) for plan in plans)
    with command_progress(shards, quiet, samples=len(source)) as progress:
        results = carry_out(plans, source, options, progress)
    if not quiet:
        seconds, (files, links) = time.monotonic() - started, _left_out(source)
        more = [f"{format_count(files, 'file')} left out that belong to no sample"] if files else []
        if links:
            more.append(f"{format_count(links, 'link')} left out that lead out of the folder (see --follow-links)")
        for result in results:
            show_result("htupload", result, seconds, options.report, more)
            more = []
    return 0 if all(result.is_whole for result in results) else SKIPPED


def _left_out(source: Source) -> tuple[int, int]:
    """Return how many files belong to no sample, and how many links lead out of their folder."""
    from shardtools.sources.folder import LEADS_OUT

    reasons = [reason for _, reason in source.left_out()]
    links = reasons.count(LEADS_OUT)
    return len(reasons) - links, links


def _show_plans(plans: list[Plan], verbose: bool, source: Source) -> None:
    for plan in plans:
        sizes = [len(task.args[0].part) for task in plan.tasks]
        tell(
            f"would upload {format_count(sum(sizes), 'sample')} to {format_count(len(sizes), 'shard')}: "
            f"{redact(plan.destination.spec)}"
        )
        tell(f"outputs that exist: {len(plan.existing):,}")
        show_replaced(plan.replaced)
        shown = len(sizes) if verbose or len(sizes) <= 3 else 2
        for task, size in zip(plan.tasks[:shown], sizes, strict=False):
            tell(f"{redact(task.name)}: {format_count(size, 'sample')}, from {task.args[0].part.key(0)} on")
        if shown < len(sizes):
            tell(f"... and {len(sizes) - shown:,} more (-v shows them all)")
    files, links = _left_out(source)
    if files:
        tell(f"files left out that belong to no sample: {files:,}")
    if links:
        tell(f"links left out that lead out of the folder (see --follow-links): {links:,}")
    for name, reason in source.left_out() if verbose else ():
        tell(f"{redact(name)}: {reason}")


def _shares(text: str | None) -> tuple[tuple[str, float], ...]:
    if text is None:
        return ()
    try:
        return tuple((name, float(share)) for name, share in split_pairs("--split", "NAME=SHARE", text.split(",")))
    except ValueError as error:
        if isinstance(error, JobError):
            raise
        raise JobError(
            f"--split {text}: a share must be a number", fix="write it as --split train=0.9,val=0.1"
        ) from error
