#!/bin/bash
# Installs what the end-to-end tests need beside Rust and root. Safe to run again.
#   busybox-static  the image that most stories run
#   nftables, iproute2  to look at what the mesh has made (the product itself needs neither)
#   docker.io  its CLI where no docker is on PATH, and dockerd for the stories on Docker, which start their own
#   docker-registry, apache2-utils  a registry to pull from, and its passwords; started by the tests alone
set -euo pipefail

missing=()
[ -x /bin/busybox ] || missing+=(busybox-static)
command -v nft >/dev/null || missing+=(nftables)
command -v ip >/dev/null || missing+=(iproute2)
command -v docker >/dev/null && command -v dockerd >/dev/null || missing+=(docker.io)
command -v docker-registry >/dev/null || missing+=(docker-registry)
command -v htpasswd >/dev/null || missing+=(apache2-utils)

if [ "${#missing[@]}" -eq 0 ]; then
    echo "setup: all that the tests need is here"
    exit 0
fi
if [ "$(id -u)" -ne 0 ]; then
    echo "setup: run as root, to install: ${missing[*]}" >&2
    exit 1
fi
echo "setup: installing ${missing[*]}"
# docker.io would start its daemon on install; a policy that says no keeps it down.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod +x "$policy"
    trap 'rm -f "$policy"' EXIT
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
echo "setup: installed ${missing[*]}"
