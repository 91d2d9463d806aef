#!/usr/bin/env bash
# The three-way check with three processes and sha256sum. `pulid-generate verify --script` prints it
# for who has no checkout; its head says how it is called.
exec bash "$(dirname "$0")/../pulid_generate/pictures/verify_three_way.sh" "$@"
