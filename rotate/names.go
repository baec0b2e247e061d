package rotate

import (
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

// stamp is how a snapshot's name tells its time, in UTC.
const stamp = "20060102T150405Z"

// maxFileName is the longest file name that Linux file systems take, in bytes.
const maxFileName = 255

var overlayName = regexp.MustCompile(`^.+\.[A-Za-z0-9_.-]+-\d{8}T\d{6}Z(_\d+)?\.qcow2$`)

// isOverlay tells whether a path is named as overlayPath names files.
func isOverlay(path string) bool { return overlayName.MatchString(filepath.Base(path)) }

// snapshotOf returns the name of the snapshot with which an overlay came into being, by
// its file name, or "": a stem may have dots, too, so it is what follows the last.
func snapshotOf(path string) string {
	if !isOverlay(path) {
		return ""
	}
	name := strings.TrimSuffix(filepath.Base(path), ".qcow2")
	return name[strings.LastIndex(name, ".")+1:]
}

// mark returns the description of a snapshot that policy's rotation takes.
// Only snapshots with it are ever dropped.
func mark(policy string) string { return markPrefix + policy + ")" }

const markPrefix = "Taken by virt-rotate (policy "

// Ours tells whether virt-rotate took the snapshot.
func (s *Snapshot) Ours() bool {
	return strings.HasPrefix(s.Description, markPrefix) && strings.HasSuffix(s.Description, ")")
}

// overlay returns the path of the file that came into being with s on target, or "".
func (s *Snapshot) overlay(target string) string {
	for i := range s.Disks {
		if s.Disks[i].Target == target {
			return s.Disks[i].Overlay
		}
	}
	return ""
}

// snapshotName returns the first of NAME, NAME_1, NAME_2 … that free accepts.
func snapshotName(policy string, now time.Time, free func(name string) bool) string {
	base := policy + "-" + now.UTC().Format(stamp)
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

// stem returns the disk's own file name, without its extension, from before
// any overlay of ours.
func stem(d *Disk) string {
	own := d.Chain[0]
	for _, l := range d.Chain {
		if !isOverlay(l.Path) {
			own = l
		}
	}
	name := filepath.Base(own.Path)
	for isOverlay(name) { // a pull has left nothing below the overlays
		name = name[:strings.LastIndex(strings.TrimSuffix(name, ".qcow2"), ".")] + ".qcow2"
	}
	if s := generations.ReplaceAllString(strings.TrimSuffix(name, filepath.Ext(name)), ""); s != "" {
		return s
	}
	return name
}

// overlayPath returns where the overlay of snapshot name goes: into dir, or
// beside the active layer when dir is empty.
func overlayPath(d *Disk, stem, dir, name string) string {
	if dir == "" {
		dir = filepath.Dir(d.Active().Path)
	}
	return filepath.Join(dir, stem+"."+name+".qcow2")
}

// layerKey is a file's identity where it is known, else its path.
func layerKey(id vfs.ID, path string) string {
	if id == (vfs.ID{}) {
		return path
	}
	return fmt.Sprintf("%d:%d", id.Dev, id.Ino)
}
