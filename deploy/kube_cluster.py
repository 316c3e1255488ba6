"""A Dask cluster on Kubernetes for one command that runs elsewhere, such as on a laptop.

    htshuffle -c deploy/kube_cluster.py:make_cluster --seed 7 s3://bucket/train-@1000.tar s3://bucket/shuffled-@1000.tar

The scheduler and the workers are those of daskjob.yaml beside this file. The cluster is removed when the command ends.
It needs `pip install dask-kubernetes`, and the Dask operator in the cluster.
"""

import secrets
from pathlib import Path

import yaml


def read_spec(name):
    """Return the DaskCluster that daskjob.yaml describes, under a name of its own."""
    job = yaml.safe_load(Path(__file__).with_name("daskjob.yaml").read_text())
    spec = job["spec"]["cluster"]["spec"]
    spec["scheduler"]["service"]["selector"]["dask.org/cluster-name"] = name
    return {"apiVersion": job["apiVersion"], "kind": "DaskCluster", "metadata": {"name": name}, "spec": spec}


def make_cluster():
    from dask_kubernetes.operator import KubeCluster

    return KubeCluster(custom_cluster_spec=read_spec(f"shardtools-{secrets.token_hex(3)}"), quiet=True)
