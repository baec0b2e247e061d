package integration_test

// deviceHands are about devices, and about the guest being stopped and started.
var deviceHands = []hand{
	{
		name: "attach-disk --live", want: "refuses live-only-disk", quick: true,
		do: `qemu-img create -q -f qcow2 $DIR/more.qcow2 2M
virsh attach-disk $D $DIR/more.qcow2 sda --targetbus scsi --driver qemu --subdriver qcow2 --live`,
		out: `virsh detach-disk $D sda --live`,
	},
	{
		name: "attach-disk --config", want: "goes on",
		do: `qemu-img create -q -f qcow2 $DIR/more.qcow2 2M
virsh attach-disk $D $DIR/more.qcow2 sda --targetbus scsi --driver qemu --subdriver qcow2 --config`,
		out: `virsh detach-disk $D sda --config`,
	},
	{
		name: "attach-disk --live --config, and detach-disk after a run", want: "goes on", lost: "S1",
		do: `qemu-img create -q -f qcow2 $DIR/more.qcow2 2M
virsh attach-disk $D $DIR/more.qcow2 sda --targetbus scsi --driver qemu --subdriver qcow2 --live --config
virt-rotate run --now $D
virsh detach-disk $D sda --live --config`,
	},
	{
		name: "detach-disk --live, of a disk with snapshots", want: "goes on", lost: "S1",
		do: `qemu-img create -q -f qcow2 $DIR/more.qcow2 2M
virsh attach-disk $D $DIR/more.qcow2 sda --targetbus scsi --driver qemu --subdriver qcow2 --live --config
virt-rotate run --now $D
virsh detach-disk $D sda --live`,
		out: `virsh detach-disk $D sda --config`,
	},
	{
		name: "attach-device and detach-device", want: "goes on",
		do: `qemu-img create -q -f qcow2 $DIR/more.qcow2 2M
echo "<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='$DIR/more.qcow2'/><target dev='sda' bus='scsi'/></disk>" > d.xml
virsh attach-device $D d.xml --live --config; virsh detach-device $D d.xml --live --config`,
	},
	{
		name: "attach-disk of a layer to another domain, read-only", want: "goes on",
		do:  `virsh attach-disk $D $BASE sda --targetbus scsi --driver qemu --subdriver qcow2 --mode readonly --config`,
		out: `virsh detach-disk $D sda --config`,
	},
	{
		name: "update-device: another cache mode", want: "goes on",
		do: `virsh dumpxml $D --inactive --xpath "//disk[target/@dev='vda']" > d.xml
sed -i "s,type='qcow2'/>,type='qcow2' cache='writethrough'/>," d.xml; virsh update-device $D d.xml --config`,
	},
	{
		name: "change-media --insert and --eject", want: "goes on",
		do: `truncate -s 1M cd.iso; virsh change-media $D hdd $DIR/cd.iso --insert --live --config
virsh change-media $D hdd --eject --live --config --force`,
	},
	{
		name: "change-media --insert", want: "goes on",
		do: `truncate -s 1M cd.iso; virsh change-media $D hdd $DIR/cd.iso --insert --live`,
	},
	{
		name: "blkdeviotune", want: "goes on",
		do: `virsh blkdeviotune $D vda --total-iops-sec 5000 --live --config`,
	},
	{
		name: "suspend", want: "goes on",
		do: `virsh suspend $D`, out: `virsh resume $D`,
	},
	{name: "reset", want: "goes on", do: `virsh reset $D`},
	{name: "destroy", want: "goes on", do: `virsh destroy $D`},
	{name: "destroy and start", want: "goes on", do: `virsh destroy $D; virsh start $D`},
	{name: "start", off: true, want: "goes on", do: `virsh start $D`},
	{name: "dump --live", want: "goes on", do: `virsh dump $D $DIR/core --live --memory-only`},
	{
		name: "managedsave", want: "refuses managed-save", quick: true,
		do: `virsh managedsave $D`, out: `virsh start $D`,
	},
	{
		name: "managedsave, given up", want: "refuses managed-save",
		do: `virsh managedsave $D`, out: `virsh managedsave-remove $D`,
	},
	{
		name: "managedsave and start", want: "goes on",
		do: `virsh managedsave $D; virsh start $D`,
	},
	{
		name: "save", want: "goes on",
		do: `virsh save $D $DIR/saved`,
	},
	{
		name: "save and restore", want: "goes on",
		do: `virsh save $D $DIR/saved; virsh restore $DIR/saved`,
	},
	{
		name: "save, a run, restore", want: "goes on", lost: "S1",
		do: `virsh save $D $DIR/saved; virt-rotate run --now $D; virsh restore $DIR/saved || true`,
	},
}

