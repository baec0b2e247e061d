package vhdbridge

import (
	"cmp"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/virt-rotate/virt-rotate/internal/chain"
)

// mostNameBytes is how much of one name goes into that of a file: with a guest's, a
// snapshot's, two UUIDs' beginnings and what rotation adds it stays below 255.
const mostNameBytes = 60

// FileName is what of a name that others have chosen can be in the name of a file: letters,
// digits and marks of any script, - and _; with dots, these, too. Names with dots at the end
// could look like layers of rotation, so only what is followed by more may have them.
func FileName(name string, dots bool) string {
	last := rune(-1)
	safe := strings.Map(func(r rune) rune {
		switch {
		case r == utf8.RuneError:
			r = '-'
		case unicode.IsLetter(r), unicode.IsDigit(r), unicode.IsMark(r), r == '_', dots && r == '.':
		default:
			r = '-'
		}
		if r == '-' && last == '-' {
			return -1
		}
		last = r
		return r
	}, name)
	safe = strings.TrimLeft(safe, "-._")
	for len(safe) > mostNameBytes {
		_, n := utf8.DecodeLastRuneInString(safe)
		safe = safe[:len(safe)-n]
	}
	return strings.TrimRight(safe, "-._")
}

var shortNumber = regexp.MustCompile(`^[0-9]{1,4}$`)

// DiskName is the file name, without extension, of a guest's disk: NAME-diskN. Without a
// name, or a number, it is "".
func DiskName(guest, device string) string {
	if guest = FileName(guest, true); guest == "" || !shortNumber.MatchString(device) {
		return ""
	}
	return guest + "-disk" + device
}

// Stems are the file names, without extensions, that layers get by what is known of their
// VDIs: GUEST-diskN of a disk, GUEST-diskN@SNAPSHOT of a snapshot of it, GUEST-diskN-base-ID
// of what only they build on. All others keep their UUIDs. No two are the same, also where
// case does not count. It is nil where nothing is known.
func (r *Repository) Stems() map[*Node]string {
	s := &stems{r: r, of: map[*Node]string{}, taken: map[string]*Node{}, guests: map[string]string{}}
	known := false
	for _, n := range r.Nodes {
		s.taken[strings.ToLower(n.VDI)] = n
		if n.Known != nil {
			known = true
			s.meet(n.Known.Guest)
		}
	}
	if !known {
		return nil
	}
	for _, n := range s.inOrder() {
		s.give(n, s.called(n))
	}
	for _, n := range r.Nodes {
		if n.Hidden {
			s.give(n, s.below(n))
		}
	}
	return s.of
}

type stems struct {
	r      *Repository
	of     map[*Node]string
	taken  map[string]*Node  // by name in lower case
	guests map[string]string // the UUID of the guest, by file name; "" if several have it
}

func (s *stems) meet(o Owner) {
	if o.UUID == "" {
		return
	}
	name := strings.ToLower(FileName(o.Name, true))
	if other, met := s.guests[name]; met && other != o.UUID {
		s.guests[name] = ""
		return
	}
	s.guests[name] = o.UUID
}

// inOrder are the visible nodes, disks before snapshots: those have the first choice.
func (s *stems) inOrder() (nodes []*Node) {
	for _, n := range s.r.Nodes {
		if !n.Hidden && n.Known != nil {
			nodes = append(nodes, n)
		}
	}
	slices.SortStableFunc(nodes, func(a, b *Node) int { return cmp.Compare(rankOf(a), rankOf(b)) })
	return nodes
}

func rankOf(n *Node) int {
	if n.Known.Snapshot {
		return 1
	}
	return 0
}

// called is what a visible node is to be called; "": nothing is known.
func (s *stems) called(n *Node) string {
	name := s.disk(n)
	if name == "" {
		name = FileName(n.Known.Name, false)
	}
	if name == "" || !n.Known.Snapshot {
		return name
	}
	of := FileName(n.Known.Guest.SnapshotName, false)
	if of == "" && !n.Known.SnapshotTime.IsZero() {
		of = n.Known.SnapshotTime.UTC().Format("2006-01-02T1504Z")
	}
	return name + "@" + cmp.Or(of, "snapshot")
}

// disk is the name of the disk that a visible node is, or is a snapshot of.
func (s *stems) disk(n *Node) string {
	o := n.Known.Guest
	guest := cmp.Or(o.Name, n.Known.VM)
	if n.Known.Snapshot && o.Name == "" {
		guest = ""
	}
	name := DiskName(guest, n.Known.Device)
	if uuid, met := s.guests[strings.ToLower(FileName(guest, true))]; name != "" && met && uuid == "" && o.UUID != "" {
		name = DiskName(FileName(guest, true)+"-"+short(o.UUID), n.Known.Device)
	}
	return name
}

// below is what a hidden node is to be called: where all that needs it is one disk with its
// snapshots, like that.
func (s *stems) below(n *Node) string {
	disks := map[string]bool{}
	s.above(n.layer, func(n *Node) {
		name := ""
		if n.Known != nil {
			name = s.disk(n)
		}
		disks[name] = true
	})
	for name := range disks {
		if len(disks) == 1 && name != "" {
			return name + "-base-" + short(n.VDI)
		}
	}
	return ""
}

// above tells of all visible nodes that build on a layer.
func (s *stems) above(l *chain.Layer, tell func(*Node)) {
	for _, c := range l.Children {
		if n := s.r.node(c); !n.Hidden {
			tell(n)
		}
		s.above(c, tell)
	}
}

// give lets a node have the name, or one like it that is free.
func (s *stems) give(n *Node, name string) {
	for _, try := range []string{name, name + "-" + short(n.VDI), name + "-" + FileName(n.VDI, false)} {
		key := strings.ToLower(try)
		if other, there := s.taken[key]; name != "" && (!there || other == n) {
			s.taken[key], s.of[n] = n, try
			return
		}
	}
}

// short is the beginning of a UUID, as trees show it.
func short(uuid string) string {
	name := FileName(uuid, false)
	if len(name) > 8 {
		name = strings.ToValidUTF8(name[:8], "")
	}
	return name
}
