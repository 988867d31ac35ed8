#!/usr/bin/env bash
# PyCUDA 2026.1, built from source as on a Jetson: its options are named like variables of the
# environment (CUDA_ENABLE_CURAND, CUDA_ROOT), but setup.py reads none of them: `CUDA_ENABLE_CURAND=False pip install pycuda`
# builds with cuRAND, and the module then needs libcurand, which a runtime image without it does not have. Options come from
# files alone: siteconf.py beside setup.py, ~/.aksetup-defaults.py, /etc/aksetup-defaults.py. In a Dockerfile write that file.
# Seen: with the variable True, with the file False.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -q --disable-pip-version-check setuptools==80.9.0 wheel==0.45.1 numpy==2.2.6
"$work/venv/bin/python" -m pip download -q --disable-pip-version-check --no-deps --no-binary :all: --no-build-isolation \
  --dest "$work" pycuda==2026.1
tar -xzf "$work/pycuda-2026.1.tar.gz" -C "$work"
mkdir "$work/home"
says() {
  (cd "$work/pycuda-2026.1" && env HOME="$work/home" "$@" "$work/venv/bin/python" - <<'PY' | tail -n 1
from aksetup_helper import get_config

from setup import get_config_schema

print(get_config(get_config_schema(), warn_about_no_config=False)["CUDA_ENABLE_CURAND"])
PY
  )
}
by_variable=$(says CUDA_ENABLE_CURAND=False)
printf 'CUDA_ENABLE_CURAND = False\n' > "$work/home/.aksetup-defaults.py"
by_file=$(says CUDA_ENABLE_CURAND=True)
echo "pycuda 2026.1, cuRAND: $by_variable with the variable at False, $by_file with the file at False"
[ "$by_variable" = True ] && [ "$by_file" = False ]
