#!/usr/bin/env bash
# The three-way check with three separate processes and sha256sum, for CI:
#
#   bash verify_three_way.sh --diffusion-model .. --pulid-weights .. \
#     --pulid-id-embedding me.pulidembd -p ".." --seed 42
#
# Takes the flags of one generation with an identity, without --output and --pulid-id-weight. Draws
# A without PuLID, B with weight 0 and C with weight 1. A and B must be the same file. C is compared
# without metadata, which names the identity and so always differs.
# PULID_GENERATE: the command to run, "pulid-generate" by default. PULID_KEEP: a folder to keep the
# pictures in.
set -euo pipefail

read -r -a command <<<"${PULID_GENERATE:-pulid-generate}"
folder=${PULID_KEEP:-$(mktemp -d)}
[ -n "${PULID_KEEP:-}" ] || trap 'rm -rf "$folder"' EXIT
mkdir -p "$folder"

without=() with=() skip=0 identity=0 text=0
for flag in "$@"; do
  if [ "$text" = 1 ]; then text=0; without+=("$flag"); with+=("$flag"); continue; fi
  if [ "$skip" = 1 ]; then
    [ "$flag" != - ] || { echo "verify_three_way: three runs cannot share standard input; give a file" >&2; exit 2; }
    skip=0; with+=("$flag"); continue
  fi
  case $flag in
    -o* | --output | --output=* | --pulid-id-weight | --pulid-id-weight=*)
      echo "verify_three_way: $flag is set by this script; leave it out" >&2; exit 2 ;;
    -p | --prompt | -n | --negative-prompt) text=1; without+=("$flag"); with+=("$flag") ;;
    --pulid-id-embedding=-) echo "verify_three_way: three runs cannot share standard input; give a file" >&2; exit 2 ;;
    --pulid-id-embedding) with+=("$flag"); skip=1 identity=1 ;;
    --pulid-weights | --id-start-step | --negative-id) with+=("$flag"); skip=1 ;;
    --pulid-id-embedding=*) with+=("$flag"); identity=1 ;;
    --pulid-weights=* | --id-start-step=* | --negative-id=*) with+=("$flag") ;;
    *) without+=("$flag"); with+=("$flag") ;;
  esac
done
[ "$identity" = 1 ] || { echo "verify_three_way: needs --pulid-id-embedding FILE" >&2; exit 2; }

"${command[@]}" "${without[@]}" --output "$folder/A.png" >&2
"${command[@]}" "${with[@]}" --pulid-id-weight 0 --output "$folder/B.png" >&2
"${command[@]}" "${with[@]}" --pulid-id-weight 1 --output "$folder/C.png" >&2

hash_of() { sha256sum "$1" | cut -d' ' -f1; }
# the pixels of a PNG: everything but its text chunks
pixels_of() { python3 - "$1" <<'PY'
import hashlib, struct, sys

data, at, digest = open(sys.argv[1], "rb").read(), 8, hashlib.sha256()
while at < len(data):
    length, kind = struct.unpack(">I4s", data[at : at + 8])
    if kind in (b"IHDR", b"IDAT"):
        digest.update(data[at + 8 : at + 8 + length])
    at += 12 + length
print(digest.hexdigest())
PY
}
for run in A B C; do printf '%s  %s\n' "$(hash_of "$folder/$run.png")" "$run.png"; done
[ "$(hash_of "$folder/A.png")" = "$(hash_of "$folder/B.png")" ] || { echo "FAILED: A and B differ" >&2; exit 1; }
[ "$(pixels_of "$folder/A.png")" != "$(pixels_of "$folder/C.png")" ] || { echo "FAILED: C shows the same picture as A" >&2; exit 1; }
echo "PASSED: A = B byte for byte, C differs"
