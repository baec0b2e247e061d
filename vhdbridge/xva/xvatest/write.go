// Package xvatest writes XVA files for tests, as xapi does, and with faults.
package xvatest

import (
	"archive/tar"
	"bytes"
	"cmp"
	"crypto/sha1" //nolint:gosec // the format has it
	"encoding/xml"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/cespare/xxhash/v2"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

const chunk = 1 << 20

// A Disk is one to be exported.
type Disk struct {
	ID, UUID, Name string
	Device         string
	Drive          string // type of the VBD: "Disk", "CD"; "" for none
	Used           int64
	Content        []byte
	VM             string // id of the VM that has it; "" for the first
	SnapshotOf     string // id of the disk that it is a snapshot of
}

// A Machine is a VM, or with SnapshotOf, the id of one, a snapshot of that.
type Machine struct {
	ID, Name, SnapshotOf string
	Time                 string            // of the snapshot, as xapi writes it
	UUID                 string            // "": none
	Fields               map[string]string // more of them
	Maps                 map[string]map[string]string
}

// A Member is one of the archive.
type Member struct {
	Name string
	Data []byte
	Type byte // of package tar; 0: a plain file
}

// Descriptor is ova.xml of one VM.
func Descriptor(vm string, disks ...Disk) Member {
	return DescriptorOf([]Machine{{ID: "Ref:0", Name: vm}}, disks...)
}

// DescriptorOf is ova.xml of several VMs and snapshots.
func DescriptorOf(machines []Machine, disks ...Disk) Member {
	var objects strings.Builder
	for _, m := range machines {
		snapshot := "0"
		if m.SnapshotOf != "" {
			snapshot = "1"
		}
		fields := []string{"name_label", m.Name, "is_a_snapshot", snapshot, "snapshot_of", m.SnapshotOf, "snapshot_time", m.Time, "uuid", m.UUID}
		for _, name := range slices.Sorted(maps.Keys(m.Fields)) {
			fields = append(fields, name, m.Fields[name])
		}
		begin(&objects, "VM", m.ID, fields...)
		for _, name := range slices.Sorted(maps.Keys(m.Maps)) {
			fmt.Fprintf(&objects, "<member><name>%s</name><value><struct>", name)
			for _, key := range slices.Sorted(maps.Keys(m.Maps[name])) {
				members(&objects, key, m.Maps[name][key])
			}
			objects.WriteString("</struct></value></member>")
		}
		objects.WriteString(objectEnd)
	}
	for i, d := range disks {
		object(&objects, "VDI", d.ID, "uuid", d.UUID, "name_label", d.Name, "virtual_size", fmt.Sprint(len(d.Content)),
			"physical_utilisation", fmt.Sprint(d.Used), "SR", "Ref:1000",
			"snapshot_of", d.SnapshotOf)
		if d.Drive != "" {
			object(&objects, "VBD", fmt.Sprintf("Ref:%d", 500+i), "VDI", d.ID, "VM", cmp.Or(d.VM, machines[0].ID), "type", d.Drive, "userdevice", d.Device)
		}
	}
	object(&objects, "SR", "Ref:1000", "content_type", "user")
	text := "<?xml version='1.0'?><value><struct><member><name>version</name><value><struct><member><name>export_vsn</name><value>2</value></member></struct></value></member>" +
		"<member><name>objects</name><value><array><data>" + objects.String() + "</data></array></value></member></struct></value>"
	return Member{Name: "ova.xml", Data: []byte(text)}
}

const objectEnd = "</struct></value></member></struct></value>"

func object(w *strings.Builder, class, id string, fields ...string) {
	begin(w, class, id, fields...)
	w.WriteString(objectEnd)
}

func begin(w *strings.Builder, class, id string, fields ...string) {
	fmt.Fprintf(w, "<value><struct><member><name>class</name><value>%s</value></member><member><name>id</name><value>%s</value></member><member><name>snapshot</name><value><struct>", class, id)
	members(w, fields...)
}

func members(w *strings.Builder, fields ...string) {
	for i := 0; i < len(fields); i += 2 {
		var text strings.Builder
		_ = xml.EscapeText(&text, []byte(fields[i+1])) // to memory: it cannot fail
		fmt.Fprintf(w, "<member><name>%s</name><value>%s</value></member>", fields[i], text.String())
	}
}

// Chunk is a chunk with its checksum.
func Chunk(id string, number int, data []byte, sha bool) []Member {
	name := fmt.Sprintf("%s/%08d", id, number)
	if sha {
		return []Member{{Name: name, Data: data}, {Name: name + ".checksum", Data: fmt.Appendf(nil, "%x", sha1.Sum(data))}} //nolint:gosec // see above
	}
	return []Member{{Name: name, Data: data}, {Name: name + ".xxhash", Data: fmt.Appendf(nil, "%016X", xxhash.Sum64(data))}}
}

// Members is a whole export: chunks of zeros are left out but for the first and last.
func Members(vm string, sha bool, disks ...Disk) []Member {
	return MembersOf([]Machine{{ID: "Ref:0", Name: vm}}, sha, disks...)
}

// MembersOf is Members of several VMs and snapshots.
func MembersOf(machines []Machine, sha bool, disks ...Disk) []Member {
	out := []Member{DescriptorOf(machines, disks...)}
	var zeros [chunk]byte
	for _, d := range disks {
		if d.Drive == "CD" {
			continue
		}
		for off := 0; off < len(d.Content); off += chunk {
			b := d.Content[off:min(off+chunk, len(d.Content))]
			if off == 0 || off+len(b) == len(d.Content) || !bytes.Equal(b, zeros[:len(b)]) {
				out = append(out, Chunk(d.ID, off/chunk, b, sha)...)
			}
		}
	}
	return out
}

// Tar puts members into an archive.
func Tar(members []Member) []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, m := range members {
		h := &tar.Header{Name: m.Name, Size: int64(len(m.Data)), Typeflag: m.Type}
		if m.Type == tar.TypeSymlink {
			h.Linkname = "/etc/passwd"
		}
		if err := w.WriteHeader(h); err != nil {
			panic(err)
		}
		if _, err := w.Write(m.Data); err != nil {
			panic(err)
		}
	}
	if err := w.Close(); err != nil {
		panic(err)
	}
	return b.Bytes()
}

// Gzip and Zstd compress, as xapi has it done.
func Gzip(b []byte) []byte {
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if _, err := w.Write(b); err != nil {
		panic(err)
	}
	if err := w.Close(); err != nil {
		panic(err)
	}
	return out.Bytes()
}

// Zstd is like Gzip.
func Zstd(b []byte) []byte {
	w, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
	if err != nil {
		panic(err)
	}
	return w.EncodeAll(b, nil)
}
