#!/usr/bin/env bash
# Measures every architecture on this machine's GPU in under eight minutes; see gpu.py. Needs python3 with PyTorch and
# this checkout. The training that is killed and resumed also needs the packages of `lvm train`: those that are missing
# are installed into a temporary folder, from WHEELS=FOLDER or the package index, if either has them.
#
#     benchmarks/gpu.sh                              # writes gpu.json and gpu.md here
#     OUT=results PYTHON=.venv/bin/python benchmarks/gpu.sh --minutes 5
set -euo pipefail
checkout=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-python3}
site=$(mktemp -d)
trap 'rm -rf "$site"' EXIT
export PYTHONPATH="$checkout:$site${PYTHONPATH:+:$PYTHONPATH}" PYTORCH_NVML_BASED_CUDA_CHECK=1

missing=()
for name in filelock numpy pyarrow pydantic pydantic-settings safetensors scikit-learn scipy; do
  module=${name//-/_}
  [ "$module" != scikit_learn ] || module=sklearn
  "$python" -c "import importlib.util, sys; sys.exit(importlib.util.find_spec('$module') is None)" || missing+=("$name")
done
if [ "${#missing[@]}" -gt 0 ]; then
  source=()
  [ -z "${WHEELS:-}" ] || source=(--no-index --find-links "$WHEELS")
  timeout 60 "$python" -m pip install --quiet --disable-pip-version-check --no-compile --retries 0 --target "$site" \
    "${source[@]}" "${missing[@]}" >&2 || echo "Not installed: ${missing[*]}" >&2
fi

"$python" "$checkout/benchmarks/gpu.py" --out "${OUT:-.}" "$@"
