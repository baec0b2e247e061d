package nfs_test

import (
	"slices"
	"testing"

	"github.com/virt-rotate/virt-rotate/integration/nfs"
	"github.com/virt-rotate/virt-rotate/integration/nfs/inside"
	"github.com/virt-rotate/virt-rotate/internal/blockid"
)

// A LUN may have another path on each host, and has one name; a partition of it, too. A disk of one host alone is seen by nobody else.
func (s *share) lun() {
	const disk = "wwn:" + nfs.LUN
	var seen [2][]string
	for i, h := range s.hosts {
		path := s.pathOf(h, disk)
		s.Logf("%s has it as %s", h.Name, path)
		if i == 0 {
			_, err := h.Run("sh", "-c", `printf 'o\nn\np\n1\n\n\nw\n' | fdisk `+path)
			must(s, err)
		} else { // it has seen the disk without the partition
			_, err := h.Run("blockdev", "--rereadpt", path)
			must(s, err)
		}
		var part blockid.Device
		must(s, h.Call("Machine.Device", path+"1", &part))
		if part.Name != disk+"-part1" || !slices.Equal(part.On, []string{disk}) {
			s.Errorf("%s, partition: %+v", h.Name, part)
		}
		must(s, h.Call("Machine.Visible", inside.None{}, &seen[i]))
	}
	if len(seen[0]) != 2 || len(seen[1]) != 2 || !slices.Contains(seen[0], disk) || !slices.Contains(seen[1], disk) || slices.Equal(seen[0], seen[1]) {
		s.Errorf("the hosts see %q and %q", seen[0], seen[1])
	}
}

// pathOf is where a host has the disk of that name.
func (s *share) pathOf(h *nfs.Machine, name string) string {
	s.Helper()
	for _, path := range []string{"/dev/sda", "/dev/sdb"} {
		var d blockid.Device
		must(s, h.Call("Machine.Device", path, &d))
		if d.Name == name && slices.Equal(d.On, []string{name}) {
			return path
		}
	}
	s.Fatalf("%s does not see %s", h.Name, name)
	return ""
}

func TestALUNHasOneName(t *testing.T) {
	l := newLab(t)
	l.shared(t, ways()[0]).lun()
}
