package xva

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
)

// A Disk is a virtual disk (VDI) that an export holds.
type Disk struct {
	ID     string // its directory in the archive: "Ref:4"
	UUID   string // of the VDI, in lower case
	Name   string // its label: any text
	Size   int64  // virtual, in bytes: whole sectors
	Used   int64  // bytes that it took in its repository; 0: not told
	Device string // where the VM has it: "0" is its first disk; "" if it is not attached

	VM       string // label of the VM that has it: any text; "" if none has
	Snapshot string // label of the VM's snapshot that has it, if one does and not the VM itself

	attached bool // it must be in the archive
}

// who tells which disk it is, for people.
func (d *Disk) who() string {
	text := fmt.Sprintf("the disk %q (%s)", d.Name, d.UUID)
	if d.Snapshot != "" {
		text += fmt.Sprintf(" of the snapshot %q", d.Snapshot)
	}
	if d.VM != "" {
		text += fmt.Sprintf(" of %q", d.VM)
	}
	return text
}

// A VM is what ova.xml tells of the machine.
type VM struct {
	Name  string // its label: any text; of several VMs that of the first that is no snapshot
	Disks []Disk // in the order of ova.xml, of all VMs and snapshots; CDs are left out

	Objects []Object // all that ova.xml has: VMs, how disks and networks are attached, …
}

// An Object is a record of xapi's database, as an export has it.
type Object struct {
	Class, ID string
	record    *value
}

// Field is a scalar, or the reference to another object, by its ID; "" if there is none.
func (o Object) Field(name string) string { return o.record.field(name).text() }

// Map is a field that is a map; nil if there is none.
func (o Object) Map(name string) map[string]string {
	v := o.record.field(name)
	if v == nil || len(v.Struct.Members) == 0 {
		return nil
	}
	m := map[string]string{}
	for i := range v.Struct.Members {
		m[v.Struct.Members[i].Name] = v.Struct.Members[i].Value.text()
	}
	return m
}

// Fields are the names of all fields.
func (o Object) Fields() (names []string) {
	if o.record == nil {
		return nil
	}
	for i := range o.record.Struct.Members {
		names = append(names, o.record.Struct.Members[i].Name)
	}
	return names
}

// value is one of XML-RPC (http://xmlrpc.com/spec.md). Numbers of xapi are strings.
type value struct {
	Text    string  `xml:",chardata"`
	String  *string `xml:"string"`
	Int     *string `xml:"int"`
	I4      *string `xml:"i4"`
	Boolean *string `xml:"boolean"`
	Time    *string `xml:"dateTime.iso8601"`
	Struct  struct {
		Members []member `xml:"member"`
	} `xml:"struct"`
	Array struct {
		Values []value `xml:"data>value"`
	} `xml:"array"`
}

type member struct {
	Name  string `xml:"name"`
	Value value  `xml:"value"`
}

// text is what a scalar holds.
func (v *value) text() string {
	if v == nil {
		return ""
	}
	for _, s := range []*string{v.String, v.Int, v.I4, v.Boolean, v.Time} {
		if s != nil {
			return *s
		}
	}
	return v.Text
}

// field finds a member of a struct; nil if there is none.
func (v *value) field(name string) *value {
	if v == nil {
		return nil
	}
	for i := range v.Struct.Members {
		if v.Struct.Members[i].Name == name {
			return &v.Struct.Members[i].Value
		}
	}
	return nil
}

// An object is a record of xapi's database: of a VM, a disk, how a disk is attached (VBD).
type object struct {
	class, id string
	*value
}

// parseDescriptor reads ova.xml: a struct whose member objects has a struct of class,
// id and snapshot (the record) for each object.
func parseDescriptor(b []byte) (VM, error) {
	root, err := parseXML(b)
	if err != nil {
		return VM{}, err
	}
	list := root.field("objects")
	if list == nil {
		return VM{}, errors.New("it has no list of objects")
	}
	var objects []object
	for i := range list.Array.Values {
		o := &list.Array.Values[i]
		objects = append(objects, object{o.field("class").text(), o.field("id").text(), o.field("snapshot")})
	}
	return newVM(objects)
}

func parseXML(b []byte) (*value, error) {
	d := xml.NewDecoder(bytes.NewReader(b))
	for {
		t, err := d.Token()
		if errors.Is(err, io.EOF) {
			return nil, errors.New("it is empty")
		}
		if err != nil {
			return nil, err
		}
		start, ok := t.(xml.StartElement)
		switch {
		case !ok:
			continue
		case start.Name.Local == "appliance":
			return nil, &UnsupportedError{"an appliance of the first format, from before XenServer 4"}
		case start.Name.Local != "value":
			return nil, fmt.Errorf("it begins with <%s>, not with <value>", start.Name.Local)
		}
		v := &value{}
		return v, d.DecodeElement(v, &start)
	}
}

