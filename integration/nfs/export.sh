#!/bin/sh
# export.sh LEASE: starts the services of the filer. Nobody gets a lock before a time of grace is over, as long as the
# lease of NFSv4: hosts that were there before could claim theirs. Over NFSv3 it is a second.
set -eu
rpcbind
rpc.statd
mount -t nfsd nfsd /proc/fs/nfsd
printf 1 >/sys/module/lockd/parameters/nlm_grace_period
echo "$1" >/proc/fs/nfsd/nfsv4leasetime
echo "$1" >/proc/fs/nfsd/nfsv4gracetime
exportfs -a
rpc.mountd
rpc.nfsd 4
