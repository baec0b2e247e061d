package guests

import (
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/cli/session"
	"github.com/virt-rotate/virt-rotate/internal/cli/term"
	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"github.com/virt-rotate/virt-rotate/rotate/decide"
	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/rotate/observe"
)

// treeReport is the JSON of tree.
type treeReport struct {
	Trees []treeNode `json:"trees"`
}

// A treeNode is one layer with all that build on it. Sizes are bytes.
type treeNode struct {
	Path        string     `json:"path"`
	Format      string     `json:"format,omitempty"`
	VirtualSize int64      `json:"virtual-size,omitempty"`
	Allocated   int64      `json:"allocated"`
	Mark        string     `json:"mark"` // active, kept, coalesceable, garbage, or "" for a layer whose children go on
	Keepers     []string   `json:"keepers"`
	Notes       []string   `json:"notes,omitempty"` // what people said of the snapshots that keep it
	Since       string     `json:"since,omitempty"` // how the layer came about that a guest writes to, if it went back to a snapshot
	Children    []treeNode `json:"children"`
}

func treeCommand(e *term.Env) *cli.Command {
	return &cli.Command{
		Name: "tree", Usage: "draw the forest of layers, with marks and sizes",
		ArgsUsage: "[DOMAIN|PATH…]", Flags: []cli.Flag{term.OutputFlag(),
			&cli.StringFlag{Name: "who", Usage: "tell who uses `FILE`, under whatever name: disks, snapshots, saved states, images that build on it"}}, OnUsageError: term.UsageError,
		Description: "Marks: active – a disk writes to it; kept – somebody needs its content;\n" +
			"coalesceable – nobody does, and one layer builds on it; garbage – nobody and nothing.\n\n" + term.ExitHelp,
		Action: func(c *cli.Context) error {
			if err := term.CheckOutput(c); err != nil {
				return err
			}
			return session.WithLook(e, true, func(l *session.Look) error {
				w, err := l.Observer.Observe(c.Context)
				if err != nil {
					return err
				}
				if c.IsSet("who") {
					return tellUsers(e, c, w, c.String("who"))
				}
				report, err := newTreeReport(w, c.Args().Slice())
				if err != nil {
					return err
				}
				return e.Print(c, report, func(out io.Writer) { treeText(out, report) })
			})
		},
	}
}

func newTreeReport(w *observe.World, names []string) (*treeReport, error) {
	roots, err := chosenRoots(w, names)
	if err != nil {
		return nil, err
	}
	facts := map[string]host.Layer{}
	for i := range w.Domains {
		for j := range w.Domains[i].Disks {
			for _, l := range w.Domains[i].Disks[j].Chain {
				facts[l.Key()] = l
			}
		}
	}
	report := &treeReport{[]treeNode{}}
	for _, r := range roots {
		report.Trees = append(report.Trees, newTreeNode(w, r, facts))
	}
	return report, nil
}

// chosenRoots returns the roots of the trees that hold the named domains' or paths' layers.
func chosenRoots(w *observe.World, names []string) ([]*chain.Layer, error) {
	if len(names) == 0 {
		return w.Forest.Roots(), nil
	}
	var roots []*chain.Layer
	for _, name := range names {
		layers := layersOf(w, name)
		if len(layers) == 0 {
			return nil, term.Usagef("%s: neither a domain nor a layer that this host knows%s", name, w.DidYouMean(name))
		}
		for _, l := range layers {
			for l.Parent != nil {
				l = l.Parent
			}
			if !slices.Contains(roots, l) {
				roots = append(roots, l)
			}
		}
	}
	return roots, nil
}

// layersOf returns the layers of the domains that name is of, or the one at a path.
func layersOf(w *observe.World, name string) []*chain.Layer {
	var layers []*chain.Layer
	if domains, err := decide.Domains(w, []string{name}); err == nil {
		for _, domain := range domains {
			layers = append(layers, domainLayers(w, w.Domain(domain))...)
		}
		return layers
	}
	path, err := filepath.Abs(name)
	if err != nil {
		return nil
	}
	for _, l := range w.Forest.Layers() {
		if l.Path == path {
			layers = append(layers, l)
		}
	}
	return layers
}

