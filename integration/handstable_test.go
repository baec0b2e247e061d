package integration_test

// snapshotHands are about snapshots and their metadata.
var snapshotHands = []hand{
	{
		name: "snapshot-create-as --disk-only", want: "goes on",
		do: `virsh snapshot-create-as $D mine --disk-only --diskspec vda,file=$DIR/mine.qcow2`,
	},
	{
		name: "snapshot-create-as --disk-only", off: true, want: "goes on",
		do: `virsh snapshot-create-as $D mine --disk-only --diskspec vda,file=$DIR/mine.qcow2`,
	},
	{
		name: "snapshot-create --disk-only", want: "goes on",
		do: `virsh snapshot-create $D --disk-only`,
	},
	{
		name: "snapshot-create-as --no-metadata", want: "refuses foreign-overlay", quick: true,
		do:  `virsh snapshot-create-as $D mine --disk-only --no-metadata --diskspec vda,file=$DIR/mine.qcow2`,
		out: `virsh blockcommit $D vda --active --shallow --pivot --wait`,
	},
	{
		name: "snapshot-create-as --no-metadata", off: true, want: "refuses foreign-overlay",
		do:  `virsh snapshot-create-as $D mine --disk-only --no-metadata --diskspec vda,file=$DIR/mine.qcow2`,
		out: `virsh start $D; virsh blockcommit $D vda --active --shallow --pivot --wait`,
	},
	{
		name: "snapshot-create-as --memspec", want: "goes on",
		do: `virsh snapshot-create-as $D mine --memspec $DIR/mine.mem --diskspec vda,file=$DIR/mine.qcow2`,
	},
	{
		name: "snapshot-create-as --quiesce, without an agent", want: "goes on",
		do: `! virsh snapshot-create-as $D mine --disk-only --quiesce --diskspec vda,file=$DIR/mine.qcow2`,
	},
	{
		name: "snapshot-create-as --reuse-external", want: "goes on",
		do: `qemu-img create -q -f qcow2 -b $L3 -F qcow2 -u $DIR/mine.qcow2 2M
virsh snapshot-create-as $D mine --disk-only --reuse-external --diskspec vda,file=$DIR/mine.qcow2`,
	},
	{
		name: "snapshot-create-as --reuse-external, with a wrong backing file", want: "refuses chain-mismatch",
		do: `qemu-img create -q -f qcow2 -b $BASE -F qcow2 -u $DIR/mine.qcow2 2M
virsh snapshot-create-as $D mine --disk-only --reuse-external --diskspec vda,file=$DIR/mine.qcow2`,
		out: `virsh destroy $D; qemu-img rebase -u -f qcow2 -b $L3 -F qcow2 $DIR/mine.qcow2; virsh start $D`,
	},
	{
		name: "snapshot-create-as, internal", want: "refuses internal-snapshots",
		do:  `virsh snapshot-create-as $D mine`,
		out: `virsh snapshot-delete $D mine`,
	},
	{
		name: "snapshot-create-as, internal", off: true, want: "refuses internal-snapshots",
		do:  `virsh snapshot-create-as $D mine`,
		out: `virsh snapshot-delete $D mine`,
	},
	{
		name: "snapshot-current SNAPSHOT", want: "goes on",
		do: `virsh snapshot-current $D $S1`,
	},
	{
		name: "snapshot-edit: the description changed", want: "goes on",
		do: `EDITOR="sed -i s/Taken.by.virt-rotate/Kept.by.me/" virsh snapshot-edit $D $S2`,
	},
	{
		name: "snapshot-edit --rename", want: "goes on", given: "S2",
		do: `EDITOR="sed -i 0,/$S2/s//mine/" virsh snapshot-edit $D $S2 --rename`,
	},
	{
		name: "snapshot-edit --clone", want: "goes on",
		do: `EDITOR="sed -i 0,/$S2/s//mine/" virsh snapshot-edit $D $S2 --clone`,
	},
	{
		name: "snapshot-create --redefine: another parent", want: "goes on",
		do: `virsh snapshot-dumpxml $D $S3 > s.xml
sed -i "/<parent>/,/<.parent>/s,$S2,$S1," s.xml; virsh snapshot-create $D s.xml --redefine`,
	},
	{
		name: "snapshot-delete --metadata and snapshot-create --redefine", want: "goes on",
		do: `virsh snapshot-dumpxml $D $S2 > s.xml
virsh snapshot-delete $D $S2 --metadata; virsh snapshot-create $D s.xml --redefine`,
	},
	{
		name: "snapshot-delete --metadata of the oldest", want: "goes on", quick: true,
		do:  `virsh snapshot-delete $D $S1 --metadata`,
		out: `virt-rotate doctor --forget $S1 $D || true`, given: "S1",
	},
	{
		name: "snapshot-delete --metadata of the oldest", off: true, want: "goes on",
		do:  `virsh snapshot-delete $D $S1 --metadata`,
		out: `virt-rotate doctor --forget $S1 $D || true`, given: "S1",
	},
	{
		name: "snapshot-delete --metadata of one between", want: "goes on",
		do:  `virsh snapshot-delete $D $S2 --metadata`,
		out: `virt-rotate doctor --forget $S2 $D || true`, given: "S2",
	},
	{
		name: "snapshot-delete --metadata of the newest", want: "goes on",
		do:  `virsh snapshot-delete $D $S3 --metadata`,
		out: `virt-rotate doctor --forget $S3 $D || true`, given: "S3",
	},
	{
		name: "snapshot-delete --children --metadata", want: "goes on",
		do:  `virsh snapshot-delete $D $S2 --children --metadata`,
		out: `virt-rotate doctor --forget $S2 --forget $S3 $D || true`, given: "S2 S3",
	},
	{
		name: "snapshot-delete of the oldest", want: "goes on", lost: "S1",
		do: `virsh snapshot-delete $D $S1`,
	},
	{
		name: "snapshot-delete of the oldest", off: true, want: "goes on", lost: "S1",
		do: `virsh snapshot-delete $D $S1`,
	},
	{
		name: "snapshot-delete of one between", want: "goes on", lost: "S2", quick: true,
		do: `virsh snapshot-delete $D $S2`,
	},
	{
		name: "snapshot-delete of the newest", want: "goes on", lost: "S3",
		do: `virsh snapshot-delete $D $S3`,
	},
	{
		name: "snapshot-delete of the newest", off: true, want: "goes on", lost: "S3",
		do: `virsh snapshot-delete $D $S3`,
	},
	{
		name: "snapshot-delete --children", want: "goes on", old: true,
		do: `! virsh snapshot-delete $D $S2 --children`,
	},
	{
		name: "snapshot-delete --children-only", want: "goes on", old: true,
		do: `! virsh snapshot-delete $D $S2 --children-only`,
	},
	{
		name: "snapshot-revert", off: true, want: "goes on", old: true,
		do: `! virsh snapshot-revert $D $S1`,
	},
}

