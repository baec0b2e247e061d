#!/bin/sh
# Installs what tests and demo need: libvirt's QEMU driver, virsh, QEMU, qemu-img, and what
# virt-install's guests have: UEFI and a TPM; a terminal, tmux; the shells whose completion is
# tested; what reads manual pages; and what docs/recipes.md uses, restic, age, nbdfuse, guestfish
# (which boots a kernel of this system) and what makes disks for it, LVM and NTFS; Pacemaker's agents.
# Unpacks what the Linux guest of some tests is made of, and programs of monitoring systems, in
# the user's cache directory.
# Does nothing when all is there. Only the installation itself uses sudo.
set -eu

missing=
for tool in virsh libvirtd bindfs qemu-system-x86_64 qemu-img qemu-io mkfs.ext4 mkfs.xfs mkfs.btrfs losetup gcc xz virt-install swtpm_setup tmux zsh fish git make restic age nbdfuse nbdcopy guestfish mkntfs lvm debugfs fdisk sfdisk mandoc groff; do
	PATH=$PATH:/usr/sbin:/sbin command -v "$tool" >/dev/null 2>&1 || missing="$missing $tool"
done
[ -e /usr/share/bash-completion/bash_completion ] || missing="$missing bash-completion"
id libvirt-qemu >/dev/null 2>&1 || id qemu >/dev/null 2>&1 || missing="$missing (a user for QEMU)"
[ -e /usr/lib/ocf/resource.d/heartbeat/VirtualDomain ] || missing="$missing resource-agents"
[ -d /usr/share/OVMF ] || [ -d /usr/share/edk2/ovmf ] || missing="$missing (UEFI for guests)"
kernel_there() { # for libguestfs; a container has none
	for kernel in /boot/vmlinuz-* /lib/modules/*/vmlinuz; do
		[ ! -e "$kernel" ] || return 0
	done
	return 1
}
kernel_there || missing="$missing (a kernel for libguestfs)"
linux=${XDG_CACHE_HOME:-$HOME/.cache}/virt-rotate/linux-guest # as in guest/initramfs.go
if command -v apt-get >/dev/null 2>&1; then # libvirt's profiles for AppArmor are there
	PATH=$PATH:/usr/sbin:/sbin command -v apparmor_parser >/dev/null 2>&1 || missing="$missing apparmor_parser"
fi
monitoring=${XDG_CACHE_HOME:-$HOME/.cache}/virt-rotate/monitoring # as in monitoring/tool.go
[ -n "$missing" ] || [ ! -d "$linux" ] || [ ! -d "$monitoring" ] || exit 0

as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }

export DEBIAN_FRONTEND=noninteractive
if command -v apt-get >/dev/null 2>&1; then
	family=debian
elif command -v dnf >/dev/null 2>&1; then
	family=fedora
else
	family=other
fi

install_debian() {
	as_root apt-get update -qq
	as_root apt-get install -y -qq --no-install-recommends libvirt-daemon-system libvirt-daemon-driver-qemu \
		libvirt-clients qemu-system-x86 qemu-utils e2fsprogs xfsprogs btrfs-progs util-linux gcc libc6-dev xz-utils apparmor \
		virtinst ovmf swtpm swtpm-tools tmux bash-completion zsh fish git make \
		restic age bindfs libnbd-bin guestfish ntfs-3g lvm2 fdisk mandoc groff-base resource-agents >&2
	kernel_there || as_root apt-get install -y -qq --no-install-recommends linux-image-cloud-amd64 >&2 ||
		as_root apt-get install -y -qq --no-install-recommends linux-image-virtual >&2 # of Ubuntu
}

install_fedora() {
	as_root dnf install -y -q libvirt-daemon libvirt-daemon-driver-qemu libvirt-client \
		qemu-system-x86-core qemu-img e2fsprogs xfsprogs btrfs-progs util-linux gcc glibc-devel xz \
		virt-install edk2-ovmf swtpm swtpm-tools tmux bash-completion zsh fish git make \
		restic age bindfs nbdfuse libnbd libguestfs ntfsprogs lvm2 mandoc groff-base resource-agents >&2
	kernel_there || as_root dnf install -y -q kernel-core >&2
}

# The unpack functions download packages to the current directory and unpack them in root.
unpack_debian() {
	download_debs || { as_root apt-get update -qq && download_debs; } || return
	for package in *.deb; do
		dpkg-deb -x "$package" root || return
	done
}

# What belongs to a kernel may be in packages of its own: of Ubuntu the modules, of Debian
# since 14 all three.
download_debs() {
	kernel=$(apt-cache depends linux-image-cloud-amd64 linux-image-virtual 2>/dev/null |
		sed -n 's/^ *Depends: \(linux-image-[0-9].*\)/\1/p' | head -n 1)
	[ -n "$kernel" ] || return
	more=
	for part in linux-base linux-modules linux-binary; do
		part=$part${kernel#linux-image}
		! apt-cache show "$part" >/dev/null 2>&1 || more="$more $part"
	done
	apt-get download -qq "$kernel" $more busybox-static qemu-guest-agent >&2
}

unpack_fedora() {
	as_root dnf install -y -q cpio 'dnf-command(download)' >&2 || return
	dnf download -q kernel-core kernel-modules-core busybox qemu-guest-agent >&2 || return
	for package in *.rpm; do
		rpm2cpio "$package" | (cd root && cpio -idm --quiet) || return
	done
}

# Only the programs are taken: the packages would start services.
monitoring_debian() {
	set -- prometheus prometheus-node-exporter monitoring-plugins-common
	apt-get download -qq "$@" >&2 || { as_root apt-get update -qq && apt-get download -qq "$@" >&2; } || return
	for package in *.deb; do
		dpkg-deb -x "$package" all || return
	done
	keep_monitoring
}

monitoring_fedora() {
	as_root dnf install -y -q cpio 'dnf-command(download)' >&2 || return
	dnf download -q golang-github-prometheus node-exporter nagios-plugins >&2 || return
	for package in *.rpm; do
		mkdir -p all && rpm2cpio "$package" | (cd all && cpio -idm --quiet) || return
	done
	keep_monitoring
}

monitoring_other() {
	echo "virt-rotate: please put promtool, node_exporter and negate of the monitoring plugins in $monitoring/usr/bin" >&2
	return 1
}

# keep_monitoring takes the three programs out of what was unpacked; all must be there.
keep_monitoring() {
	mkdir -p root/usr/bin
	for program in promtool negate; do
		find all -type f -name "$program" -exec cp {} root/usr/bin/ \;
		[ -x "root/usr/bin/$program" ] || return
	done
	find all -type f \( -name node_exporter -o -name prometheus-node-exporter \) -perm /111 -exec cp {} root/usr/bin/node_exporter \;
	[ -x root/usr/bin/node_exporter ]
}

install_other() {
	echo "virt-rotate: this is neither a Debian nor a Fedora family system; please install:$missing" >&2
	exit 1
}

unpack_other() {
	echo "virt-rotate: please unpack a kernel, its modules, busybox and qemu-ga in $linux" >&2
	return 1
}

if [ -n "$missing" ]; then
	echo "installing what is missing:$missing" >&2
	install_$family
fi
if [ ! -d "$monitoring" ]; then
	echo "unpacking promtool, node_exporter and negate in $monitoring" >&2
	rm -rf "$monitoring.new"
	mkdir -p "$monitoring.new/root"
	if (cd "$monitoring.new" && monitoring_$family); then
		mv "$monitoring.new/root" "$monitoring"
	else
		echo "virt-rotate: no programs of monitoring systems: the tests that need them will fail" >&2
	fi
	rm -rf "$monitoring.new"
fi
if [ ! -d "$linux" ]; then
	echo "unpacking a kernel, busybox and the QEMU guest agent in $linux" >&2
	rm -rf "$linux.new"
	mkdir -p "$linux.new/root"
	if (cd "$linux.new" && unpack_$family); then
		mv "$linux.new/root" "$linux"
	else
		echo "virt-rotate: no Linux guest: the tests that need its agent will fail, all else works without" >&2
	fi
	rm -rf "$linux.new"
fi
