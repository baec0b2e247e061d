package vhdbridge

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
)

// managementName is the logical volume in which a repository keeps what its VDIs are called.
const managementName = "MGT"

// Layout of the management volume, as the storage manager's srmetadata.py writes it: sectors,
// filled up with blanks. The first has the mark and the length of all, the next three are
// about the repository, then two follow for each VDI, with one text of XML over both.
const (
	managementSector = 512
	managementMark   = "XSSM:"
	firstVDI         = 4        // sector
	mostManagement   = 64 << 20 // bytes
)

// A Management is what the management volume of a repository on logical volumes tells.
type Management struct {
	UUID, Name, Description string
	VDIs                    map[string]VDI // by UUID
}

// A VDI is what a pool, or a repository, says of a disk.
type VDI struct {
	UUID, Name, Description string
	// Managed tells that it is one of the administrator's: inner nodes are none.
	Managed      bool
	Snapshot     bool
	SnapshotOf   string    // UUID of the VDI whose snapshot it is, where it is known
	SnapshotTime time.Time // zero: not known
	ReadOnly     bool
	// VM is the name of the guest whose disk it is, Device which one: 0 for the first. Of a
	// snapshot, the name is that of the guest's snapshot. "": not known.
	VM, Device string
	Guest      Owner
}

// An Owner is the VM that has a disk, or of whose snapshot it is.
type Owner struct {
	UUID, Name string // of the VM itself; "": not known
	// Snapshot is the UUID of the VM's snapshot that has it, "" if that is none.
	Snapshot, SnapshotName string
}

// ReadManagement reads a management volume. What of it cannot be read is left out, and told
// by the error, beside what could be.
func ReadManagement(r io.ReaderAt, size int64) (*Management, error) {
	head := make([]byte, firstVDI*managementSector)
	if _, err := r.ReadAt(head, 0); err != nil {
		return nil, fmt.Errorf("%s: %w", managementName, err)
	}
	length, err := managementLength(head, size)
	if err != nil {
		return nil, err
	}
	data := make([]byte, length)
	if _, err := r.ReadAt(data, 0); err != nil {
		return nil, fmt.Errorf("%s: %w", managementName, err)
	}
	m := &Management{VDIs: map[string]VDI{}}
	return m, m.read(data)
}

// managementLength is the length that the first sector tells.
func managementLength(head []byte, size int64) (int64, error) {
	if !bytes.HasPrefix(head, []byte(managementMark)) {
		return 0, fmt.Errorf("%s: it does not begin with %s", managementName, managementMark)
	}
	text, _, _ := strings.Cut(string(head[len(managementMark):managementSector]), ":")
	n, err := strconv.ParseInt(strings.TrimSpace(text), 10, 64)
	if err != nil || n < firstVDI*managementSector || n > min(size, mostManagement) {
		return 0, fmt.Errorf("%s: it says that %q bytes of it are used: it has %d", managementName, strings.TrimSpace(text), size)
	}
	return n, nil
}

// managementEntry is the XML of a repository or a VDI.
type managementEntry struct {
	UUID         string `xml:"uuid"`
	Name         string `xml:"name_label"`
	Description  string `xml:"name_description"`
	Snapshot     string `xml:"is_a_snapshot"`
	SnapshotOf   string `xml:"snapshot_of"`
	SnapshotTime string `xml:"snapshot_time"`
	Managed      string `xml:"managed"`
	ReadOnly     string `xml:"read_only"`
	Deleted      string `xml:"deleted"`
}

func (m *Management) read(data []byte) error {
	var own managementEntry
	if err := own.parse("<sr>" + withoutProlog(string(data[managementSector:firstVDI*managementSector])) + "</sr>"); err != nil {
		return fmt.Errorf("%s, sector 1: %w", managementName, err)
	}
	m.UUID, m.Name, m.Description = own.UUID, own.Name, own.Description
	var errs []error
	for at := firstVDI * managementSector; at+2*managementSector <= len(data); at += 2 * managementSector {
		var e managementEntry
		if err := e.parse(string(data[at : at+2*managementSector])); err != nil {
			errs = append(errs, fmt.Errorf("%s, sector %d: %w", managementName, at/managementSector, err))
			continue
		}
		if e.Deleted != "1" {
			m.VDIs[e.UUID] = e.vdi()
		}
	}
	return errors.Join(errs...)
}

// withoutProlog leaves out the XML declaration, which stands in the midst.
func withoutProlog(text string) string {
	_, rest, found := strings.Cut(text, "?>")
	if !found {
		return text
	}
	return rest
}

func (e *managementEntry) parse(text string) error {
	return xml.Unmarshal([]byte(strings.TrimRight(text, " \x00")), e)
}

func (e *managementEntry) vdi() VDI {
	v := VDI{UUID: e.UUID, Name: e.Name, Description: e.Description, Managed: e.Managed == "1",
		Snapshot: e.Snapshot == "1", SnapshotOf: e.SnapshotOf, ReadOnly: e.ReadOnly == "1"}
	v.SnapshotTime, _ = PoolTime(e.SnapshotTime) // left out where it is not known
	return v
}

// PoolTime reads a time as xapi writes it, with dashes or without.
func PoolTime(text string) (time.Time, error) {
	t, err := time.Parse("20060102T15:04:05Z", text)
	if err != nil {
		t, err = time.Parse(time.RFC3339, text)
	}
	if t.Unix() <= 0 {
		return time.Time{}, err
	}
	return t, err
}

// Management reads the management volume of the group, if there is one.
func (v *Volumes) Management() (*Management, error) {
	for _, lv := range v.Group.Volumes {
		if lv.Name == managementName {
			return ReadManagement(lv, lv.Size)
		}
	}
	return nil, nil
}

// Name tells the repository what its VDIs are called, by UUID.
func (r *Repository) Name(vdis map[string]VDI) {
	for _, n := range r.Nodes {
		if v, known := vdis[n.VDI]; known {
			n.Known = &v
		}
	}
}

// called is what somebody who looks at the tree wants to know of a VDI.
func (n *Node) called() string {
	if text := n.Called(); text != "" {
		return "  " + text
	}
	return ""
}

// Called is what a VDI is called, and whose it is, each name in quotes; "": it is not known.
// Inner nodes have no names of their own.
func (n *Node) Called() string {
	if n.Known == nil || n.Hidden || n.Known.Name == "" && n.Known.VM == "" {
		return ""
	}
	text := fmt.Sprintf("%q", n.Known.Name)
	if n.Known.VM != "" {
		text += fmt.Sprintf(", disk %s of %q", n.Known.Device, n.Known.VM)
	}
	if n.Known.Snapshot {
		text += ", snapshot"
		if !n.Known.SnapshotTime.IsZero() {
			text += " of " + n.Known.SnapshotTime.Format("2006-01-02 15:04") + " UTC"
		}
	}
	return text
}
