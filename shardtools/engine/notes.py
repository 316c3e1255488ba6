"""What a user of a cluster wants to know while a job runs.

Warnings are for everyone; infos are shown by commands, and debug messages by commands with ``-v``. A Python program
gets them as those of the logger ``shardtools.engine.notes``.
"""

from __future__ import annotations

import logging

notes = logging.getLogger(__name__)
