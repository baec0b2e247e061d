package xapi

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// nullRef is the reference to nothing.
const nullRef = "OpaqueRef:NULL"

// A VM is a guest, or with SnapshotOf a snapshot of one.
type VM struct {
	Ref, UUID, Name, Description string
	PowerState                   string // "Halted", "Running", "Paused", "Suspended"
	Snapshot                     bool
	SnapshotOf                   string    // reference
	SnapshotTime                 time.Time // zero: not known
	Template, ControlDomain      bool
	Memory, VCPUs                int64  // bytes; at most
	Firmware                     string // "bios" or "uefi"; "" is not told
	metrics                      string
}

// A VBD is what a VM has a disk by.
type VBD struct {
	Ref, VM, VDI string // references
	Device       string // "0" is the first
	Type         string // "Disk", "CD"
}

// A VDI is a disk, or a snapshot of one.
type VDI struct {
	Ref, UUID, Name, Description string
	SR                           string // reference
	Type                         string // "user", "system", "cbt_metadata", …
	Size, Used                   int64  // virtual, on storage; bytes
	Managed, Missing, ReadOnly   bool
	Snapshot                     bool
	SnapshotOf                   string    // reference
	SnapshotTime                 time.Time // zero: not known
}

// An Inventory is what a pool says of its guests and disks.
type Inventory struct {
	VMs    []*VM // by name, then UUID
	VDIs   []*VDI
	VBDs   []*VBD   // by device
	Odd    []string // what was left out of the above, and why
	starts map[string]string
	vms    map[string]*VM // by reference
	vdis   map[string]*VDI
}

// number is a whole one, which some versions write as a string.
type number int64

// UnmarshalJSON reads both.
func (n *number) UnmarshalJSON(b []byte) error {
	v, err := strconv.ParseInt(strings.Trim(string(b), `"`), 10, 64)
	*n = number(v)
	return err
}

type vmRecord struct {
	UUID          string            `json:"uuid"`
	Name          string            `json:"name_label"`
	Description   string            `json:"name_description"`
	PowerState    string            `json:"power_state"`
	Snapshot      bool              `json:"is_a_snapshot"`
	SnapshotOf    string            `json:"snapshot_of"`
	SnapshotTime  string            `json:"snapshot_time"`
	Template      bool              `json:"is_a_template"`
	ControlDomain bool              `json:"is_control_domain"`
	Memory        number            `json:"memory_static_max"`
	VCPUs         number            `json:"VCPUs_max"`
	Boot          map[string]string `json:"HVM_boot_params"`
	Metrics       string            `json:"metrics"`
}

type vbdRecord struct {
	VM     string `json:"VM"`
	VDI    string `json:"VDI"`
	Device string `json:"userdevice"`
	Type   string `json:"type"`
}

type vdiRecord struct {
	UUID         string `json:"uuid"`
	Name         string `json:"name_label"`
	Description  string `json:"name_description"`
	SR           string `json:"SR"`
	Type         string `json:"type"`
	Size         number `json:"virtual_size"`
	Used         number `json:"physical_utilisation"`
	Managed      bool   `json:"managed"`
	Missing      bool   `json:"missing"`
	ReadOnly     bool   `json:"read_only"`
	Snapshot     bool   `json:"is_a_snapshot"`
	SnapshotOf   string `json:"snapshot_of"`
	SnapshotTime string `json:"snapshot_time"`
}

type metricsRecord struct {
	Start json.RawMessage `json:"start_time"`
}

// Inventory asks for all guests and disks of the pool.
func (c *Client) Inventory(ctx context.Context) (*Inventory, error) {
	var vms map[string]vmRecord
	var vbds map[string]vbdRecord
	var vdis map[string]vdiRecord
	var metrics map[string]metricsRecord
	for _, q := range []struct {
		method string
		result any
	}{{"VM.get_all_records", &vms}, {"VBD.get_all_records", &vbds}, {"VDI.get_all_records", &vdis}, {"VM_metrics.get_all_records", &metrics}} {
		if err := c.read(ctx, q.method, q.result); err != nil {
			return nil, err
		}
	}
	v := &Inventory{starts: map[string]string{}, vms: map[string]*VM{}, vdis: map[string]*VDI{}}
	uses := map[string]int{}
	for _, r := range vms {
		uses[r.UUID]++
	}
	for _, r := range vdis {
		uses[r.UUID]++
	}
	for _, ref := range slices.Sorted(maps.Keys(vms)) {
		v.addVM(ref, vms[ref], uses)
	}
	for _, ref := range slices.Sorted(maps.Keys(vdis)) {
		v.addVDI(ref, vdis[ref], uses)
	}
	for _, ref := range slices.Sorted(maps.Keys(vbds)) {
		b := vbds[ref]
		v.VBDs = append(v.VBDs, &VBD{ref, b.VM, b.VDI, short(b.Device), b.Type})
	}
	for ref, m := range metrics {
		v.starts[ref] = short(string(m.Start))
	}
	v.sort()
	return v, nil
}

