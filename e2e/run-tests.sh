#!/bin/bash
# All tests: what they need is installed, everything is built, units first, stories on real swarms last.
# Run as root, from anywhere. Further arguments go to the story runner, such as a story's name.
set -euo pipefail
cd "$(dirname "$0")/.."

e2e/setup.sh
echo "== build"
# One set of features for all that follows: always the whole workspace. Stories and `skep dev` take the
# programs from the target directory.
# A build that stands in for the next release first, for the stories of upgrades; it takes the other's place for a
# moment.
target="${CARGO_TARGET_DIR:-target}/release"
# Our crates in it are not optimised: it is built several times as fast.
plain=()
for crate in skep skep-manager skep-orchestrator skep-scheduler skep-store; do
    plain+=(--config "profile.release.package.$crate.opt-level=0")
done
cargo build --release --workspace --bin skep --features skep/next-level "${plain[@]}"
mkdir -p "$target/next"
cp --force "$target/skep" "$target/next/skep"
cargo build --release --workspace
cp --force "$target/skep-shim" "$target/next/skep-shim"
echo "== unit, golden and property tests, kernel tests, and the tree itself"
cargo test --release --workspace
echo "== stories on real swarms (docker CLI: $(docker --version))"
# One swarm at a time: two cores carry one well, and what a story measures stays its own.
cargo test --release --workspace --test stories -- --test-threads=1 "$@"
