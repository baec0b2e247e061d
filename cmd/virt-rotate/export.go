package main

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/formats"
	"github.com/virt-rotate/virt-rotate/rotate/decide"
	"github.com/virt-rotate/virt-rotate/rotate/host"
)

func exportCommand(e *env) *cli.Command {
	return &cli.Command{
		Name: "export", Usage: "write a disk of a snapshot to a file of its own, guest running or not",
		ArgsUsage: "DOMAIN SNAPSHOT", OnUsageError: usageError,
		Flags: append(writeFlags(),
			&cli.StringFlag{Name: "disk", Usage: "`TARGET` of the disk, such as vda; needed where the snapshot has several"},
			&cli.StringFlag{Name: "o", Usage: "the new `FILE`, which must not be there; - writes the raw disk to standard output"},
			&cli.StringFlag{Name: "output-format", Aliases: []string{"O"}, Usage: "`FORMAT` of the new file: qcow2, raw or vhd", Value: "qcow2"},
			&cli.BoolFlag{Name: "compress", Usage: "compress the data"}),
		Description: `The layers of the snapshot are read as the guest saw them then, and become one image
without a backing file, which is compared with them at the end. The guest may run
and go on writing; a merge of the same layers fails meanwhile and is done by the
next run. Blocks that the file system can share are not copied.

   virt-rotate export web nightly-20261122T033338Z -o web.qcow2
   virt-rotate export web nightly-20261122T033338Z --disk vdb -o - | ssh host 'cat > vdb.raw'

` + imageExitHelp,
		Action: func(c *cli.Context) error {
			if err := checkOutput(c); err != nil {
				return err
			}
			if c.Args().Len() != 2 || c.String("o") == "" {
				return usagef("%s wants DOMAIN SNAPSHOT -o FILE; --help tells more", c.Command.HelpName)
			}
			r := &imageRun{env: e, Context: c, store: formats.Store(e.fs, nil), ended: exitFailed}
			return oneLine(r.outcome(exportDisk(r)))
		},
	}
}

// exportDisk writes one disk of a snapshot.
func exportDisk(r *imageRun) error {
	r.hint = ": what was begun is removed, and the guest's images are as they were"
	nodes, err := snapshotNodes(r)
	if err != nil {
		return err
	}
	if r.String("o") == "-" {
		return exportStream(r, nodes)
	}
	format, err := formats.Named(r.String("output-format"))
	if err != nil {
		return err
	}
	if r.Bool("compress") && !format.Packs {
		return usagef("--compress: images of format %s cannot be compressed", format.Name)
	}
	path, err := filepath.Abs(r.String("o"))
	if err != nil {
		return err
	}
	if err := checkFree(r.store.FS, path); err != nil {
		return err
	}
	o := defaultOptions(format)
	o.Size = top(nodes).Image.VirtualSize
	c := &conversion{nodes: nodes, path: path, format: format, create: *o}
	c.verify = true
	return r.convertAll([]*conversion{c})
}

// snapshotNodes asks libvirt, and gives the connection back: copying may take hours.
func snapshotNodes(r *imageRun) (nodes []chain.Node, err error) {
	err = withSession(r.env, true, func(s *session) error {
		nodes, err = stateNodes(r, s)
		return err
	})
	return nodes, err
}

// stateNodes finds the layers of the disk that the command line names.
func stateNodes(r *imageRun, s *session) ([]chain.Node, error) {
	if s.host.Remote() {
		return nil, &chain.RefusedError{Path: r.arg(0), Reason: "the connection is to another host: run virt-rotate there"}
	}
	w, err := s.rotator.Observer.Observe(r.ctx())
	if err != nil {
		return nil, err
	}
	d, err := w.WithSnapshot(r.arg(0), r.arg(1))
	if err != nil {
		return nil, usagef("%w", err)
	}
	if err := decide.Intact(w, d, r.arg(1)); err != nil {
		return nil, err
	}
	state, err := chooseState(r, d.States(d.Snapshot(r.arg(1))))
	if err != nil {
		return nil, err
	}
	if state.Written && d.State.Live() {
		return nil, &chain.RefusedError{Path: state.Path, Reason: "the guest writes to it: it does not hold the state of the snapshot any more"}
	}
	for _, path := range append(slices.Clone(state.Chain), state.Path) {
		r.store.Allow = append(r.store.Allow, filepath.Dir(path))
	}
	return r.readable(state.Path, state.Format)
}

// chooseState takes the disk that --disk names, or the only one.
func chooseState(r *imageRun, states []host.StateLayer) (*host.StateLayer, error) {
	var targets []string
	for i := range states {
		if states[i].Target == r.String("disk") || len(states) == 1 && r.String("disk") == "" {
			return &states[i], nil
		}
		targets = append(targets, states[i].Target)
	}
	switch {
	case len(states) == 0:
		return nil, &chain.RefusedError{Path: r.arg(1), Reason: "the snapshot has no layers of its own: it is internal, or of memory only"}
	case r.String("disk") == "":
		return nil, usagef("the snapshot has several disks: name one with --disk (%s)", strings.Join(targets, ", "))
	}
	return nil, usagef("--disk %s: the snapshot has %s", r.String("disk"), strings.Join(targets, ", "))
}

// exportStream writes the raw disk to standard output.
func exportStream(r *imageRun, nodes []chain.Node) error {
	switch {
	case r.IsSet("output-format") && r.String("output-format") != "raw" || r.Bool("compress"):
		return usagef("-o - writes a raw disk: nothing else can be written in a row")
	case r.Bool("dry-run"):
		return usagef("-o - and --dry-run exclude each other")
	case isTerminal(r.out):
		return usagef("-o -: standard output is a terminal")
	}
	r.hint = ": what was written so far is not the whole disk"
	done, end := r.progress("export", top(nodes).Image.VirtualSize)
	err := r.store.Stream(r.ctx(), nodes, r.out, done)
	end()
	return err
}

// verifyMade compares a new image, which has no name yet, with its source.
func (r *imageRun) verifyMade(c *conversion) error {
	n, err := r.store.Node(c.made.path, c.format.Name)
	if err != nil {
		return err
	}
	show, end := r.progress("verify", c.create.Size)
	before := r.moved
	same, err := r.store.Compare(r.ctx(), c.nodes, []chain.Node{n}, false, show)
	end()
	r.moved = before // nothing of this was copied
	if err == nil && !same.Same {
		err = errors.New("the new image differs from the snapshot")
	}
	if err != nil {
		return fmt.Errorf("%s: %w", c.path, err)
	}
	return nil
}
