"""The loop of PyTorch's transfer-learning tutorial: the steps of the tuned one, tensors as they come, no autocast."""

from __future__ import annotations

from benchmarks._peer_job import Net, read_job
from benchmarks._peer_timm import train

if __name__ == "__main__":
    job = read_job()
    train(job, Net(job, is_tuned=False))
