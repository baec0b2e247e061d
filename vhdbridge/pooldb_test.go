package vhdbridge

import (
	"strings"
	"testing"
	"time"
)

const poolDatabase = `<?xml version="1.0"?><database><manifest><pair key="schema_major_vsn" value="5"/></manifest>
<table name="VM"><row ref="OpaqueRef:vm" __ctime="1" uuid="11111111-0000-0000-0000-000000000001" name__label="web%.1%.%%"/>
<row ref="OpaqueRef:snap" uuid="11111111-0000-0000-0000-000000000002" name__label="before%.monday" is_a_snapshot="true"/></table>
<table name="VDI"><row ref="OpaqueRef:a" uuid="25ca0d3e-a78c-52f6-ad1e-32cb3f742f0b" name__label="root%n&lt;b&gt;" name__description="%." managed="true" is_a_snapshot="false" snapshot_of="OpaqueRef:NULL" snapshot_time="19700101T00:00:00Z"/>
<row ref="OpaqueRef:b" uuid="d7193eeb-8fa5-5df8-afbf-1e02e019d2dd" name__label="root" managed="true" is_a_snapshot="true" snapshot_of="OpaqueRef:a" snapshot_time="20240117T03:15:00Z"/></table>
<table name="VBD"><row ref="OpaqueRef:x" VM="OpaqueRef:vm" VDI="OpaqueRef:a" userdevice="0" type="Disk"/><row ref="OpaqueRef:y" VM="OpaqueRef:snap" VDI="OpaqueRef:b" userdevice="0" type="Disk"/>
<row ref="OpaqueRef:z" VM="OpaqueRef:vm" VDI="OpaqueRef:NULL" userdevice="3" type="CD"/></table></database>`

const vdiList = `uuid ( RO)                : 25ca0d3e-a78c-52f6-ad1e-32cb3f742f0b
          name-label ( RW): root: the first
    name-description ( RW): 
       is-a-snapshot ( RO): false
         snapshot-of ( RO): <not in database>
       snapshot-time ( RO): 19700101T00:00:00Z
             managed ( RO): true


uuid ( RO)                : d7193eeb-8fa5-5df8-afbf-1e02e019d2dd
          name-label ( RW): root
       is-a-snapshot ( RO): true
         snapshot-of ( RO): 25ca0d3e-a78c-52f6-ad1e-32cb3f742f0b
       snapshot-time ( RO): 20240117T03:15:00Z
`

// What a pool's database, and xe, say of VDIs.
func TestNamesOfAPool(t *testing.T) {
	at := time.Date(2024, 1, 17, 3, 15, 0, 0, time.UTC)
	const first, snap = "25ca0d3e-a78c-52f6-ad1e-32cb3f742f0b", "d7193eeb-8fa5-5df8-afbf-1e02e019d2dd"
	for text, want := range map[string][2]VDI{
		poolDatabase: {{UUID: first, Name: "root\n<b>", Description: " ", Managed: true, VM: "web 1 %", Device: "0"},
			{UUID: snap, Name: "root", Managed: true, Snapshot: true, SnapshotOf: first, SnapshotTime: at, VM: "before monday", Device: "0"}},
		vdiList: {{UUID: first, Name: "root: the first", Managed: true}, {UUID: snap, Name: "root", Snapshot: true, SnapshotOf: first, SnapshotTime: at}},
	} {
		vdis, err := ReadNames(strings.NewReader(text))
		must(t, err)
		if len(vdis) != 2 || vdis[first] != want[0] || vdis[snap] != want[1] {
			t.Errorf("%+v, want\n%+v", vdis, want)
		}
	}
}

func TestWhatHasNoNames(t *testing.T) {
	for text, want := range map[string]string{
		"": "no VDI is in it", "<database/>": "no VDI is in it", "<database><table name=\"VDI\"><row": "byte ", "uuid ( RO): a\nname-label ( RW): b\nwhat": "line 3",
	} {
		if vdis, err := ReadNames(strings.NewReader(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v %v", text, vdis, err)
		}
	}
}

// A name that would play tricks on a terminal is quoted in the tree.
func TestNamesInATreeAreQuoted(t *testing.T) {
	n := Node{VDI: "x", Known: &VDI{Name: "a\x1b[31m\n", VM: "w\x07", Device: "0"}}
	if got := n.called(); got != `  "a\x1b[31m\n", disk 0 of "w\a"` {
		t.Errorf("%s", got)
	}
}
