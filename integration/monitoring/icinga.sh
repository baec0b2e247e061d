#!/bin/sh
# Unpacks icinga2 and the libraries that it needs and that are not here in the user's cache
# directory. The package is not installed: it would start a service.
set -eu
icinga=${XDG_CACHE_HOME:-$HOME/.cache}/virt-rotate/icinga # as in icinga_test.go
[ ! -d "$icinga" ] || exit 0
command -v apt-get >/dev/null 2>&1 || { echo "virt-rotate: please unpack icinga2 in $icinga" >&2; exit 1; }
as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }
rm -rf "$icinga.new"
mkdir -p "$icinga.new/debs/partial" "$icinga.new/root"
as_root apt-get update -qq
as_root apt-get install -y -qq --no-install-recommends --download-only -o Dir::Cache::archives="$icinga.new/debs" icinga2-bin >&2
for package in "$icinga.new"/debs/*.deb; do
	dpkg-deb -x "$package" "$icinga.new/root"
done
mv "$icinga.new/root" "$icinga"
rm -rf "$icinga.new"
