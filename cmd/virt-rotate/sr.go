package main

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"

	"github.com/urfave/cli/v2"
	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/formats"
	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/vhdbridge"
)

const srExitHelp = `Exit status:
   0  done, or nothing to do
   1  failed, or interrupted; the same command goes on
   2  wrong usage
   3  some trees are damaged, in use or failed; the others are done
   4  refused because it would not be safe; nothing was changed
   5  another run works on the repository`

const srDescription = `Storage repositories of XenServer and XCP-ng, detached from their hosts: directories
of VHDs (UUID.vhd, UUID.raw, UUID.qcow2), or of logical volumes or copies of such
(VHD-UUID, LV-UUID, QCOW2-UUID). A node that is damaged, an orphan or in use spoils its
own tree only.

   virt-rotate sr scan /srv/sr
   virt-rotate sr coalesce --dry-run --leaf /srv/sr
   virt-rotate sr convert /srv/sr --to /var/lib/libvirt/images

` + srExitHelp

func srCommand(e *env) *cli.Command {
	return &cli.Command{
		Name: "sr", Usage: "look at, check, coalesce and convert XenServer storage repositories", OnUsageError: usageError,
		Description: srDescription, HideHelpCommand: true,
		Subcommands: []*cli.Command{srScanCommand(e), srCheckCommand(e), srCoalesceCommand(e), srConvertCommand(e)},
		Action: func(c *cli.Context) error {
			if c.Args().Present() {
				return usagef("sr %q: want scan, check, coalesce or convert", c.Args().First())
			}
			return cli.ShowSubcommandHelp(c)
		},
	}
}

// srAction wraps what an sr command does with the repository that is its argument.
func srAction(e *env, do func(r *imageRun, repo *vhdbridge.Repository) error) cli.ActionFunc {
	return imageAction(e, 1, 1, func(r *imageRun) error {
		dir, err := filepath.Abs(r.arg(0))
		if err != nil {
			return err
		}
		r.store.Locate = vhdbridge.Locate
		repo, err := vhdbridge.Scan(r.store.FS, dir, vhdbridge.Readers())
		if err != nil {
			return err
		}
		if len(repo.Nodes) == 0 {
			return &chain.RefusedError{Path: dir, Reason: "no node of a storage repository is there"}
		}
		return do(r, repo)
	})
}

// srNode is a node in JSON.
type srNode struct {
	Name             string  `json:"name"`
	Path             string  `json:"path"`
	Format           string  `json:"format"`
	Parent           *string `json:"parent"`
	Hidden           bool    `json:"hidden"`
	VirtualSize      int64   `json:"virtual-size"`
	PhysicalSize     int64   `json:"physical-size"`
	Allocated        int64   `json:"allocated"`
	Depth            int     `json:"depth"`
	Coalesceable     bool    `json:"coalesceable"`
	LeafCoalesceable bool    `json:"leaf-coalesceable"`
	Garbage          bool    `json:"garbage"`
	InUse            bool    `json:"in-use"`
	Error            *string `json:"error"`
}

// srScan is the JSON of sr scan.
type srScan struct {
	Path     string              `json:"path"`
	Nodes    []srNode            `json:"nodes"`
	Journals []vhdbridge.Journal `json:"journals"`
	Totals   vhdbridge.Totals    `json:"totals"`
	Warnings []string            `json:"warnings"`
}

func srScanCommand(e *env) *cli.Command {
	return &cli.Command{
		Name: "scan", Usage: "show the trees of a repository, and what coalescing would give back",
		ArgsUsage: "DIR", OnUsageError: usageError, Flags: []cli.Flag{outputFlag()},
		Description: `A tree is drawn as in the storage manager's log: * marks hidden nodes, whose own
content no VDI needs; then virtual/physical/allocated size. Headers and tables are
read, no data; nothing is changed.

` + srExitHelp,
		Action: srAction(e, scanRepository),
	}
}

func scanRepository(r *imageRun, repo *vhdbridge.Repository) error {
	totals, err := repo.Totals(r.store.FS)
	if err != nil {
		return err
	}
	report := srScan{Path: repo.Dir, Nodes: []srNode{}, Journals: repo.Journals, Totals: totals, Warnings: repo.Warnings}
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
	err = r.print(r.Context, report, func(w io.Writer) { srScanText(w, repo, &totals) })
	if err == nil && spoiled {
		err = &exitError{code: exitSome}
	}
	return err
}

