package sr

import (
	"fmt"
	"io"
	"time"

	"github.com/urfave/cli/v2"
	"github.com/virt-rotate/virt-rotate/internal/cli/images"
	"github.com/virt-rotate/virt-rotate/internal/cli/term"
	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/vhdbridge"
)

// A Node is a node in JSON.
type Node struct {
	Name             string  `json:"name"`
	Path             string  `json:"path"`
	Format           string  `json:"format"`
	Parent           *string `json:"parent" jsonschema:"nullable"`
	Hidden           bool    `json:"hidden"`
	VirtualSize      int64   `json:"virtual-size"`
	PhysicalSize     int64   `json:"physical-size"`
	Allocated        int64   `json:"allocated"`
	Depth            int     `json:"depth"`
	Coalesceable     bool    `json:"coalesceable"`
	LeafCoalesceable bool    `json:"leaf-coalesceable"`
	Garbage          bool    `json:"garbage"`
	InUse            bool    `json:"in-use"`
	Memory           bool    `json:"memory"`                             // of a suspended guest
	NamedParent      *string `json:"named-parent" jsonschema:"nullable"` // what the node calls its parent, if that is another name
	Fixed            *string `json:"fixed" jsonschema:"nullable"`        // why nothing in its tree is changed
	Error            *string `json:"error" jsonschema:"nullable"`
	Known            *known  `json:"vdi,omitempty"`
}

// known is what the repository calls a VDI. Times are RFC 3339.
type known struct {
	Name         string `json:"name"`
	Description  string `json:"description"`
	Managed      bool   `json:"managed"`
	Snapshot     bool   `json:"snapshot"`
	SnapshotOf   string `json:"snapshot-of,omitempty"`
	SnapshotTime string `json:"snapshot-time,omitempty"`
	VM           string `json:"vm,omitempty"`      // whose disk it is; of a snapshot, the guest's snapshot
	VMUUID       string `json:"vm-uuid,omitempty"` // of the guest itself
	Guest        string `json:"guest,omitempty"`   // of a snapshot, the guest
	Device       string `json:"device,omitempty"`  // which of its disks, from 0
}

func knownJSON(v *vhdbridge.VDI) *known {
	if v == nil {
		return nil
	}
	k := &known{Name: v.Name, Description: v.Description, Managed: v.Managed, Snapshot: v.Snapshot, SnapshotOf: v.SnapshotOf, VM: v.VM, VMUUID: v.Guest.UUID, Device: v.Device}
	if v.Guest.Snapshot != "" {
		k.Guest = v.Guest.Name
	}
	if !v.SnapshotTime.IsZero() {
		k.SnapshotTime = v.SnapshotTime.Format(time.RFC3339)
	}
	return k
}

// ScanReport is the JSON of sr scan.
type ScanReport struct {
	Path     string              `json:"path"`
	Nodes    []Node              `json:"nodes"`
	Journals []vhdbridge.Journal `json:"journals"`
	Totals   vhdbridge.Totals    `json:"totals"`
	Warnings []string            `json:"warnings"`
	Doubts   []string            `json:"doubts"` // for which nothing is garbage
}

func scanCommand(e *term.Env) *cli.Command {
	return &cli.Command{
		Name: "scan", Usage: "show the trees of a repository, and what coalescing would give back",
		ArgsUsage: "DIR|PV…", OnUsageError: term.UsageError,
		Flags: []cli.Flag{term.OutputFlag(), namesFlag()},
		Description: `A tree is drawn as in the storage manager's log: * marks hidden nodes, whose own
content no VDI needs; then virtual/physical/allocated size. Headers and tables are
read, no data but the first bytes of a disk, which tell the memory of a suspended guest;
nothing is changed. What is wrong with a node is told below the trees, with what to do
about it. Of a directory with repositories below it, as an NFS server exports them, these
are named.

` + exitHelp,
		Action: action(e, scanRepository),
	}
}

