#!/bin/sh
# Installs what make test-packages needs beside what make test does: the checkers of rpms, a compiler
# for musl, and what boots a Debian system of its own (in which lintian is). As root.
set -eu

missing=
for tool in rpm rpmlint musl-gcc systemd-nspawn systemd-analyze debootstrap; do
	command -v "$tool" >/dev/null 2>&1 || missing="$missing $tool"
done
"$(dirname "$0")/../tools.sh"
[ -n "$missing" ] || exit 0
echo "installing what is missing:$missing" >&2
if command -v apt-get >/dev/null 2>&1; then
	apt-get update -qq
	DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends rpm rpmlint musl-tools musl systemd-container debootstrap >&2
elif command -v dnf >/dev/null 2>&1; then
	dnf install -y -q rpm rpmlint musl-gcc systemd-container debootstrap >&2
else
	echo "tools.sh: please install:$missing" >&2
	exit 1
fi
