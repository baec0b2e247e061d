package decide

import (
	"fmt"

	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/rotate/observe"
)

// On storage that other hosts have, too, what these have told decides with: whose a guest is,
// and which layers theirs use. Those are kept as any other are; here is what is not known.

// checkOwner refuses a guest that is another host's.
func (b *builder) checkOwner() {
	if v := b.w.Whose[b.d.UUID]; v.Why != "" {
		b.refuse(host.CodeElsewhere, "", v.Why+"; "+v.Remedy)
	}
}

// checkHosts refuses a merge on a storage of which it is not known what other hosts use.
func (b *builder) checkHosts(m *Merge) *Refusal {
	for _, l := range append([]host.Layer{m.Base, m.Top}, m.Gone...) {
		if s := shareInDoubt(b.w, b.origin(l.Path)); s != nil {
			return &Refusal{hostsCode(s), l.Path, fmt.Sprintf("nothing is merged on %s: %s; %s", s.Dir, s.Problem, s.Remedy)}
		}
	}
	return nil
}

// shareInDoubt is a storage that the layer lies on of which it is not known what other hosts use
// there; nil for none.
func shareInDoubt(w *observe.World, path string) *observe.Share {
	for _, i := range w.OnShares[path] {
		s := &w.Shares[i]
		if s.Problem != "" && (!s.Locks || s.Unheard || !w.IsDevice(path)) { // locks on files are no block device's
			return s
		}
	}
	return nil
}

func hostsCode(s *observe.Share) string {
	if s.Locks {
		return host.CodeLocalLocks
	}
	return host.CodeHosts
}

// sharesInDoubt tells of storages on which nothing can be merged, where nothing else does: a
// merge may not be due.
func sharesInDoubt(w *observe.World) []Finding {
	var found []Finding
	for i := range w.Shares {
		s := &w.Shares[i]
		if s.Problem != "" {
			found = append(found, Finding{Code: hostsCode(s), Path: s.Dir, Detail: "nothing is merged there: " + s.Problem, Remedy: s.Remedy})
		}
	}
	return found
}
