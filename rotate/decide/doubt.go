package decide

import (
	"fmt"

	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/rotate/observe"
)

// strangeRemedy says what an administrator can do about it.
func strangeRemedy(s *observe.Strange) string {
	if s.Named {
		return "mend it, let it be read, or take it out of the domain that names it"
	}
	if s.Names != "" {
		return "if it is an image of another host on a file of ours, leave it; else mend its backing name (virt-rotate image rebase -u), move it away, or name it in [storage] ignore"
	}
	return "mend it, let it be read, move it away, or name it in [storage] ignore"
}

// doubtOf says that the image may build on the layer at path.
func doubtOf(s *observe.Strange, path string) string {
	return fmt.Sprintf("%s may build on %s: %s", s.Path, path, s.Reason)
}

// doubtAbout returns what could build on layer k of disk, or on the one below it, nil if
// nothing could. The layer below is written to by a merge, the layer itself goes.
func (b *builder) doubtAbout(disk *host.Disk, k int) (*observe.Strange, string) {
	for _, l := range []*host.Layer{&disk.Chain[k-1], &disk.Chain[k]} {
		if s := b.w.StrangeBeside(b.origin(l.Path)); s != nil {
			return s, l.Path
		}
	}
	return nil, ""
}

// doubts refuses the merges that nothing but a doubt about images forbids: what keeps
// it up will not go away by itself. It tells each image once.
func (b *builder) doubts(trial *builder) []Refusal {
	var found []Refusal
	told := map[string]bool{}
	for _, disks := range [][]host.Disk{trial.disks, trial.branches} {
		for i := range disks {
			for k := 1; k < len(disks[i].Chain); k++ {
				why, strange := trial.obstacleAt(&disks[i], k)
				if strange != nil && !told[strange.Path] {
					told[strange.Path] = true
					found = append(found, Refusal{host.CodeDoubt, strange.Path, "merges of layers that it may build on wait: " + why + "; " + strangeRemedy(strange)})
				}
			}
		}
	}
	return found
}
