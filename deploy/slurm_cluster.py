"""A Dask cluster of SLURM jobs for one command that runs on a login node: workers come and go with the queue.

    htshuffle -c deploy/slurm_cluster.py:make_cluster --seed 7 /shared/train-@1000.tar /shared/shuffled-@1000.tar

The scheduler runs in the command itself, the workers are SLURM jobs. They end with the command.
It needs `pip install dask-jobqueue`.
"""

import os

from dask_jobqueue import SLURMCluster

# For each worker; walltime is for how long, and the lifetime ends a little before, when the worker gives back its work.
JOB = {
    "job_name": "shardtools",
    "cores": 8,
    "processes": 1,
    "memory": "16GB",
    "walltime": "04:00:00",
    "worker_extra_args": ["--lifetime", "230m", "--lifetime-stagger", "5m"],
    "local_directory": os.environ.get("SHARDTOOLS_SCRATCH", "/tmp"),
    "interface": os.environ.get("SHARDTOOLS_INTERFACE"),
}


def make_cluster():
    cluster = SLURMCluster(**JOB)
    cluster.adapt(minimum_jobs=1, maximum_jobs=20)
    return cluster
