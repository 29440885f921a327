#!/usr/bin/env bash
# Pins requirements.in, with everything that it needs, for Python 3.10 to 3.12 in requirements.txt.
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."

.venv/bin/python -m pip install --quiet uv

# torch itself names the exact CUDA packages that it needs, and a CPU build needs none.
cuda=(triton cuda-toolkit cuda-bindings cuda-pathfinder)
cuda+=(nvidia-{cublas,cuda-cupti,cuda-nvrtc,cuda-runtime,cudnn-cu13,cufft,cufile,curand,cusolver,cusparse})
cuda+=(nvidia-{cusparselt-cu13,nccl-cu13,nvjitlink,nvshmem-cu13,nvtx})

.venv/bin/uv pip compile requirements.in --output-file requirements.txt --universal --python-version 3.10 \
    --no-annotate --custom-compile-command "make lock" --quiet "${cuda[@]/#/--no-emit-package=}" "$@"
