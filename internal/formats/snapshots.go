package formats

import (
	"fmt"
	"strings"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"github.com/virt-rotate/virt-rotate/qcow2"
)

// changeQcow2 does something to the internal snapshots of an image.
func changeQcow2(f vfs.File, do func(m *qcow2.Image) error) error {
	m, err := qcow2.Open(f, nil)
	if err != nil {
		return err
	}
	if err := m.PrepareSnapshots(); err != nil {
		return err
	}
	return do(m)
}

// A SnapshotName says which internal snapshot is meant: by what it is called, or by
// "snapshot.id=ID,snapshot.name=NAME", one of them or both, as qemu-img convert -l has it.
type SnapshotName struct {
	text     string
	id, name *string
}

// ParseSnapshotName reads one.
func ParseSnapshotName(text string) (SnapshotName, error) {
	n := SnapshotName{text: text}
	if !strings.HasPrefix(text, "snapshot.") {
		return n, nil
	}
	for part := range strings.SplitSeq(text, ",") {
		key, value, _ := strings.Cut(part, "=")
		switch key {
		case "snapshot.id":
			n.id = &value
		case "snapshot.name":
			n.name = &value
		default:
			return n, fmt.Errorf("want snapshot.id=ID, snapshot.name=NAME, or a name, and not %q", part)
		}
	}
	return n, nil
}

// Find returns the place of the snapshot in the list. Of several with one name it is the
// first. Without a name of that kind, byID lets an ID do.
func (n SnapshotName) Find(list []Snapshot, byID bool) (int, error) {
	if n.id != nil || n.name != nil {
		return n.first(list, func(s *Snapshot) bool {
			return (n.id == nil || s.ID == *n.id) && (n.name == nil || s.Name == *n.name)
		})
	}
	named, err := n.first(list, func(s *Snapshot) bool { return s.Name == n.text })
	if !byID {
		return named, err
	}
	id, noID := n.first(list, func(s *Snapshot) bool { return s.ID == n.text })
	switch {
	case err != nil:
		return id, noID
	case noID == nil && list[id].Name != n.text:
		return 0, fmt.Errorf("%q is the name of one snapshot and the ID of another: say snapshot.id=%s or snapshot.name=%s", n.text, n.text, n.text)
	}
	return named, nil
}

func (n SnapshotName) first(list []Snapshot, is func(*Snapshot) bool) (int, error) {
	for i := range list {
		if is(&list[i]) {
			return i, nil
		}
	}
	return 0, fmt.Errorf("it has no internal snapshot %q", n.text)
}
