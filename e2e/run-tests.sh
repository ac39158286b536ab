#!/bin/bash
# All tests: what they need is installed, everything is built, units first, stories on real swarms last.
# Run as root, from anywhere. Further arguments go to the story runner, such as a story's name.
set -euo pipefail
cd "$(dirname "$0")/.."

e2e/setup.sh
echo "== build"
# Stories and `skep dev` take the programs from the target directory.
cargo build --release --workspace
echo "== unit, golden and property tests, and the tree itself"
cargo test --release --workspace --exclude skep-e2e
cargo test --release -p skep-e2e --lib --bins --test arrows --test tidy
echo "== stories on real swarms (docker CLI: $(docker --version))"
# One swarm at a time: two cores carry one well, and what a story measures stays its own.
cargo test --release -p skep-e2e --test stories -- --test-threads=1 "$@"
