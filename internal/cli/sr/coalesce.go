package sr

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/cli/images"
	"github.com/virt-rotate/virt-rotate/internal/cli/term"
	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/vhdbridge"
	"golang.org/x/sys/unix"
)

func coalesceCommand(e *term.Env) *cli.Command {
	return &cli.Command{
		Name: "coalesce", Usage: "merge what no VDI needs, and give the space back",
		ArgsUsage: "DIR", OnUsageError: term.UsageError,
		Flags: append(images.WriteFlags(),
			&cli.StringSliceFlag{Name: "vdi", Usage: "only the chain of `UUID`; may be repeated"},
			&cli.BoolFlag{Name: "leaf", Usage: "merge leaves into parents that only they need, too"},
			&cli.BoolFlag{Name: "garbage", Usage: "delete what no VDI needs at all"},
			detachedFlag()),
		Description: `The guests must be off, or the repository detached: virt-rotate cannot suspend a disk
of a running guest as the storage manager does. Whether it is in use is looked for: in
the footers, in the locks of the storage manager, and in what all processes of this
host have open. Other hosts are not seen: on a share, or in a directory that this host
exports by NFS, somebody has to say that none has it attached, with --detached or at the
prompt of a terminal, and nothing may have been written there for two minutes.

Every run of nodes is merged in one pass, the tallest tree first; children are
relinked, merged nodes deleted last. With --leaf the parent of a leaf gets its name.
What the collector, or a run of this command, was interrupted in is finished or undone
first, as the collector does it.

No garbage is deleted while a node is damaged, an orphan, in use or called by another
name than it has: what seems to be needed by none can be what that one lacks.

   virt-rotate sr coalesce --dry-run --leaf --garbage /srv/sr
   virt-rotate sr coalesce --leaf --detached /mnt/nfs/0a1b2c3d-…

` + exitHelp,
		Action: action(e, coalesceRepository),
	}
}

// CoalesceReport is the JSON of sr coalesce.
type CoalesceReport struct {
	Path      string              `json:"path"`
	DryRun    bool                `json:"dry-run"`
	Recovered []string            `json:"recovered"`
	Steps     []vhdbridge.Step    `json:"steps"`
	Spoiled   []vhdbridge.Spoiled `json:"spoiled"`
	Doubts    []string            `json:"doubts"` // for which no garbage is deleted
	Failed    []failure           `json:"failed"`
}

type failure struct {
	Step  vhdbridge.Step `json:"step"`
	Error string         `json:"error"`
}

func coalesceRepository(r *images.Run, repo *vhdbridge.Repository) error {
	r.Hint = ": every VDI is as it was; the same command goes on"
	o := vhdbridge.Options{VDIs: r.StringSlice("vdi"), Leaf: r.Bool("leaf"), Garbage: r.Bool("garbage")}
	report := CoalesceReport{Path: repo.Dir, DryRun: r.Bool("dry-run"), Recovered: []string{}, Steps: []vhdbridge.Step{},
		Spoiled: []vhdbridge.Spoiled{}, Doubts: []string{}, Failed: []failure{}}
	if !slices.ContainsFunc(repo.Nodes, func(n *vhdbridge.Node) bool { return !n.Device }) {
		return &chain.RefusedError{Path: repo.Dir, Reason: vhdbridge.DeviceReason}
	}
	if err := vhdbridge.ThisHost().Refuse(repo); err != nil {
		return err
	}
	if err := checkRoom(repo.Dir, &o); err != nil {
		return err
	}
	if report.DryRun {
		if err := planCoalesce(r, repo, o, &report); err != nil {
			return err
		}
		return errors.Join(printReport(r, &report), report.exit())
	}
	lock, err := vfs.AcquireRunLock(filepath.Join(repo.Dir, vhdbridge.LockName))
	if err != nil {
		return err
	}
	err = runCoalesce(r, repo, o, &report)
	return errors.Join(asVDIUsage(err), lock.Close())
}

// checkRoom asks for the free space, and sees that names can be changed at all.
func checkRoom(dir string, o *vhdbridge.Options) (err error) {
	if err := unix.Access(dir, unix.W_OK); err != nil {
		return &chain.RefusedError{Path: dir, Reason: fmt.Sprintf("it cannot be written to (%v)", err)}
	}
	o.Free, err = freeSpace(dir)
	o.Free = max(o.Free, 1)
	return err
}

// planCoalesce fills in what a run would do.
func planCoalesce(r *images.Run, repo *vhdbridge.Repository, o vhdbridge.Options, report *CoalesceReport) error {
	p, err := repo.Plan(r.Store.FS, o)
	if err != nil {
		return asVDIUsage(err)
	}
	if err := newBridge(r, func(vhdbridge.Event) {}).Rehearse(r.Ctx(), repo, p); err != nil {
		return err
	}
	interrupted, err := repo.Interrupted()
	if err != nil {
		return err
	}
	report.Recovered = append(report.Recovered, interrupted...)
	report.take(p)
	report.Steps = append(report.Steps, p.Steps...)
	return tellUndetached(r, repo, len(report.Steps)+len(report.Recovered) > 0)
}

// take notes what a plan leaves alone.
func (s *CoalesceReport) take(p *vhdbridge.Plan) {
	s.Spoiled, s.Doubts = append(s.Spoiled, p.Spoiled...), append(s.Doubts, p.Doubts...)
}

func newBridge(r *images.Run, report func(vhdbridge.Event)) *vhdbridge.Bridge {
	return &vhdbridge.Bridge{Store: r.Store, Readers: vhdbridge.Readers(), Report: report, Space: freeSpace, Hide: vhdbridge.Hiders()}
}

