package decide

import (
	"fmt"
	"path/filepath"
	"regexp"
	"sync"
	"time"

	"github.com/virt-rotate/virt-rotate/rotate/host"
)

// policyName is what names of snapshots and overlays may begin with.
var policyName = regexp.MustCompile(`^[A-Za-z0-9_.-]+$`)

// IsPolicyName tells whether a policy may have that name.
func IsPolicyName(name string) bool { return policyName.MatchString(name) }

// Adopted is the name and the description of a snapshot that another system took at that
// time and that rotation is to treat as its own: retention counts it, and drops it in
// its turn. Note is what people are to read of it. Free tells whether a name is not in use.
func Adopted(policy, note string, taken time.Time, free func(name string) bool) (name, description string) {
	return snapshotName(policy, taken, free), host.Mark{Policy: policy, Note: note}.String()
}

// LongestName is how many letters a snapshot's name may have that a person gives: its overlays
// are called by it, after the disk.
const LongestName = 100

var number = regexp.MustCompile(`^[0-9.-]+$`)

// IsSnapshotName tells whether a person may give a snapshot that name: one that host.Domain.Meant
// does not take for something else.
func IsSnapshotName(name string) bool {
	switch name {
	case "latest", "oldest", "today", "yesterday", "now":
		return false
	}
	return IsPolicyName(name) && len(name) <= LongestName && name[0] != '-' && name[0] != '.' && !number.MatchString(name)
}

// maxFileName is the longest file name that Linux file systems take, in bytes.
const maxFileName = 255

// snapshotName returns the first of NAME, NAME_1, NAME_2 … that free accepts.
func snapshotName(policy string, now time.Time, free func(name string) bool) string {
	base := policy + "-" + now.UTC().Format(host.Stamp)
	name := base
	for n := 1; !free(name); n++ {
		name = fmt.Sprintf("%s_%d", base, n)
	}
	return name
}

// Reservations are the overlay paths that the domains of one run will create.
// Several goroutines may use them.
type Reservations struct {
	mu sync.Mutex        // guards by
	by map[string]string // path → domain
}

// claim takes the paths for a domain; it takes none, and returns false, if
// another domain has one of them. A nil Reservations has room for everybody.
func (r *Reservations) claim(domain string, paths []string) bool {
	if r == nil {
		return true
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, path := range paths {
		if by, taken := r.by[path]; taken && by != domain {
			return false
		}
	}
	if r.by == nil {
		r.by = map[string]string{}
	}
	for _, path := range paths {
		r.by[path] = domain
	}
	return true
}

// overlayPath returns where the overlay of snapshot name goes: into dir, or
// beside the active layer when dir is empty.
func overlayPath(d *host.Disk, stem, dir, name string) string {
	if dir == "" {
		dir = filepath.Dir(d.Active().Path)
	}
	return filepath.Join(dir, stem+"."+name+".qcow2")
}
