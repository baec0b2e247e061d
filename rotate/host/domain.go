package host

import "fmt"

// State is a domain's state in libvirt's words.
type State string

// The states that matter here; a domain in any other live state is not touched.
const (
	Running State = "running"
	Paused  State = "paused"
	ShutOff State = "shut off"
)

// Live tells whether a QEMU process runs the domain.
func (s State) Live() bool { return s != ShutOff && s != "" }

// AppArmorLocal is where rules for guests went before libvirt's profiles had a directory for them.
const AppArmorLocal = "/etc/apparmor.d/local/abstractions/libvirt-qemu"

// An OwnPolicy is the element <policy> of a domain's metadata, of the namespace policy.Namespace.
type OwnPolicy struct {
	Name    string // of a policy
	Enabled string // yes or no
	Text    string // keys of a policy, in TOML
	Problem string // why the element could not be read
}

// A Domain is what was seen of one libvirt domain.
type Domain struct {
	Name, UUID   string
	State        State
	Transient    bool // has no persistent configuration
	ManagedSave  bool
	Agent        bool     // a guest agent is connected
	IOError      bool     // paused because a disk is full or broken
	Busy         string   `json:",omitempty"` // what libvirt does with the guest just now, and lets nobody change it meanwhile: a snapshot, a save, a dump, a migration
	Memory       int64    `json:",omitempty"` // bytes that it can have, with that of its video devices
	UEFI         bool     // has UEFI variables (NVRAM)
	OwnNVRAM     bool     `json:",omitempty"` // libvirt has chosen where these are, and does not tell while the guest is off
	HasTPM       bool     `json:",omitempty"` // an emulated one
	Firmware     Firmware `json:",omitzero"`
	AppArmor     bool     // is confined by an AppArmor profile that may deny merges
	AppArmorFile string   `json:",omitempty"` // where rules of the administrator for that go
	Checkpoints  int
	Disks        []Disk
	Snapshots    []Snapshot        // parents before children
	Branches     []Disk            // chains of states that no disk has in its own
	Unknown      []string          // what its configurations name that cannot be told to be a file, in words
	Elsewhere    []string          // further files that its configurations name: disks that it has only after a restart, a saved state's disks
	Volumes      map[string]Volume `json:",omitempty"` // by path, the files that its configurations name as volumes of storage pools
	Own          *OwnPolicy        `json:",omitempty"` // what its metadata says of its policy
	Problem      string            // why the domain could not be read in full
	Faults       []*Fault          // panics while it was read
}

// FrozenSnapshots says why libvirt lets nobody take or change snapshots of a guest that is off and has so many checkpoints.
func FrozenSnapshots(checkpoints int) string {
	return fmt.Sprintf("the guest is shut off and has %s of a backup program: libvirt takes and changes its snapshots only while it runs", Plural(checkpoints, "checkpoint"))
}