func asVDIUsage(err error) error {
	if errors.Is(err, vhdbridge.ErrNoSuchVDI) {
		return term.Usagef("%w", err)
	}
	return err
}

// runCoalesce finishes what was interrupted, plans on what is there then, and does it.
func runCoalesce(r *images.Run, repo *vhdbridge.Repository, o vhdbridge.Options, report *CoalesceReport) error {
	if err := askDetached(r, repo, o); err != nil {
		return err
	}
	progress, end := mergeProgress(r)
	b := newBridge(r, progress)
	done, err := b.Recover(repo)
	report.Recovered = append(report.Recovered, done...)
	if err == nil {
		repo, err = scan(r, repo.Dir)
	}
	var p *vhdbridge.Plan
	if err == nil {
		p, err = repo.Plan(r.Store.FS, o)
	}
	if err == nil {
		err = b.Rehearse(r.Ctx(), repo, p)
	}
	if err != nil {
		end()
		return err
	}
	report.take(p)
	steps, failed, err := b.Run(r.Ctx(), repo, p)
	end()
	report.Steps = append(report.Steps, steps...)
	for i := range failed {
		report.Failed = append(report.Failed, failure{failed[i].Step, failed[i].Cause.Error()})
	}
	if errors.Is(err, context.Canceled) {
		return errors.Join(err, printReport(r, report))
	}
	return errors.Join(err, printReport(r, report), report.exit())
}

func freeSpace(dir string) (int64, error) {
	s, err := vfs.SpaceAt(dir)
	return s.Free, err
}

// mergeProgress shows how far each merge is.
func mergeProgress(r *images.Run) (report func(vhdbridge.Event), end func()) {
	var show func(int64)
	stop, shown, key := func() {}, int64(0), ""
	return func(e vhdbridge.Event) {
		what := fmt.Sprintf("%s %s", e.Step.Op, strings.Join(e.Step.Nodes, ", "))
		if e.Total == 0 {
			return
		}
		if what != key {
			stop()
			show, stop = r.Progress(what, e.Total)
			shown, key = 0, what
		}
		show(e.Done - shown)
		shown = e.Done
	}, func() { stop() }
}

// exit is the exit status of what was done and what was not.
func (s *CoalesceReport) exit() error {
	bad := len(s.Spoiled) + len(s.Failed) + len(s.Doubts)
	switch {
	case bad == 0:
		return nil
	case len(s.Steps) > 0 || len(s.Failed) == 0:
		return &term.ExitError{Code: term.ExitSome}
	}
	return &term.ExitError{Code: term.ExitFailed}
}

func printReport(r *images.Run, s *CoalesceReport) error {
	if r.Bool("quiet") && r.String("output") == "human" {
		return nil
	}
	return r.Print(r.Context, s, func(w io.Writer) { coalesceText(w, s) })
}

func coalesceText(w io.Writer, s *CoalesceReport) {
	for _, text := range s.Recovered {
		fmt.Fprintln(w, term.Printable(text))
	}
	freed := int64(0)
	for i := range s.Steps {
		fmt.Fprintln(w, mergeStepText(&s.Steps[i], s.DryRun))
		freed += s.Steps[i].Freed
	}
	for _, f := range s.Failed {
		fmt.Fprintf(w, "failed: %s\n", mergeStepText(&f.Step, true))
		fmt.Fprintf(w, "  %s\n", term.Printable(f.Error))
	}
	for _, x := range s.Spoiled {
		fmt.Fprintf(w, "left alone: the tree of %s: %s\n", term.Printable(x.Node), term.Printable(x.Reason))
	}
	doubtText(w, s.Doubts)
	switch {
	case len(s.Steps) == 0:
		fmt.Fprintln(w, "nothing to do")
	case s.DryRun:
		fmt.Fprintf(w, "%s; at least %s would be given back\n", term.Plural(len(s.Steps), "step"), host.Bytes(freed))
	default:
		fmt.Fprintf(w, "%s done; at least %s given back\n", term.Plural(len(s.Steps), "step"), host.Bytes(freed))
	}
}

// doubtText says why no garbage is deleted.
func doubtText(w io.Writer, doubts []string) {
	for _, text := range doubts {
		fmt.Fprintf(w, "no garbage is deleted: %s\n", term.Printable(text))
	}
}

func mergeStepText(s *vhdbridge.Step, plan bool) string {
	nodes := strings.Join(s.Nodes, ", ")
	verb := map[vhdbridge.Op][2]string{
		vhdbridge.OpDelete: {"deleted", "delete"}, vhdbridge.OpRelink: {"relinked", "relink"},
		vhdbridge.OpMerge: {"coalesced", "coalesce"}, vhdbridge.OpLeaf: {"coalesced leaf", "coalesce leaf"},
	}[s.Op]
	text := verb[0] + " " + nodes
	if plan {
		text = verb[1] + " " + nodes
	}
	switch s.Op {
	case vhdbridge.OpDelete:
		return fmt.Sprintf("%s (%s): %s", text, host.Bytes(s.Bytes), s.Reason)
	case vhdbridge.OpRelink:
		return fmt.Sprintf("%s: its children build on %s now; %s", text, s.Into, s.Reason)
	case vhdbridge.OpLeaf:
		return fmt.Sprintf("%s into %s, which gets its name (%s)", text, s.Into, host.Bytes(s.Bytes))
	}
	return fmt.Sprintf("%s into %s (%s): %s", text, s.Into, host.Bytes(s.Bytes), s.Reason)
}
