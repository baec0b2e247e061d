package sr

import (
	"bytes"
	"fmt"
	"time"

	"github.com/urfave/cli/v2"
	"github.com/virt-rotate/virt-rotate/internal/cli/images"
	"github.com/virt-rotate/virt-rotate/internal/cli/term"
	"github.com/virt-rotate/virt-rotate/internal/page"
	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/vhdbridge"
)

func reportCommand(e *term.Env) *cli.Command {
	return &cli.Command{
		Name: "report", Usage: "write a page that shows the trees, and what can be reclaimed and why",
		ArgsUsage: "DIR|PV…", OnUsageError: term.UsageError,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "output", Usage: "`FORMAT`: html, or json, what the page shows", Value: "html"},
			&cli.StringFlag{Name: "o", Usage: "the `FILE` to write, whole or not at all; - is standard output"},
			&cli.BoolFlag{Name: "force", Usage: "replace a file that is no report"},
			namesFlag(),
		},
		Description: `One HTML file that needs nothing beside it: no network and no script. It shows what sr scan
tells. An earlier report of that name is replaced, any other file is not. Nothing is changed in
the repository.

   virt-rotate sr report /srv/sr -o sr.html

` + exitHelp,
		Action: func(c *cli.Context) error {
			if f := c.String("output"); f != "html" && f != "json" {
				return term.Usagef("--output=%s: want html or json", f)
			}
			if c.String("o") == "" && c.String("output") == "html" {
				return term.Usagef("sr report wants -o FILE for the page; -o - is standard output")
			}
			if n := c.Args().Len(); n < 1 || n > mostVolumes {
				return term.Usagef("sr report wants DIR, or the physical volumes of one repository; --help tells more")
			}
			r := images.NewRun(e, c, nil)
			return term.OneLine(r.Outcome(onRepository(reportRepository)(r)))
		},
	}
}

func reportRepository(r *images.Run, repo *vhdbridge.Repository) error {
	m, err := pageOf(r, repo)
	if err != nil {
		return err
	}
	data, mark, err := []byte(nil), "", error(nil)
	if r.String("output") == "json" {
		data, err = term.JSON(m)
	} else {
		var b bytes.Buffer
		err = page.Write(&b, m)
		data, mark = b.Bytes(), page.Generator
	}
	if err != nil {
		return err
	}
	to := r.String("o")
	if to == "" {
		to = "-"
	}
	if err := r.Replace(to, data, mark, r.Bool("force")); err != nil {
		return err
	}
	if m.Level != page.OK {
		return &term.ExitError{Code: term.ExitSome}
	}
	return nil
}

// pageOf is the repository as a page shows it. Its level is OK unless something is wrong.
func pageOf(r *images.Run, repo *vhdbridge.Repository) (*page.Model, error) {
	totals, err := repo.Totals(r.Store.FS)
	if err != nil {
		return nil, err
	}
	plan, err := repo.Plan(r.Store.FS, vhdbridge.Options{Leaf: true, Garbage: true})
	if err != nil {
		return nil, err
	}
	p := &page.Repository{Path: page.Text(repo.Dir), Nodes: len(repo.Nodes), Physical: totals.Physical, Visible: totals.Visible, Coalesce: totals.Coalesce,
		Leaf: totals.Leaf, Garbage: totals.Garbage, Needed: totals.Needed, AtLimit: totals.AtLimit, Findings: findings(repo), Trees: trees(repo, plan.Steps)}
	m := &page.Model{Host: page.Text(repo.Dir), Time: r.Clock().Truncate(time.Second), Program: page.Text("virt-rotate " + r.App.Version), Level: page.OK,
		Summary: page.Text(host.Bytes(totals.Reclaimable) + " can be reclaimed"), Notes: page.Texts(repo.Warnings), Guests: []page.Guest{}, Repository: p}
	for i := range p.Findings {
		if p.Findings[i].Level == page.Critical {
			m.Level = page.Critical
		}
	}
	return m, nil
}