// newVM picks out what the disks need.
func newVM(objects []object) (VM, error) {
	machines := machinesOf(objects)
	vm := VM{Name: machines.first}
	for _, o := range objects {
		vm.Objects = append(vm.Objects, Object{o.class, o.id, o.value})
	}
	iso, drives := isoRepositories(objects), drivesOf(objects)
	seen := map[string]string{}
	for _, o := range objects {
		if o.class != "VDI" || iso[o.field("SR").text()] || drives[o.id] != nil && drives[o.id].disk == nil {
			continue
		}
		d, err := newDisk(o)
		if err != nil {
			return vm, fmt.Errorf("disk %q: %w", o.id, err)
		}
		for _, key := range []string{"id " + d.ID, "uuid " + d.UUID} {
			if other, twice := seen[key]; twice {
				return vm, fmt.Errorf("disks %q and %q have the same %s", other, d.ID, key)
			}
			seen[key] = d.ID
		}
		if drive := drives[o.id]; drive != nil {
			d.attached, d.Device = true, drive.disk.field("userdevice").text()
			d.VM, d.Snapshot = machines.of(drive.disk.field("VM").text())
		}
		vm.Disks = append(vm.Disks, d)
	}
	return vm, nil
}

// isoRepositories are those of CD images, which are not exported.
func isoRepositories(objects []object) map[string]bool {
	iso := map[string]bool{}
	for _, o := range objects {
		if o.class == "SR" && o.field("content_type").text() == "iso" {
			iso[o.id] = true
		}
	}
	return iso
}

// A drive is how a VM has an image; disk is nil if it has it as a CD only.
type drive struct{ disk *value }

func drivesOf(objects []object) map[string]*drive {
	drives := map[string]*drive{}
	for _, o := range objects {
		if o.class != "VBD" {
			continue
		}
		id := o.field("VDI").text()
		if drives[id] == nil {
			drives[id] = &drive{}
		}
		if o.field("type").text() != "CD" && drives[id].disk == nil {
			drives[id].disk = o.value
		}
	}
	return drives
}

// machines are the VMs of an export, and their snapshots, which are VMs to xapi.
type machines struct {
	first string            // label of the first that is no snapshot
	byID  map[string]*value // records
}

func machinesOf(objects []object) machines {
	m := machines{byID: map[string]*value{}}
	named := false
	for _, o := range objects {
		if o.class != "VM" {
			continue
		}
		m.byID[o.id] = o.value
		if snapshot := isSnapshot(o.value); len(m.byID) == 1 || !snapshot && !named {
			m.first, named = o.field("name_label").text(), !snapshot
		}
	}
	return m
}

func isSnapshot(vm *value) bool {
	text := vm.field("is_a_snapshot").text()
	return text == "1" || text == "true"
}

// of are the labels for the VM that a drive names: where it names none, there is but one.
func (m *machines) of(id string) (vm, snapshot string) {
	record := m.byID[id]
	switch {
	case record == nil:
		return m.first, ""
	case !isSnapshot(record):
		return record.field("name_label").text(), ""
	}
	snapshot = record.field("name_label").text()
	if whole := m.byID[record.field("snapshot_of").text()]; whole != nil {
		return whole.field("name_label").text(), snapshot
	}
	return "", snapshot
}

// uuidPattern matters for safety: images are named after it.
var uuidPattern = regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)

func newDisk(o object) (Disk, error) {
	d := Disk{ID: o.id, UUID: strings.ToLower(o.field("uuid").text()), Name: o.field("name_label").text()}
	size := o.field("virtual_size").text()
	n, err := strconv.ParseInt(size, 10, 64)
	switch {
	case d.ID == "" || d.ID == ".." || strings.ContainsAny(d.ID, "/\x00"):
		return d, errors.New("its id is no name of a directory")
	case !uuidPattern.MatchString(d.UUID):
		return d, fmt.Errorf("its uuid is %q", d.UUID)
	case err != nil || n <= 0 || n > maxDiskSize || n%sectorSize != 0:
		return d, fmt.Errorf("its virtual_size is %q: want whole sectors of 512 bytes, 1 PiB at most", size)
	}
	d.Size = n
	if used, err := strconv.ParseInt(o.field("physical_utilisation").text(), 10, 64); err == nil && used > 0 {
		d.Used = used
	}
	return d, nil
}