// jobHands are about block jobs.
var jobHands = []hand{
	{
		name: "blockcommit of the lowest layer", want: "refuses stale-metadata", lost: "S1", quick: true,
		do:  `virsh blockcommit $D vda --base $BASE --top $L1 --wait`,
		out: `virt-rotate doctor --forget $S1 $D || mv $L1 $L1.old; virt-rotate doctor --fix $D`, given: "S1",
	},
	{
		name: "blockcommit --delete of the lowest layer", want: "refuses stale-metadata", lost: "S1",
		do:  `virsh blockcommit $D vda --base $BASE --top $L1 --delete --wait`,
		out: `virt-rotate doctor --forget $S1 $D || virt-rotate doctor --fix $D`, given: "S1",
	},
	{
		name: "blockcommit of a layer between", want: "refuses stale-metadata", lost: "S2",
		do:  `virsh blockcommit $D vda --base $L1 --top $L2 --wait`,
		out: `virt-rotate doctor --forget $S2 $D || mv $L2 $L2.old; virt-rotate doctor --fix $D`, given: "S2",
	},
	{
		name: "blockcommit --active --pivot", want: "refuses lost-snapshot", lost: "S1 S2 S3", quick: true,
		do:  `virsh blockcommit $D vda --active --pivot --wait`,
		out: `virt-rotate doctor --forget $S1 --forget $S2 --forget $S3 $D || true`, given: "S1 S2 S3",
	},
	{
		name: "blockcommit --active --shallow --pivot", want: "refuses lost-snapshot", lost: "S3",
		do:  `virsh blockcommit $D vda --active --shallow --pivot --wait`,
		out: `virt-rotate doctor --forget $S3 $D || true`, given: "S3",
	},
	{
		name: "blockcommit --active --shallow --keep-overlay", want: "goes on", blind: "S3",
		do: `virsh blockcommit $D vda --active --shallow --keep-overlay --wait`,
	},
	{
		name: "blockcommit --active, and blockjob --abort", want: "goes on", blind: "S3",
		do: `virsh blockcommit $D vda --active --shallow
sleep 0.5; virsh blockjob $D vda --abort`,
	},
	{
		name: "blockcommit --active, not ended", want: "refuses block-job", blind: "S3",
		do:  `virsh blockcommit $D vda --active --shallow`,
		out: `virsh blockjob $D vda --abort`,
	},
	{
		name: "blockpull", want: "goes on",
		do: `virsh blockpull $D vda --wait`,
	},
	{
		name: "blockpull --base", want: "refuses stale-metadata",
		do:  `virsh blockpull $D vda --base $L1 --wait`,
		out: `qemu-img convert -U -O qcow2 $L2 kept.qcow2; virt-rotate doctor --forget $S3 $D || true`,
	},
	{
		name: "blockcopy --pivot", want: "goes on",
		do: `virsh blockcopy $D vda $DIR/copy.qcow2 --format qcow2 --transient-job --wait --pivot`,
	},
	{
		name: "blockcopy --shallow --pivot", want: "refuses foreign-overlay",
		out: `virsh blockpull $D vda --wait`,
		do:  `virsh blockcopy $D vda $DIR/copy.qcow2 --format qcow2 --shallow --transient-job --wait --pivot`,
	},
	{
		name: "blockcopy --finish", want: "goes on",
		do: `virsh blockcopy $D vda $DIR/copy.qcow2 --format qcow2 --transient-job --wait --finish`,
	},
	{
		name: "blockcopy --shallow --finish", want: "goes on",
		do: `virsh blockcopy $D vda $DIR/copy.qcow2 --format qcow2 --shallow --transient-job --wait --finish`,
	},
	{
		name: "blockcopy, not ended", want: "refuses block-job", quick: true,
		do:  `virsh blockcopy $D vda $DIR/copy.qcow2 --format qcow2 --transient-job`,
		out: `virsh blockjob $D vda --abort`,
	},
	{
		name: "blockresize", want: "goes on",
		do: `virsh blockresize $D vda 3M`,
	},
	{
		name: "checkpoint-create-as", want: "goes on",
		do: `virsh checkpoint-create-as $D mine`,
	},
	{
		name: "checkpoint-create-as, then shut off", want: "waits",
		do:  `virsh checkpoint-create-as $D mine; virsh destroy $D`,
		out: `virsh start $D`,
	},
	{
		name: "checkpoint-create-as and checkpoint-delete", want: "goes on",
		do: `virsh checkpoint-create-as $D mine; virsh checkpoint-delete $D mine`,
	},
	{
		name: "backup-begin", want: "refuses block-job",
		do: `echo "<domainbackup mode='pull'><server transport='unix' socket='$DIR/backup.sock'/></domainbackup>" > b.xml
virsh backup-begin $D b.xml`,
		out: `virsh domjobabort $D`,
	},
	{
		name: "backup-begin, and domjobabort", want: "goes on",
		do: `echo "<domainbackup mode='pull'><server transport='unix' socket='$DIR/backup.sock'/></domainbackup>" > b.xml
virsh backup-begin $D b.xml; virsh domjobabort $D`,
	},
}
