#!/bin/sh
# root.sh SUITE DIR [PACKAGES [LATER]]: makes the root of a Debian system of that suite, with the libvirt
# and QEMU of it, and all that the tests need; or a fresh host with these packages, which starts
# services as they are installed, and can install LATER without a network. It needs root, debootstrap and
# the network.
# The mirror is the one that apt uses here, or VIRT_ROTATE_MIRROR.
set -eu

suite=$1 dir=$2
here=$(dirname "$(readlink -f "$0")")
tests="ca-certificates make gcc libc6-dev git xfsprogs btrfs-progs e2fsprogs xz-utils python3
	procps iproute2 util-linux apparmor qemu-utils qemu-system-x86 libvirt-clients libvirt-daemon
	libvirt-daemon-driver-qemu libvirt-daemon-system virtinst ovmf swtpm swtpm-tools"
packages=${3:-$tests} later=${4:-}

[ ! -e "$dir" ] || exit 0
mirror=${VIRT_ROTATE_MIRROR:-$(apt-get indextargets --format '$(SITE)' 2>/dev/null | grep -m 1 'debian/*$' || true)}
if ! command -v debootstrap >/dev/null 2>&1; then
	if command -v apt-get >/dev/null 2>&1; then
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq debootstrap >&2
	elif command -v dnf >/dev/null 2>&1; then
		dnf install -y -q debootstrap >&2
	else
		echo "root.sh: please install debootstrap" >&2
		exit 1
	fi
fi
rm -rf "$dir.new"
echo "making the root of $suite" >&2
debootstrap --variant=minbase "$suite" "$dir.new" $mirror >"$dir.log" 2>&1 || { tail -n 5 "$dir.log" >&2; exit 1; }

# All else is installed by the suite's own apt: an older debootstrap may not know the order.
root=$dir.new
printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d" # no service starts here
chmod +x "$root/usr/sbin/policy-rc.d"
cp -L /etc/resolv.conf "$root/etc/resolv.conf"
for conf in /etc/apt/apt.conf.d/*proxy*; do [ ! -e "$conf" ] || cp "$conf" "$root/etc/apt/apt.conf.d/"; done
[ $# -gt 2 ] || mkdir -p "$root/src" "$root/old" "$root/go" "$root/usr/local/go"
[ $# -gt 2 ] || cp "$here/../tools.sh" "$root/tmp/tools.sh"
ROOT=$root PACKAGES=$packages LATER=$later unshare --mount --propagation private sh -eu -c '
	mount -t proc proc "$ROOT/proc"
	mount --rbind /dev "$ROOT/dev"
	export DEBIAN_FRONTEND=noninteractive LC_ALL=C HOME=/root
	unset TMPDIR # of whoever calls: it is not in there
	chroot "$ROOT" apt-get -o Acquire::Check-Valid-Until=false update -qq
	chroot "$ROOT" apt-get install -y -qq --no-install-recommends $PACKAGES
	[ -z "$LATER" ] || chroot "$ROOT" apt-get install -y -qq --no-install-recommends --download-only $LATER
	[ ! -e "$ROOT/tmp/tools.sh" ] || chroot "$ROOT" sh -c "cd /tmp && sh /tmp/tools.sh"
' >>"$dir.log" 2>&1 || { tail -n 5 "$dir.log" >&2; exit 1; }
[ $# -gt 2 ] || [ -d "$root/root/.cache/virt-rotate/linux-guest" ] || { tail -n 5 "$dir.log" >&2; exit 1; }
rm -f "$root/tmp/tools.sh"
[ $# -eq 2 ] || rm "$root/usr/sbin/policy-rc.d"
mv "$root" "$dir"