// sort gives everything an order that is the same each time.
func (v *Inventory) sort() {
	slices.SortFunc(v.VMs, func(a, b *VM) int { return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.UUID, b.UUID)) })
	slices.SortStableFunc(v.VBDs, func(a, b *VBD) int {
		return cmp.Or(cmp.Compare(len(a.Device), len(b.Device)), cmp.Compare(a.Device, b.Device))
	})
}

// known tells whether a UUID can name a file, and is that of one record only.
func (v *Inventory) known(kind, uuid string, uses map[string]int) bool {
	switch {
	case !uuidish.MatchString(uuid):
		v.Odd = append(v.Odd, fmt.Sprintf("a %s is left out: %q is no UUID", kind, short(uuid)))
	case uses[uuid] > 1:
		v.Odd = append(v.Odd, fmt.Sprintf("a %s is left out: %s is the UUID of %d records", kind, uuid, uses[uuid]))
	default:
		return true
	}
	return false
}

func (v *Inventory) addVM(ref string, r vmRecord, uses map[string]int) {
	if !v.known("VM", r.UUID, uses) {
		return
	}
	m := &VM{Ref: ref, UUID: r.UUID, Name: short(r.Name), Description: short(r.Description), PowerState: short(r.PowerState),
		Snapshot: r.Snapshot, SnapshotOf: r.SnapshotOf, SnapshotTime: timeOf(r.SnapshotTime), Template: r.Template, ControlDomain: r.ControlDomain,
		Memory: int64(r.Memory), VCPUs: int64(r.VCPUs), Firmware: short(r.Boot["firmware"]), metrics: r.Metrics}
	v.VMs, v.vms[ref] = append(v.VMs, m), m
}

func (v *Inventory) addVDI(ref string, r vdiRecord, uses map[string]int) {
	if !v.known("VDI", r.UUID, uses) {
		return
	}
	d := &VDI{Ref: ref, UUID: r.UUID, Name: short(r.Name), Description: short(r.Description), SR: r.SR, Type: r.Type, Size: int64(r.Size), Used: int64(r.Used),
		Managed: r.Managed, Missing: r.Missing, ReadOnly: r.ReadOnly, Snapshot: r.Snapshot, SnapshotOf: r.SnapshotOf, SnapshotTime: timeOf(r.SnapshotTime)}
	v.VDIs, v.vdis[ref] = append(v.VDIs, d), d
}

// timeOf reads a time as xapi writes it; zero if it is none, or that of what is no snapshot.
func timeOf(text string) time.Time {
	t, err := time.Parse("20060102T15:04:05Z", text)
	if err != nil {
		t, err = time.Parse(time.RFC3339, text)
	}
	if err != nil || t.Unix() <= 0 {
		return time.Time{}
	}
	return t.UTC()
}

// Guests are the VMs that somebody would name: no templates, snapshots and control domains.
func (v *Inventory) Guests() []*VM {
	return slices.DeleteFunc(slices.Clone(v.VMs), func(m *VM) bool { return m.Template || m.ControlDomain || m.Snapshot })
}

// Find finds a guest by its UUID, or by its name, which must be that of one only.
func (v *Inventory) Find(name string) (*VM, error) {
	var found []*VM
	for _, m := range v.Guests() {
		if m.UUID == name {
			return m, nil
		}
		if m.Name == name {
			found = append(found, m)
		}
	}
	switch len(found) {
	case 0:
		return nil, fmt.Errorf("%q: no VM of the pool has that name or UUID", name)
	case 1:
		return found[0], nil
	}
	var uuids []string
	for _, m := range found {
		uuids = append(uuids, m.UUID)
	}
	return nil, fmt.Errorf("%q: several VMs have that name: say which by its UUID: %s", name, strings.Join(uuids, ", "))
}
