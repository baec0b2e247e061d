package nfs_test

import (
	"slices"
	"testing"

	"github.com/virt-rotate/virt-rotate/integration/nfs"
	"github.com/virt-rotate/virt-rotate/integration/nfs/inside"
	"github.com/virt-rotate/virt-rotate/internal/blockid"
)

// A LUN has another path on each host, and one name; a partition of it, too. A disk of one host alone is seen by nobody else.
func (s *share) lun() {
	const disk = "wwn:" + nfs.LUN
	_, err := s.hosts[0].Run("sh", "-c", `printf 'o\nn\np\n1\n\n\nw\n' | fdisk /dev/sda`)
	must(s, err)
	_, err = s.hosts[1].Run("sh", "-c", "blockdev --rereadpt /dev/sdb")
	must(s, err)
	var seen [2][]string
	for i, paths := range [][2]string{{"/dev/sda", "/dev/sdb"}, {"/dev/sdb", "/dev/sda"}} {
		h := s.hosts[i]
		for path, name := range map[string]string{paths[0]: disk, paths[0] + "1": disk + "-part1"} {
			var d blockid.Device
			must(s, h.Call("Machine.Device", path, &d))
			if d.Name != name || !slices.Equal(d.On, []string{disk}) {
				s.Errorf("%s, %s: %+v", h.Name, path, d)
			}
		}
		must(s, h.Call("Machine.Visible", inside.None{}, &seen[i]))
	}
	if len(seen[0]) != 2 || len(seen[1]) != 2 || !slices.Contains(seen[0], disk) || !slices.Contains(seen[1], disk) || slices.Equal(seen[0], seen[1]) {
		s.Errorf("the hosts see %q and %q", seen[0], seen[1])
	}
}

func TestALUNHasOneName(t *testing.T) {
	l := newLab(t)
	l.shared(t, ways()[0]).lun()
}