func scanRepository(r *images.Run, repo *vhdbridge.Repository) error {
	totals, err := repo.Totals(r.Store.FS)
	if err != nil {
		return err
	}
	report := ScanReport{Path: repo.Dir, Nodes: []Node{}, Totals: totals,
		Journals: append([]vhdbridge.Journal{}, repo.Journals...),
		Warnings: append([]string{}, repo.Warnings...), Doubts: append([]string{}, repo.Doubts...)}
	wrong := len(repo.Unseen) > 0
	for _, n := range repo.Nodes {
		report.Nodes = append(report.Nodes, nodeJSON(n))
		wrong = wrong || n.Odd() != ""
	}
	err = r.Print(r.Context, report, func(w io.Writer) { scanText(w, repo, &totals) })
	if err == nil && wrong {
		err = &term.ExitError{Code: term.ExitSome}
	}
	return err
}

func nodeJSON(n *vhdbridge.Node) Node {
	j := Node{Name: n.Name, Path: n.Path, Format: n.Format, Hidden: n.Hidden, VirtualSize: n.VirtualSize,
		PhysicalSize: n.PhysicalSize, Allocated: n.Allocated, Depth: n.Depth, Coalesceable: n.Coalesceable,
		LeafCoalesceable: n.LeafCoalesceable, Garbage: n.Garbage, InUse: n.InUse, Memory: n.Memory,
		Parent: ifAny(n.Parent), NamedParent: ifAny(n.Named), Fixed: ifAny(n.Fixed()), Known: knownJSON(n.Known)}
	if n.Err != nil {
		j.Error = ifAny(n.Err.Error())
	}
	return j
}

func ifAny(text string) *string {
	if text == "" {
		return nil
	}
	return &text
}

func scanText(w io.Writer, repo *vhdbridge.Repository, t *vhdbridge.Totals) {
	repo.WriteTrees(w)
	fmt.Fprintf(w, "\n%s, %s on storage; visible disks: %s\n", term.Plural(len(repo.Nodes), "node"), host.Bytes(t.Physical), host.Bytes(t.Visible))
	for _, part := range []struct {
		bytes int64
		by    string
	}{{t.Coalesce, "coalescing"}, {t.Leaf, "coalescing leaves (--leaf)"}, {t.Garbage, "deleting garbage (--garbage)"}} {
		if part.bytes > 0 {
			fmt.Fprintf(w, "can be reclaimed: %s by %s\n", host.Bytes(part.bytes), part.by)
		}
	}
	if t.Needed > 0 {
		fmt.Fprintf(w, "free space that this takes meanwhile: %s\n", host.Bytes(t.Needed))
	}
	if t.AtLimit > 0 {
		fmt.Fprintf(w, "%s in chains of %d or more: XenServer allows no longer ones\n", term.Plural(t.AtLimit, "node"), vhdbridge.ChainLimit)
	}
	for _, j := range repo.Journals {
		fmt.Fprintf(w, "interrupted: %s of %s; sr coalesce finishes or undoes it\n", j.Kind, j.VDI)
	}
	for _, text := range repo.Warnings {
		fmt.Fprintf(w, "warning: %s\n", term.Printable(text))
	}
	wrongText(w, repo)
}

// wrongText says what keeps trees from being changed, and what keeps garbage.
func wrongText(w io.Writer, repo *vhdbridge.Repository) {
	for _, u := range repo.Unseen {
		fmt.Fprintf(w, "wrong: %s: %s\n", term.Printable(u.Node), term.Printable(u.Reason))
	}
	devices := 0
	for _, n := range repo.Nodes {
		switch reason := n.Fixed(); {
		case reason == vhdbridge.DeviceReason:
			devices++
		case n.Odd() != "":
			fmt.Fprintf(w, "wrong: %s: %s\n", term.Printable(n.Name), term.Printable(reason))
		case reason != "":
			fmt.Fprintf(w, "not coalesced: the tree of %s: %s\n", term.Printable(n.Name), term.Printable(reason))
		}
		if n.Memory {
			fmt.Fprintf(w, "no disk: %s: %s\n", term.Printable(n.Name), vhdbridge.MemoryReason)
		}
	}
	if devices > 0 {
		fmt.Fprintf(w, "not coalesced: %s: %s\n", term.Plural(devices, "device"), vhdbridge.DeviceReason)
	}
	for _, text := range repo.Doubts {
		if repo.Unneeded() {
			fmt.Fprintf(w, "no garbage: %s\n", term.Printable(text))
		}
	}
	if !repo.HasVDI() {
		fmt.Fprintln(w, vhdbridge.BaseCopiesOnly)
	}
}
