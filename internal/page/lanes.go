package page

import (
	"fmt"
	"slices"

	"github.com/virt-rotate/virt-rotate/rotate/host"
)

// A row is a layer in the drawing of a tree: one below the other, base first. Who builds on a layer
// stands below it; the last of them goes on in its lane, the others in one further right.
type row struct {
	*Layer
	Lane    int   // from 0
	From    int   // its parent's; -1 for a base
	Through []int // lanes of others whose lines go past
	Width   string
	Where   Text   // its path, where that is told
	Kind    string // format and virtual size, where they are told
}

// Geometry of lanes, in pixels of the screen.
const (
	laneWidth = 16
	nodeAt    = 15 // from the top of a row
	mostLanes = 12 // the others share the last one
)

// rows lists the layers of a tree. Bars are as wide as the share of the largest layer. In brief,
// what follows from the directory and the base is not told of each.
func rows(root *Layer, largest int64, brief bool) []row {
	all := descend(nil, root, 0, -1, nil)
	for i := range all {
		r := &all[i]
		r.Width = num(100*share(r.Allocated, largest)) + "%"
		if !brief || r.Label != "" || r.dir() != root.dir() {
			r.Where = r.Path
		}
		if kind := r.kind(); !brief || i == 0 || kind != root.kind() {
			r.Kind = kind
		}
	}
	return all
}

// kind is what sort of image it is.
func (l *Layer) kind() string {
	switch {
	case l.VirtualSize == 0:
		return l.Format.String()
	case l.Format == "":
		return host.Bytes(l.VirtualSize) + " virtual"
	}
	return l.Format.String() + ", " + host.Bytes(l.VirtualSize) + " virtual"
}

// dir is where the layer is, with the last slash.
func (l *Layer) dir() Text { return l.Path[:len(l.Path)-len(l.Path.Base())] }

func descend(all []row, l *Layer, lane, from int, through []int) []row {
	all = append(all, row{Layer: l, Lane: lane, From: from, Through: through})
	last := len(l.Children) - 1
	for i := range l.Children {
		if i == last {
			return descend(all, &l.Children[i], lane, lane, through)
		}
		all = descend(all, &l.Children[i], min(lane+1, mostLanes-1), lane, append(slices.Clone(through), lane))
	}
	return all
}

// lanes is how many a tree needs.
func lanes(rows []row) int {
	n := 0
	for i := range rows {
		n = max(n, rows[i].Lane)
	}
	return n + 1
}

func laneX(lane int) int { return lane*laneWidth + laneWidth/2 }

// Passing are the lanes that go past the row from top to bottom.
func (r *row) Passing() []int {
	var at []int
	for _, lane := range r.Through {
		if x := laneX(lane); lane != r.Lane && !slices.Contains(at, x) {
			at = append(at, x)
		}
	}
	if r.straight() && r.below() {
		at = append(at, r.X())
	}
	return at
}

// X is where the row's own lane is.
func (r *row) X() int { return laneX(r.Lane) }

// straight tells whether the line to what it builds on goes straight up.
func (r *row) straight() bool { return r.From == r.Lane }

// below tells whether something builds on it.
func (r *row) below() bool { return len(r.Children) > 0 }

// Up tells whether a line ends in the row's node, from above.
func (r *row) Up() bool { return r.straight() && !r.below() }

// Down tells whether one begins there, and none ends.
func (r *row) Down() bool { return !r.straight() && r.below() }

// Bend is the way from the lane of what it builds on, if that is another one; else "".
func (r *row) Bend() string {
	if r.From < 0 || r.straight() {
		return ""
	}
	return fmt.Sprintf("M%d 0Q%d %d %d %d", laneX(r.From), laneX(r.From), nodeAt, r.X(), nodeAt)
}

// Shape is the node's symbol, and the class of its colour.
func (l *Layer) Shape() string {
	switch {
	case l.Wrong:
		return "wrong"
	case l.Mark == Active && !l.Foreign:
		return "active"
	case l.Mark == Merges, l.Mark == Gone:
		return "free"
	case l.Foreign:
		return "foreign"
	case l.Branch:
		return "branch"
	case l.Shared:
		return "shared"
	}
	return "kept"
}

// Words are what is said of the layer beside its name.
func (l *Layer) Words() []string {
	var words []string
	for _, w := range []struct {
		is   bool
		word string
	}{
		{l.Wrong, "damaged"}, {l.Mark == Active, "active"}, {l.Mark == Kept, "kept"}, {l.Mark == Merges, "free"}, {l.Mark == Gone, "garbage"},
		{l.Shared, "shared"}, {l.Branch, "branch"}, {l.Foreign, "foreign"},
	} {
		if w.is {
			words = append(words, w.word)
		}
	}
	return words
}

// Name is what people call it.
func (l *Layer) Name() Text {
	if l.Label != "" {
		return l.Label
	}
	return l.Path.Base()
}

// largest is the most bytes that a layer of the trees has.
func largest(trees []Layer) (most int64) {
	for i := range trees {
		most = max(most, trees[i].Allocated, largest(trees[i].Children))
	}
	return most
}

// count is how many layers the trees have.
func count(trees []Layer) int {
	n := len(trees)
	for i := range trees {
		n += count(trees[i].Children)
	}
	return n
}
