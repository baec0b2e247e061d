package image

import (
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/urfave/cli/v2"
	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/cli/images"
	"github.com/virt-rotate/virt-rotate/internal/cli/term"
	"github.com/virt-rotate/virt-rotate/internal/formats"
	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

func snapshotCommand(e *term.Env) *cli.Command {
	return &cli.Command{
		Name: "snapshot", Usage: "list, take, delete or go back to snapshots within a qcow2 image",
		ArgsUsage: "FILE", OnUsageError: term.UsageError,
		Flags: append([]cli.Flag{
			term.OutputFlag(), images.FormatFlag(), images.ShareFlag(),
			&cli.BoolFlag{Name: "list", Aliases: []string{"l"}, Usage: "list them (the default)"},
			&cli.StringFlag{Name: "create", Aliases: []string{"c"}, Usage: "take one, `NAME`, of the disk as it is"},
			&cli.StringFlag{Name: "apply", Aliases: []string{"a"}, Usage: "let the disk be as it was at `SNAPSHOT`; what it is now is lost"},
			&cli.StringFlag{Name: "delete", Aliases: []string{"d"}, Usage: "delete `SNAPSHOT`"},
			&cli.BoolFlag{Name: "dry-run", Usage: "tell what would be done, change nothing"},
			&cli.BoolFlag{Name: "quiet", Aliases: []string{"q"}, Usage: "tell nothing but errors"},
			images.ScanFlag(), images.IgnoreFlag(),
		}, images.SourceCompat()...),
		Description: `Internal snapshots are in the image itself: they are no layers, and have nothing to do
with those that virt-rotate keeps for guests. The guest has to be off. At a crash
every state is as it was, or as it is to be. SNAPSHOT is a name, for --apply also an
ID, or snapshot.id=ID, snapshot.name=NAME. An image that others build on is not
reverted.

   virt-rotate image snapshot web.qcow2
   virt-rotate image snapshot -c before-upgrade web.qcow2
   virt-rotate image snapshot -a before-upgrade web.qcow2

` + images.ExitHelp,
		Action: images.Action(e, 1, 1, snapshotImage),
	}
}

// SnapshotReport is the JSON of image snapshot: what was done, or what there is.
type SnapshotReport struct {
	images.Report
	Snapshots []formats.Snapshot `json:"snapshots,omitempty"` // of --list
}

// A snapshotJob is what is done to the snapshots of one image.
type snapshotJob struct {
	*images.Run
	node   chain.Node
	format *formats.Format
	list   []formats.Snapshot
}

func snapshotImage(r *images.Run) error {
	r.Hint = ": every state of the image is as it was, or as it is to be"
	what, err := snapshotAction(r)
	if err != nil {
		return err
	}
	j := &snapshotJob{Run: r}
	if j.node, j.format, err = r.Image(); err != nil {
		return err
	}
	if what == "list" {
		return j.listAll()
	}
	if j.format.TakeSnapshot == nil {
		return &chain.RefusedError{Path: j.node.Path, Reason: fmt.Sprintf("images of format %s have no internal snapshots", j.format.Name)}
	}
	return j.change(what)
}

// snapshotAction is the one thing that is to be done.
func snapshotAction(r *images.Run) (string, error) {
	what := ""
	for _, name := range []string{"list", "create", "apply", "delete"} {
		if !r.IsSet(name) {
			continue
		}
		if what != "" {
			return "", term.Usagef("--%s and --%s exclude each other", what, name)
		}
		what = name
	}
	switch {
	case what == "" || what == "list":
		return "list", nil
	case r.Bool("force-share"):
		return "", term.Usagef("-U is for reading only: snapshots are changed in an image that is nobody else's")
	}
	return what, nil
}

// look reads what there is.
func (j *snapshotJob) look(f vfs.File) error {
	return formats.ReadSteady(f, func(size int64) error {
		d, err := j.format.Details(f, size)
		j.list = d.Snapshots
		return err
	})
}

func (j *snapshotJob) listAll() error {
	f, err := j.Store.FS.Open(j.node.Path, false)
	if err != nil {
		return err
	}
	if err := errors.Join(j.look(f), f.Close()); err != nil {
		return fmt.Errorf("%s: %w", j.node.Path, err)
	}
	if j.list == nil {
		j.list = []formats.Snapshot{}
	}
	report := SnapshotReport{images.Report{Command: j.Command.Name, Steps: []images.Step{}}, j.list}
	return j.Print(j.Context, report, func(w io.Writer) { snapshotListText(w, j.list) })
}

// change does it while the image is locked.
func (j *snapshotJob) change(what string) error {
	f, err := j.Store.Hold(j.node, true)
	if err != nil {
		return err
	}
	step, err := j.changeHeld(f, what)
	var refused *chain.RefusedError
	if err != nil && !errors.As(err, &refused) {
		err = fmt.Errorf("%s: %w", j.node.Path, err)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if j.Bool("quiet") && j.String("output") == "human" {
		return nil
	}
	return j.Steps([]images.Step{step})
}

func (j *snapshotJob) changeHeld(f vfs.File, what string) (step images.Step, err error) {
	if err := errors.Join(j.look(f), j.allowed(what)); err != nil {
		return step, err
	}
	name := j.String(what)
	step = images.Step{Op: "snapshot-" + what, Path: j.node.Path, Note: "snapshot " + name}
	if what == "create" {
		if j.Bool("dry-run") {
			return step, nil
		}
		return step, j.format.TakeSnapshot(f, name, time.Now())
	}
	at, err := j.find(what, name)
	if err != nil || j.Bool("dry-run") {
		return step, err
	}
	if what == "delete" {
		return step, j.format.DeleteSnapshot(f, at)
	}
	return step, j.format.RevertTo(f, at)
}

func (j *snapshotJob) find(what, text string) (int, error) {
	name, err := formats.ParseSnapshotName(text)
	if err != nil {
		return 0, term.Usagef("--%s %s: %w", what, text, err)
	}
	return name.Find(j.list, what == "apply")
}

// allowed refuses to revert what others build on.
func (j *snapshotJob) allowed(what string) error {
	if what != "apply" {
		return nil
	}
	return errors.Join(chain.Changeable(j.node), j.Store.NobodyBuildsOn(j.node, j.StringSlice("scan")))
}
