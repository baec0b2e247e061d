#!/bin/sh
# Unpacks what the machines of make nfs are made of, in the user's cache directory, below what integration/tools.sh
# does: Debian's server and client of NFS, with their libraries. Does nothing when it is there.
set -eu

"$(dirname "$0")/../tools.sh"
cache=${XDG_CACHE_HOME:-$HOME/.cache}/virt-rotate
root=$cache/nfs-guest # as in boot.go
[ ! -d "$root" ] || exit 0
if ! command -v apt-get >/dev/null 2>&1; then
	echo "tools.sh: make nfs boots Debian's kernel and its server of NFS: please run it on a system of the Debian family" >&2
	exit 1
fi

as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }

# needed lists the packages, and all libraries that they need. That of C is this machine's.
needed() {
	apt-cache depends --recurse --no-recommends --no-suggests --no-conflicts --no-breaks --no-replaces --no-enhances \
		nfs-kernel-server nfs-common rpcbind netbase 2>/dev/null | grep -E '^(lib[a-z0-9.+-]+|nfs-common|nfs-kernel-server|rpcbind|netbase)$' |
		grep -vE '^libc6|perl|python' | sort -u
}

download() { needed | grep -q nfs-kernel-server && needed | xargs apt-get download -qq >&2; }

echo "unpacking a server and a client of NFS in $root" >&2
rm -rf "$root.new"
mkdir -p "$root.new/root"
cd "$root.new"
download || { as_root apt-get update -qq && download; }
for package in *.deb; do
	dpkg-deb -x "$package" root
done
mv root "$root"
rm -rf "$root.new"