func domainLayers(w *observe.World, d *host.Domain) []*chain.Layer {
	var layers []*chain.Layer
	for i := range d.Disks {
		for j := range d.Disks[i].Chain {
			layers = append(layers, w.Forest.Find(d.Disks[i].Chain[j].Key()))
		}
	}
	return layers
}

func newTreeNode(w *observe.World, l *chain.Layer, facts map[string]host.Layer) treeNode {
	n := treeNode{Path: l.Path, Mark: markOf(l), Keepers: l.Keepers, Children: []treeNode{}}
	if n.Keepers == nil {
		n.Keepers = []string{}
	}
	if f, ok := facts[l.Key]; ok {
		n.Format, n.VirtualSize, n.Allocated = f.Format, f.Size, f.Allocated
	} else if info, err := vfs.Stat(l.Path); err == nil && !w.Remote {
		n.Allocated = info.Allocated
	}
	n.Notes = notesOf(w, l)
	for i := range w.Domains {
		if d := &w.Domains[i]; l.Active {
			if s := d.SinceWentBack(l.Path); s != nil {
				n.Since = d.Name + " went back to " + s.Name
			}
		}
	}
	for _, c := range l.Children {
		n.Children = append(n.Children, newTreeNode(w, c, facts))
	}
	return n
}

// notesOf tells of the snapshots that keep a layer what people said of them.
func notesOf(w *observe.World, l *chain.Layer) (notes []string) {
	for i := range w.Domains {
		d := &w.Domains[i]
		for k := range d.Snapshots {
			s := &d.Snapshots[k]
			if text := noteOf(w, s); text != "" && slices.Contains(l.Keepers, observe.SnapshotKeeper(d.Name, s.Name)) {
				notes = append(notes, s.Name+": "+text)
			}
		}
	}
	return notes
}

// noteOf is what a person said of the snapshot, and that it has the guest's memory.
func noteOf(w *observe.World, s *host.Snapshot) string {
	var texts []string
	if m, ours := s.Mark(); ours && (m.Pinned || m.Note != "" || !m.Expires.IsZero()) {
		texts = append(texts, describedText(m))
	}
	if s.Memory != "" {
		texts = append(texts, "memory in "+filepath.Base(s.Memory)+" ("+host.Bytes(w.Left[s.Memory].Allocated)+")")
	}
	return strings.Join(texts, ", ")
}

func markOf(l *chain.Layer) string {
	switch {
	case l.Active:
		return "active"
	case l.Kept():
		return "kept"
	case l.Garbage():
		return "garbage"
	case l.Coalesceable(), len(l.Children) == 1 && l.Children[0].LeafCoalesceable():
		return "coalesceable"
	}
	return ""
}

func treeText(w io.Writer, report *treeReport) {
	for i := range report.Trees {
		if i > 0 {
			fmt.Fprintln(w)
		}
		n := &report.Trees[i]
		fmt.Fprintln(w, nodeText(n, n.Path))
		branchText(w, n, "")
	}
}

func branchText(w io.Writer, n *treeNode, indent string) {
	for i := range n.Children {
		c := &n.Children[i]
		branch, below := "├─ ", "│  "
		if i == len(n.Children)-1 {
			branch, below = "└─ ", "   "
		}
		name := c.Path
		if filepath.Dir(c.Path) == filepath.Dir(n.Path) {
			name = filepath.Base(c.Path)
		}
		fmt.Fprintln(w, indent+branch+nodeText(c, name))
		branchText(w, c, indent+below)
	}
}

func nodeText(n *treeNode, name string) string {
	text := fmt.Sprintf("%s  %s", name, host.Bytes(n.Allocated))
	if n.Mark != "" {
		text += "  [" + n.Mark + "]"
	}
	if len(n.Keepers) > 0 {
		text += "  " + strings.Join(n.Keepers, ", ")
	}
	if len(n.Notes) > 0 {
		text += "  (" + term.Printable(strings.Join(n.Notes, "; ")) + ")"
	}
	if n.Since != "" {
		text += "  (since " + n.Since + ")"
	}
	return text
}
