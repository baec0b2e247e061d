#!/bin/sh
# Makes the images in this directory with qemu-img and qemu-io: seeds of the
# fuzz tests, small enough to be committed (512-byte and 4 KiB clusters).
# Run it in this directory; the images hold no time or identity but that of the
# internal snapshot.
set -eu

create() { qemu-img create -q -f qcow2 "$@"; }

rm -f ./*.qcow2 ./*.raw
create -o cluster_size=512 v3.qcow2 64k
create -o cluster_size=512,compat=0.10 v2.qcow2 64k
create -o cluster_size=4096,lazy_refcounts=on,refcount_bits=1 lazy.qcow2 64k
create -o cluster_size=4096,compression_type=zstd zstd.qcow2 64k
create -o cluster_size=16k,extended_l2=on extl2.qcow2 64k
create -o cluster_size=512,compat=0.10 -b v2.qcow2 -F qcow2 overlay-v2.qcow2
create -o cluster_size=512 -b v3.qcow2 -F qcow2 overlay.qcow2
qemu-io -f qcow2 -c 'write -P 7 4k 512' overlay.qcow2 >/dev/null

create -o cluster_size=512 snapshot.qcow2 64k
qemu-img snapshot -c s snapshot.qcow2
create -o cluster_size=512 bitmap.qcow2 64k
qemu-img bitmap -f qcow2 --add bitmap.qcow2 b
create -o cluster_size=512,data_file=data.raw,data_file_raw=on data.qcow2 4k
create -o cluster_size=512,encrypt.format=aes,encrypt.key-secret=s \
	--object secret,id=s,data=secret aes.qcow2 64k 2>/dev/null

# A writer that dies leaves the dirty bit.
create -o cluster_size=512,lazy_refcounts=on dirty.qcow2 64k
(ulimit -c 0 && qemu-io -f qcow2 -c 'write -P 7 0 512' -c abort dirty.qcow2) >/dev/null 2>&1 || true

rm data.raw # only its name is wanted
