package rotate

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/virt-rotate/virt-rotate/internal/chain"
)

// An image that a guest writes to holds no state, and neither does anything that builds
// on it. Somebody may have merged a whole chain into the image at its base (virsh
// blockcommit --active without --base), or run the template of linked clones: the layers
// of the snapshots are all there then, and show a mixture of old and new blocks.

// A Destroyed snapshot has a state that builds on an image which a guest has written to
// since.
type Destroyed struct {
	Snapshot string    `json:"snapshot"`
	Disk     string    `json:"disk"`
	Layer    string    `json:"layer"` // that held the state
	Base     string    `json:"base"`  // that is written to
	Writer   string    `json:"writer"`
	Since    time.Time `json:"since"` // about then; zero when that is not known
	// Sure tells that the base was written to. Else the domain would write to it if it
	// were started.
	Sure bool `json:"sure"`
}

// Destroyed lists the snapshots of d that are lost in this way, and those that are on
// record as such, in the order in which they were taken.
func (w *World) Destroyed(d *Domain) []Destroyed {
	var found []Destroyed
	for i := range d.Snapshots {
		s := &d.Snapshots[i]
		for _, sd := range s.Disks {
			if x := w.destroyedDisk(d, s, &sd); x != nil {
				found = append(found, *x)
			}
		}
	}
	return found
}

// destroyedDisk is about one disk of a snapshot; nil where it is sound.
func (w *World) destroyedDisk(d *Domain, s *Snapshot, sd *SnapshotDisk) *Destroyed {
	path := stateLayer(d, sd)
	if path == "" || sd.Overlay == "" {
		return nil
	}
	known := slices.IndexFunc(w.Lost[d.UUID], func(x Destroyed) bool { return x.Snapshot == s.Name && x.Disk == sd.Target })
	x := w.writtenBelow(d, path)
	if known >= 0 && (x == nil || !x.Sure) {
		recorded := w.Lost[d.UUID][known] // a copy: the world stays as it is
		x = &recorded
	}
	if x == nil {
		return nil
	}
	x.Snapshot, x.Disk, x.Layer = s.Name, sd.Target, path
	return x
}

// writtenBelow tells of the image, at path or below it, that a disk writes to.
func (w *World) writtenBelow(d *Domain, path string) *Destroyed {
	for l := w.Forest.Find(w.keyOf(d, path)); l != nil; l = l.Parent {
		if !l.Active {
			continue
		}
		if own := diskWith(d, l); own != nil {
			return w.byItself(d, own, l)
		}
		if other, target := w.liveWriter(l); other != nil {
			return &Destroyed{Base: l.Path, Writer: diskKeeper(other.Name, target), Sure: true}
		}
	}
	return nil
}

// diskWith returns the disk of d that writes to the layer, or nil.
func diskWith(d *Domain, l *chain.Layer) *Disk {
	for i := range d.Disks {
		if disk := &d.Disks[i]; !disk.ReadOnly && len(disk.Chain) > 0 && disk.Active().Key() == l.Key {
			return disk
		}
	}
	return nil
}

// liveWriter returns the running domain that writes to the layer, or nil. A template
// that is off is no writer.
func (w *World) liveWriter(l *chain.Layer) (*Domain, string) {
	for i := range w.Domains {
		if d := &w.Domains[i]; d.State.Live() {
			if disk := diskWith(d, l); disk != nil {
				return d, disk.Target
			}
		}
	}
	return nil, ""
}

// byItself tells of a domain whose own disk is what its snapshots build on. The newest
// write to a layer above tells when that came about; if the guest is off, and the image
// is older than that, it has not run since.
func (w *World) byItself(d *Domain, disk *Disk, l *chain.Layer) *Destroyed {
	x := &Destroyed{Base: l.Path, Writer: diskKeeper(d.Name, disk.Target), Sure: true}
	for i := range d.Snapshots {
		for _, sd := range d.Snapshots[i].Disks {
			for _, path := range append(slices.Clone(sd.State), sd.Overlay) {
				if t := w.Written[path]; t.After(x.Since) && buildsOn(w.Forest.Find(w.keyOf(d, path)), l) {
					x.Since = t
				}
			}
		}
	}
	if !d.State.Live() {
		x.Sure = !w.Written[l.Path].IsZero() && !w.Written[l.Path].Before(x.Since)
	}
	return x
}

