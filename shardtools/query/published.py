"""What ``htview --publish`` writes beside a dataset: the summary and the page.

train-@1000.tgz.view.json    the summary, with the digest of the states of the shards that it was made for
train-@1000.tgz.view/        the page; index.html names its dataset, and the files of the page
"""

from __future__ import annotations

from shardtools.query.index_files import states_in
from shardtools.query.key_file import digest_of
from shardtools.shards.manifest import Manifest
from shardtools.urls import beside, folder_of, name_of


def summary_url(spec: str) -> str:
    """Return the URL of the summary of the dataset ``spec``.

    >>> summary_url("http://host/train-@8.tgz")
    'http://host/train-@8.tgz.view.json'
    """
    return beside(spec, ".view.json")


def page_folder(spec: str) -> str:
    """Return the URL of the folder for the page of the dataset ``spec``.

    >>> page_folder("http://host/train-@8.tgz")
    'http://host/train-@8.tgz.view/'
    """
    return f"{folder_of(spec)}{name_of(spec)}.view/"


def summary_digest(manifest: Manifest) -> str | None:
    """Return the digest of a summary of the shards that a manifest lists; None if it does not say their states."""
    states = states_in(manifest)
    return None if states is None else digest_of(states).hex()