// configHands are about definitions of domains, and storage pools.
var configHands = []hand{
	{
		name: "domrename", off: true, want: "goes on",
		do: `virsh domrename $D $D-x; virsh domrename $D-x $D`,
	},
	{
		name: "undefine --snapshots-metadata and define", want: "goes on", quick: true,
		do: `virsh dumpxml $D --inactive > d.xml
virsh undefine $D --snapshots-metadata; virsh define d.xml`,
		out: `virt-rotate doctor --forget $S1 --forget $S2 --forget $S3 $D || true`, given: "S1 S2 S3",
	},
	{
		name: "undefine --snapshots-metadata and define", off: true, want: "goes on",
		do: `virsh dumpxml $D --inactive > d.xml
virsh undefine $D --snapshots-metadata; virsh define d.xml`,
		out: `virt-rotate doctor --forget $S1 --forget $S2 --forget $S3 $D || true`, given: "S1 S2 S3",
	},
	{
		name: "define without <backingStore>", want: "goes on",
		do: `define-with $L3`,
	},
	{
		name: "define without <backingStore>", off: true, want: "goes on",
		do: `define-with $L3`,
	},
	{
		name: "define with the base as the disk", want: "refuses configuration-differs",
		do:  `virsh dumpxml $D --inactive > right.xml; define-with $BASE`,
		out: `virsh define right.xml`,
	},
	{
		name: "define with the base as the disk", off: true, want: "refuses lost-snapshot",
		do:  `virsh dumpxml $D --inactive > right.xml; define-with $BASE`,
		out: `virsh define right.xml`,
	},
	{
		name: "define with the base as the disk, and start", off: true, want: "refuses lost-snapshot", lost: "S1 S2 S3",
		do:  `virsh dumpxml $D --inactive > right.xml; define-with $BASE; virsh start $D; sleep 1`,
		out: `virt-rotate doctor --forget $S1 --forget $S2 --forget $S3 $D || true`, given: "S1 S2 S3",
	},
	{
		name: "define with another image as the disk", off: true, want: "goes on",
		do: `qemu-img convert -O qcow2 $L3 flat.qcow2; define-with $DIR/flat.qcow2`,
	},
	{
		name: "a clone as virt-clone makes it", off: true, want: "goes on",
		do: `cp $L3 clone.qcow2
virsh dumpxml $D --inactive | sed "s,$L3,$DIR/clone.qcow2,; s,<name>$D<,<name>clone-$D<,; /<uuid>/d" > c.xml
virsh define c.xml`,
	},
	{
		name: "pool-create-as, pool-refresh, pool-destroy", want: "goes on",
		do: `virsh pool-create-as pool-$D dir --target $DIR; virsh pool-refresh pool-$D; virsh pool-destroy pool-$D`,
	},
	{
		name: "vol-create-as --backing-vol", want: "goes on",
		do: `virsh pool-create-as pool-$D dir --target $DIR
virsh vol-create-as pool-$D new.qcow2 2M --format qcow2 --backing-vol $BASE --backing-vol-format qcow2`,
		out: `virsh vol-delete new.qcow2 --pool pool-$D; virsh pool-destroy pool-$D`,
	},
	{
		name: "vol-clone of the base", want: "goes on",
		do: `virsh pool-create-as pool-$D dir --target $DIR; virsh vol-clone $BASE new.qcow2 --pool pool-$D
virsh pool-destroy pool-$D`,
	},
	{
		name: "vol-resize of the active image", off: true, want: "goes on",
		do: `virsh pool-create-as pool-$D dir --target $DIR; virsh vol-resize $L3 3M; virsh pool-destroy pool-$D`,
	},
}

// imageHands are about qemu-img on images of a guest that is off.
var imageHands = []hand{
	{
		name: "qemu-img resize of the active image", off: true, want: "goes on",
		do: `qemu-img resize -q $L3 3M`,
	},
	{
		name: "qemu-img snapshot -c on the active image", off: true, want: "refuses internal-snapshots",
		do: `qemu-img snapshot -c mine $L3`, out: `qemu-img snapshot -d mine $L3`,
	},
	{
		name: "qemu-img snapshot -c on the base", off: true, want: "refuses internal-snapshots",
		do: `qemu-img snapshot -c mine $BASE`, out: `qemu-img snapshot -d mine $BASE`,
	},
	{
		name: "qemu-img commit of the lowest overlay", off: true, want: "goes on", blind: "S1",
		do: `qemu-img commit -q $L1`,
	},
	{
		name: "qemu-img commit of the active image", off: true, want: "goes on", blind: "S3",
		do: `qemu-img commit -q $L3`,
	},
	{
		name: "qemu-img commit -d of the active image, and define", off: true, want: "refuses lost-snapshot", lost: "S3",
		do:  `qemu-img commit -q -d $L3; define-with $L2; rm $L3`,
		out: `virt-rotate doctor --forget $S3 $D || true`, given: "S3",
	},
	{
		name: "qemu-img commit -b BASE of the active image", off: true, want: "goes on", blind: "S1 S2 S3",
		do: `qemu-img commit -q -b $BASE $L3`,
	},
	{
		name: "qemu-img rebase of a layer onto the base", off: true, want: "refuses chain-mismatch",
		do:  `qemu-img rebase -f qcow2 -b $BASE -F qcow2 $L2`,
		out: `qemu-img rebase -f qcow2 -b $L1 -F qcow2 $L2`,
	},
	{
		name: "qemu-img rebase -u with the same backing file", off: true, want: "goes on",
		do: `qemu-img rebase -u -f qcow2 -b $L1 -F qcow2 $L2`,
	},
	{
		name: "qemu-img rebase -b '' of the active image", off: true, want: "refuses chain-mismatch",
		do:  `qemu-img rebase -f qcow2 -b "" $L3`,
		out: `qemu-img rebase -f qcow2 -b $L2 -F qcow2 $L3`,
	},
	{
		name: "qemu-img convert, and the copy beside it", want: "goes on",
		do: `qemu-img convert -U -O qcow2 $L2 copy.qcow2`,
	},
	{
		name: "qemu-img create -b on a layer", want: "goes on",
		do: `qemu-img create -q -f qcow2 -b $L1 -F qcow2 mine.qcow2`,
	},
	{
		name: "qemu-img check -r all", off: true, want: "goes on",
		do: `qemu-img check -q -r all $L3; qemu-img check -q -r all $BASE`,
	},
	{
		name: "chmod 644 of an overlay", want: "goes on",
		do: `chmod 644 $L3`, out: `chmod 0600 $L3`,
	},
	{
		name: "mv of a layer, and a link in its place", off: true, want: "goes on",
		do: `mkdir elsewhere; mv $L1 elsewhere/; ln -s elsewhere/$(basename $L1) $L1`,
	},
}
