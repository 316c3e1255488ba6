"""What scripts/benchmark is made of.

    suite (map.py: tables of rows) -> runner.py -> child.py, one process for each measurement -> report.py

A suite is a module with a function ``tables(scale) -> list[Table]``, named in `SUITES`. A row names a function of
ours*.py or peers*.py, which prepares the work, yields what is to be measured, and cleans up.
"""

SUITES = {
    "array": "benchmarks.array",
    "extract": "benchmarks.extract",
    "map": "benchmarks.map",
    "query": "benchmarks.query",
    "scale": "benchmarks.scale",
    "shuffle": "benchmarks.shuffle",
    "sort": "benchmarks.sort",
    "storage": "benchmarks.storage",
    "torch": "benchmarks.torch",
    "upload": "benchmarks.upload",
    "view": "benchmarks.view",
    "viewer": "benchmarks.viewer",
}
"""Name on the command line: the module. A new suite is one more line here and one more module."""
