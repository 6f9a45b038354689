"""KubeVirt's own decisions against ours, case by case: `python -m tests.conformance FILE.jsonl.gz [--compiled]`."""
