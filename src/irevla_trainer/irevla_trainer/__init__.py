"""What learns: datasets from bags, supervised fine-tuning, evaluation, benchmarks, and the command line `irevla`."""

__version__ = "0.1.0"