// findings are what scan tells below the trees; what is wrong comes first.
func findings(repo *vhdbridge.Repository) []page.Finding {
	found := []page.Finding{}
	add := func(level page.Level, code, path, detail string) {
		found = append(found, page.Finding{Level: level, Code: page.Text(code), Path: page.Text(path), Detail: page.Text(detail)})
	}
	for _, u := range repo.Unseen {
		add(page.Critical, "wrong", u.Node, u.Reason)
	}
	for _, n := range repo.Nodes {
		if reason := n.Odd(); reason != "" {
			add(page.Critical, "wrong", n.Name, reason)
		}
	}
	for _, n := range repo.Nodes {
		if reason := n.Fixed(); reason != "" && n.Odd() == "" {
			add(page.Warning, "not coalesced", n.Name, reason)
		}
		if n.Memory {
			add(page.Warning, "no disk", n.Name, vhdbridge.MemoryReason)
		}
	}
	for _, j := range repo.Journals {
		add(page.Warning, "interrupted", j.VDI, j.Kind+"; sr coalesce finishes or undoes it")
	}
	for _, text := range repo.Doubts {
		if repo.Unneeded() {
			add(page.Warning, "no garbage", "", text)
		}
	}
	return found
}

// A share is what a step of a plan does with a node.
type share struct {
	freed  int64
	reason string
}

// trees draws the repository with what each step gives back, told of the highest node that goes.
func trees(repo *vhdbridge.Repository, steps []vhdbridge.Step) []page.Layer {
	shares := map[string]share{}
	for _, s := range steps {
		for i, name := range s.Nodes {
			shares[name] = share{reason: s.Reason}
			if i == len(s.Nodes)-1 {
				shares[name] = share{s.Freed, s.Reason}
			}
		}
	}
	below := map[*vhdbridge.Node]bool{}
	for _, n := range repo.Nodes {
		for _, c := range repo.Children(n) {
			below[c] = true
		}
	}
	all := []page.Layer{}
	for _, n := range repo.Nodes {
		if !below[n] {
			all = append(all, layer(repo, n, shares))
		}
	}
	return all
}

func layer(repo *vhdbridge.Repository, n *vhdbridge.Node, shares map[string]share) page.Layer {
	l := page.Layer{Path: page.Text(n.Path), Format: page.Text(n.Format), VirtualSize: n.VirtualSize, Allocated: n.PhysicalSize, Mark: markOf(n),
		Snapshots: []page.Text{}, Users: []page.Text{}, Children: []page.Layer{}, Why: page.Text(shares[n.Name].reason), Reclaim: shares[n.Name].freed}
	for _, c := range repo.Children(n) {
		l.Children = append(l.Children, layer(repo, c, shares))
	}
	l.Shared = len(l.Children) > 1
	if reason := n.Fixed(); reason != "" {
		l.Why, l.Wrong = page.Text(reason), n.Odd() != ""
	}
	if k := n.Known; k != nil {
		l.Label = page.Text(fmt.Sprintf("%s (%s)", k.Name, n.Name))
		if k.VM != "" {
			l.Users = append(l.Users, page.Text("VM "+k.VM))
		}
		if k.Snapshot {
			l.Notes = append(l.Notes, page.Text(snapshotText(k)))
		}
	}
	return l
}

// snapshotText tells of when a snapshot is, where that is known.
func snapshotText(k *vhdbridge.VDI) string {
	if k.SnapshotTime.IsZero() {
		return "a snapshot"
	}
	return "a snapshot of " + k.SnapshotTime.UTC().Format("2006-01-02 15:04 UTC")
}

// markOf tells what becomes of a node.
func markOf(n *vhdbridge.Node) page.Mark {
	switch {
	case n.Garbage:
		return page.Gone
	case n.Coalesceable:
		return page.Merges
	case !n.Hidden: // a VDI
		return page.Kept
	}
	return page.Passed
}
