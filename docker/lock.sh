#!/bin/sh
# Writes docker/requirements/*.txt anew: every package pinned, with the hashes of its files for all
# platforms, chosen for the oldest Python each image has (JetPack 6: 3.10) and for aarch64; x86-64 takes the same.
# Needs uv. Run it when a dependency changes, read the difference, commit it.
set -eu
cd "$(dirname "$0")/requirements"
lock() { # OUTPUT PYTHON INPUTS...
    out=$1 python=$2
    shift 2
    uv pip compile --quiet --python-platform aarch64-manylinux_2_35 --generate-hashes --no-emit-index-url --no-header --no-annotate \
        --python-version "$python" --output-file "$out" "$@"
}
lock cpu.txt 3.11 --extra openvino --extra uplink ../../pyproject.toml
printf 'nvidia-ml-py>=12\n' | lock gpu.txt 3.10 --extra uplink ../../pyproject.toml -
printf 'setuptools>=69\nwheel\n' | lock make.txt 3.10 -
printf 'numpy\nsetuptools>=69\nwheel\n' | lock pycuda-make.txt 3.10 --constraints gpu.txt -
printf 'pycuda>=2025.1\n' | lock pycuda.txt 3.10 --constraints gpu.txt -
