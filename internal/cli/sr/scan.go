package sr

import (
	"fmt"
	"io"

	"github.com/urfave/cli/v2"
	"github.com/virt-rotate/virt-rotate/internal/cli/images"
	"github.com/virt-rotate/virt-rotate/internal/cli/term"
	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/vhdbridge"
)

// node is a node in JSON.
type node struct {
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
	Error            *string `json:"error" jsonschema:"nullable"`
}

// ScanReport is the JSON of sr scan.
type ScanReport struct {
	Path     string              `json:"path"`
	Nodes    []node              `json:"nodes"`
	Journals []vhdbridge.Journal `json:"journals"`
	Totals   vhdbridge.Totals    `json:"totals"`
	Warnings []string            `json:"warnings"`
}

func scanCommand(e *term.Env) *cli.Command {
	return &cli.Command{
		Name: "scan", Usage: "show the trees of a repository, and what coalescing would give back",
		ArgsUsage: "DIR", OnUsageError: term.UsageError, Flags: []cli.Flag{term.OutputFlag()},
		Description: `A tree is drawn as in the storage manager's log: * marks hidden nodes, whose own
content no VDI needs; then virtual/physical/allocated size. Headers and tables are
read, no data; nothing is changed.

` + exitHelp,
		Action: action(e, scanRepository),
	}
}

func scanRepository(r *images.Run, repo *vhdbridge.Repository) error {
	totals, err := repo.Totals(r.Store.FS)
	if err != nil {
		return err
	}
	report := ScanReport{Path: repo.Dir, Nodes: []node{}, Journals: repo.Journals, Totals: totals, Warnings: repo.Warnings}
	if report.Journals == nil {
		report.Journals = []vhdbridge.Journal{}
	}
	if report.Warnings == nil {
		report.Warnings = []string{}
	}
	spoiled := false
	for _, n := range repo.Nodes {
		report.Nodes = append(report.Nodes, nodeJSON(n))
		spoiled = spoiled || n.Err != nil
	}
	err = r.Print(r.Context, report, func(w io.Writer) { scanText(w, repo, &totals) })
	if err == nil && spoiled {
		err = &term.ExitError{Code: term.ExitSome}
	}
	return err
}

func nodeJSON(n *vhdbridge.Node) node {
	j := node{Name: n.Name, Path: n.Path, Format: n.Format, Hidden: n.Hidden, VirtualSize: n.VirtualSize,
		PhysicalSize: n.PhysicalSize, Allocated: n.Allocated, Depth: n.Depth, Coalesceable: n.Coalesceable,
		LeafCoalesceable: n.LeafCoalesceable, Garbage: n.Garbage, InUse: n.InUse}
	if n.Parent != "" {
		j.Parent = &n.Parent
	}
	if n.Err != nil {
		text := n.Err.Error()
		j.Error = &text
	}
	return j
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
		fmt.Fprintf(w, "warning: %s\n", text)
	}
}