// buildsOn tells whether layer l is above base.
func buildsOn(l, base *chain.Layer) bool {
	for l != nil && l != base {
		l = l.Parent
		if l == base {
			return true
		}
	}
	return false
}

// String says what has happened to the snapshot.
func (x *Destroyed) String() string {
	since := ""
	if !x.Since.IsZero() {
		since = " since about " + x.Since.Local().Format("2006-01-02 15:04:05")
	}
	if !x.Sure {
		return fmt.Sprintf("%s is what %s writes to, and the state of %s builds on it: a start of the guest would destroy that, if it has not done so yet", x.Base, x.Writer, x.Snapshot)
	}
	return fmt.Sprintf("the state of %s is lost%s: %s writes to %s, on which it builds", x.Snapshot, since, x.Writer, x.Base)
}

// checkDestroyed refuses a domain with snapshots that are lost, and one whose disk builds
// on what another guest writes to: a snapshot on top would be worth nothing.
func (b *builder) checkDestroyed() {
	by := map[string][]string{}
	var first []Destroyed
	for _, x := range b.w.Destroyed(b.d) {
		if by[x.Base] == nil {
			first = append(first, x)
		}
		if !slices.Contains(by[x.Base], x.Snapshot) {
			by[x.Base] = append(by[x.Base], x.Snapshot)
		}
	}
	for i := range first {
		b.refuse(CodeDestroyed, first[i].Base, destroyedText(&first[i], b.d.Name, by[first[i].Base]))
	}
	if len(first) == 0 {
		b.checkBases()
	}
}

func destroyedText(x *Destroyed, domain string, snapshots []string) string {
	text := x.String()
	if n := len(snapshots); n > 1 {
		text = fmt.Sprintf("%s; so it is with %s: %s", text, plural(n, "snapshot"), strings.Join(snapshots, ", "))
	}
	if !x.Sure {
		text += "; if the guest has not run since, put the newest layer back as its disk (virsh edit)"
	}
	return text + ". All files are kept, and none is handed out; to go on without these snapshots: " + forgetCommand(domain, snapshots...)
}

// forgetCommand gives up snapshots of a domain.
func forgetCommand(domain string, snapshots ...string) string {
	text := "virt-rotate doctor"
	for _, s := range snapshots {
		text += " --forget " + quoted(s)
	}
	return text + " " + quoted(domain)
}

// checkBases refuses a disk that builds on what another running guest writes to.
func (b *builder) checkBases() {
	for i := range b.disks {
		disk := &b.disks[i]
		if !b.covers(disk) {
			continue
		}
		for k := range max(len(disk.Chain)-1, 0) {
			l := b.forest.Find(disk.Chain[k].Key())
			if l == nil || !l.Active {
				continue
			}
			if other, target := b.w.liveWriter(l); other != nil && other.Name != b.d.Name {
				b.refuse(CodeDestroyed, l.Path, fmt.Sprintf("%s writes to it, and %s of this domain builds on it: what is on that disk is damaged, and a snapshot would be, too; stop %s, and never start it writable while others build on its image",
					diskKeeper(other.Name, target), disk.Target, other.Name))
				break
			}
		}
	}
}

// Intact is an error if a state of the snapshot is destroyed, or if it is not certain where
// it is: it must not be handed out.
func Intact(w *World, d *Domain, snapshot string) error {
	for _, x := range w.Destroyed(d) {
		if x.Snapshot == snapshot {
			return &DestroyedError{x, d.Name}
		}
	}
	if why := doctorsBuilder(w, d).doubtful(d.Snapshot(snapshot)); why != "" && !w.Remote {
		return &chain.RefusedError{Path: snapshot, Reason: "where its state is, is not certain: " + why + "; virt-rotate doctor " + quoted(d.Name) + " tells more"}
	}
	return nil
}

// A DestroyedError says that a snapshot's state is lost.
type DestroyedError struct {
	Destroyed
	Domain string
}

func (e *DestroyedError) Error() string {
	return destroyedText(&e.Destroyed, e.Domain, []string{e.Snapshot})
}