func nodeJSON(n *vhdbridge.Node) srNode {
	j := srNode{Name: n.Name, Path: n.Path, Format: n.Format, Hidden: n.Hidden, VirtualSize: n.VirtualSize,
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

func srScanText(w io.Writer, repo *vhdbridge.Repository, t *vhdbridge.Totals) {
	repo.WriteTrees(w)
	fmt.Fprintf(w, "\n%s, %s on storage; visible disks: %s\n", plural(len(repo.Nodes), "node"), host.Bytes(t.Physical), host.Bytes(t.Visible))
	for _, part := range []struct {
		bytes int64
		by    string
	}{{t.Coalesce, "coalescing"}, {t.Leaf, "coalescing leaves (--leaf)"}, {t.Garbage, "deleting garbage (--garbage)"}} {
		if part.bytes > 0 {
			fmt.Fprintf(w, "to be had back: %s by %s\n", host.Bytes(part.bytes), part.by)
		}
	}
	if t.Needed > 0 {
		fmt.Fprintf(w, "free space that this takes meanwhile: %s\n", host.Bytes(t.Needed))
	}
	if t.AtLimit > 0 {
		fmt.Fprintf(w, "%s in chains of %d or more: XenServer allows no longer ones\n", plural(t.AtLimit, "node"), vhdbridge.ChainLimit)
	}
	for _, j := range repo.Journals {
		fmt.Fprintf(w, "interrupted: %s of %s; sr coalesce finishes or undoes it\n", j.Kind, j.VDI)
	}
	for _, text := range repo.Warnings {
		fmt.Fprintf(w, "warning: %s\n", text)
	}
}

func srCheckCommand(e *env) *cli.Command {
	return &cli.Command{
		Name: "check", Usage: "check every node of a repository",
		ArgsUsage: "DIR", OnUsageError: checkUsageError, Flags: []cli.Flag{outputFlag()},
		Description: "Each node is checked as image check does, without repairing anything; links between\nthem are checked, too.\n\n" + imageCheckHelp,
		Action: func(c *cli.Context) error {
			err := srAction(e, checkRepository)(c)
			var exit *exitError
			if err == nil || errors.As(err, &exit) && exit.err == nil {
				return err
			}
			return &exitError{exitCheckFailed, err}
		},
	}
}

// srChecked is what was found of one node.
type srChecked struct {
	Name  string               `json:"name"`
	Check *formats.CheckResult `json:"check,omitempty"`
	Error string               `json:"error,omitempty"`
}

func checkRepository(r *imageRun, repo *vhdbridge.Repository) error {
	checked := []srChecked{}
	var worst formats.CheckResult
	for _, n := range repo.Nodes {
		c := checkNode(r, n)
		checked = append(checked, c)
		if c.Error != "" {
			worst.Corruptions++
		}
		if c.Check != nil {
			worst.Corruptions += c.Check.Corruptions
			worst.CheckErrors += c.Check.CheckErrors
			worst.Leaks += c.Check.Leaks
		}
	}
	report := struct {
		Path  string      `json:"path"`
		Nodes []srChecked `json:"nodes"`
	}{repo.Dir, checked}
	err := r.print(r.Context, report, func(w io.Writer) {
		for _, c := range checked {
			checkedText(w, &c)
		}
	})
	return errors.Join(err, checkExit(&worst))
}

func checkNode(r *imageRun, n *vhdbridge.Node) srChecked {
	c := srChecked{Name: n.Name}
	if n.Err != nil {
		c.Error = n.Err.Error()
	}
	format, err := formats.Named(n.Format)
	if err != nil || format.Check == nil {
		return c
	}
	res, err := checkFile(r.store.FS, n.Path, formats.RepairNone, format.Check)
	if err != nil {
		c.Error = err.Error()
		return c
	}
	c.Check = &res
	return c
}

func checkedText(w io.Writer, c *srChecked) {
	switch {
	case c.Check != nil && c.Check.Corruptions+c.Check.CheckErrors+c.Check.Leaks > 0:
		fmt.Fprintf(w, "%s:\n", c.Name)
		checkText(w, c.Check)
	case c.Error == "":
		fmt.Fprintf(w, "%s: no errors\n", c.Name)
	}
	if c.Error != "" {
		fmt.Fprintf(w, "%s: %s\n", c.Name, c.Error)
	}
}
