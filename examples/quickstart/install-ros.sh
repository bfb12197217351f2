#!/bin/sh
# Runs inside a container of the base image: install-ros.sh PACKAGE...
#
# The directory of this script is a read-only mount that ../../quickstart
# fills. It also holds apt.conf (the host's proxy and certificates) and, where
# the host has a Debian mirror of its own, sources.list. They are used from
# there, so nothing of them stays in the image.
set -eu

here=$(dirname "$0")
export APT_CONFIG="$here/apt.conf"
export DEBIAN_FRONTEND=noninteractive

apt-get update
apt-get install --yes --no-install-recommends "$@"

# The nodes run as this user, not as root.
useradd --create-home --uid 1000 --shell /bin/bash ros

apt-get clean
rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin \
    /var/log/apt/* /var/log/dpkg.log /var/log/alternatives.log
