package images_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/virt-rotate/virt-rotate/integration/images"
	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"github.com/virt-rotate/virt-rotate/qcow2"
)

// refusal says why the engine is to refuse the operation, or "".
func (o *op) refusal(b *bench) string {
	switch o.Kind {
	case "commit":
		return o.refusedCommit(b)
	case "pull", "rebase":
		if b.snapshots(o.Layer) > 0 {
			return "internal snapshots"
		}
	case "resize":
		return o.refusedResize(b)
	}
	return ""
}

func (o *op) refusedResize(b *bench) string {
	l := b.tree.Layers[o.Layer]
	if b.snapshots(o.Layer) > 0 && strings.Contains(l.Options, "compat=0.10") {
		return "resizing a version 2 image with internal snapshots"
	}
	for _, c := range b.tree.Children(o.Layer) {
		if o.Size < b.was[o.Layer].Size && b.was[c].Size > o.Size {
			return "another image shows what goes"
		}
	}
	return ""
}

func (o *op) refusedCommit(b *bench) string {
	t := b.tree
	base := b.tree.Layers[o.Base]
	if base.Device != "" && base.Format == "raw" && b.was[o.Layer].Size > b.was[o.Base].Size {
		return "the device is too small"
	}
	if b.snapshots(o.Base) > 0 && strings.Contains(base.Options, "compat=0.10") && b.was[o.Base].Size != b.was[o.Layer].Size {
		return "resizing a version 2 image with internal snapshots"
	}
	for i := o.Layer; i != o.Base; i = t.Layers[i].On {
		if b.snapshots(i) > 0 && !o.Keep {
			return "internal snapshots, which would be lost"
		}
		for _, c := range t.Children(t.Layers[i].On) {
			if c != i {
				return "it builds on a layer that the merge would change"
			}
		}
	}
	return ""
}

// isRefusal tells whether err is one of the kinds that say that nothing was done.
func isRefusal(err error) bool {
	var refused *chain.RefusedError
	var unsupported *qcow2.UnsupportedError
	return errors.As(err, &refused) || errors.As(err, &unsupported)
}

// after is the state that the operation is to bring about.
func (o *op) after(b *bench) *state {
	s := b.before()
	t := b.tree
	image := t.Layers[o.Layer].Name
	switch o.Kind {
	case "commit":
		o.committed(b, s)
	case "pull":
		s.changed[image] = true
		delete(s.on, image)
		if o.Base != images.None {
			s.on[image] = t.Layers[o.Base].Name
		}
	case "rebase", "relink":
		s.changed[image] = true
		delete(s.on, image)
		if o.Base != images.None {
			s.on[image] = t.Layers[o.Base].Name
			s.names[image], _ = o.backing(b)
		}
	case "convert", "copy":
		o.converted(b, s)
	case "into":
		target := t.Layers[o.Base].Name
		s.disks[target], s.changed[target] = b.was[o.Base].With(b.was[o.Layer].Resized(b.was[o.Base].Size), 0, b.was[o.Layer].Size), true
	case "take", "drop", "revert":
		s.changed[image] = true
		o.snapped(b, s)
	case "resize":
		s.disks[image], s.changed[image] = b.was[o.Layer].Resized(o.Size), true
	}
	return s
}

func (o *op) committed(b *bench, s *state) {
	t := b.tree
	base := t.Layers[o.Base].Name
	s.disks[base], s.changed[base] = b.was[o.Layer], true
	if t.Layers[o.Base].Device != "" && t.Layers[o.Base].Format == "raw" {
		s.disks[base] = b.was[o.Layer].Resized(b.was[o.Base].Size)
	}
	for _, c := range t.Children(o.Layer) {
		name := t.Layers[c].Name
		s.changed[name], s.on[name] = true, base
		s.names[name], _ = (&op{Layer: c, Base: o.Base, Absolute: t.Layers[c].Absolute}).backing(b)
	}
	for i := o.Layer; i != o.Base; i = t.Layers[i].On {
		switch {
		case !o.Keep && t.Layers[i].Device == "":
			s.remove(t.Layers[i].Name)
		case i != o.Layer:
			s.disks[t.Layers[i].Name] = nil
		}
	}
}

func (o *op) converted(b *bench, s *state) {
	below := b.tree.Below(o.Layer)
	for i, k := range below {
		name := b.outName(i)
		if o.Kind == "convert" && i < len(below)-1 {
			continue
		}
		s.disks[name], s.format[name], s.changed[name] = b.was[k], "qcow2", true
		switch {
		case o.Kind == "convert" && o.Raw:
			s.format[name] = "raw"
		case o.Kind == "copy" && i > 0:
			s.on[name] = b.outName(i - 1)
		}
	}
}

// during is the state that the operation may be interrupted in.
func (o *op) during(b *bench) *state {
	s := b.before()
	s.interrupted = true
	switch o.Kind {
	case "commit":
		o.committing(b, s)
	case "pull", "rebase", "relink":
		s.changed[b.tree.Layers[o.Layer].Name] = true
	case "into": // it has a part
		s.changed[b.tree.Layers[o.Base].Name], s.disks[b.tree.Layers[o.Base].Name] = true, nil
	case "resize": // the disk has either size
		s.changed[b.tree.Layers[o.Layer].Name], s.disks[b.tree.Layers[o.Layer].Name] = true, nil
	}
	return s
}

func (o *op) committing(b *bench, s *state) {
	t := b.tree
	base := t.Layers[o.Base].Name
	s.disks[base], s.changed[base] = nil, true
	for _, c := range t.Children(o.Layer) {
		s.changed[t.Layers[c].Name] = true
	}
	for i := o.Layer; i != o.Base; i = t.Layers[i].On {
		s.gone[t.Layers[i].Name] = !o.Keep
		if i != o.Layer {
			s.disks[t.Layers[i].Name] = nil
		}
	}
}

// drive carries out the operation, interrupted first if it is to be, and compares
// the images with what they are to be.
func (b *bench) drive(ctx context.Context, o *op) (refused string, err error) {
	if o.Kind == "write" {
		return "", b.write(ctx, o)
	}
	if refused = o.refusal(b); refused != "" {
		return refused, b.driveRefused(ctx, o)
	}
	want := o.after(b)
	if o.Stop < 0 && o.Die < 0 {
		if err := b.runAll(ctx, o); err != nil {
			return "", err
		}
		return "", b.verify(ctx, want)
	}
	want.leaks = want.leaks || o.leaks()
	if err := b.interrupt(ctx, o); err != nil {
		return "", err
	}
	return "", b.goOn(ctx, o, want)
}

// leaks tells whether the operation may have lost space once it is done again. A commit or a pull gives back
// what the first one has lost.
func (o *op) leaks() bool { return o.Kind != "commit" && o.Kind != "pull" && o.leaksCutOff() }

// leaksCutOff tells whether it may lose space as it is cut off: a process that dies may, and
// one that is cancelled after refcounts had to be written early.
func (o *op) leaksCutOff() bool {
	return o.Die >= 0 || o.Stop >= 0 && os.Getenv("VIRT_ROTATE_SMALL_ROUNDS") != ""
}

// goOn finishes an operation that was interrupted: by Recover, if o says so or if
// a commit has got so far that it cannot be planned again, else by doing it again.
func (b *bench) goOn(ctx context.Context, o *op, want *state) error {
	if o.Recover || b.relinked(o) {
		if err := b.recover(ctx, o); err != nil {
			return err
		}
	}
	err := b.verify(ctx, want)
	if err == nil && o.Kind != "resize" && o.Kind != "into" { // files that are as they were are not read
		return nil
	}
	if _, gone := os.Stat(b.path(o.Layer)); gone != nil {
		return err
	}
	b.removeOuts()
	if err := b.runAll(ctx, o); err != nil {
		return err
	}
	return b.verify(ctx, want)
}

// relinked tells whether an interrupted commit was written down: then the base holds
// everything, children may build on it, and Recover goes on.
func (b *bench) relinked(o *op) bool {
	dir, name := filepath.Split(b.path(o.Layer))
	_, err := os.Stat(filepath.Join(dir, ".virt-rotate-commit-"+name+".json"))
	return err == nil
}

// runAll runs the operation to its end and looks at the progress it tells.
func (b *bench) runAll(ctx context.Context, o *op) error {
	var mu sync.Mutex
	var told, amount int64
	err := o.run(ctx, vfs.OS(), b, func(n, of int64) {
		mu.Lock()
		defer mu.Unlock()
		told, amount = told+n, of
	})
	if err != nil {
		return fmt.Errorf("%s: %w", o.Kind, err)
	}
	if resized := b.was[o.Layer].Size != b.was[max(o.Base, 0)].Size; told != amount && (o.Kind == "pull" || o.Kind == "commit" && !resized) {
		return fmt.Errorf("%s: %d bytes were planned, progress was told of %d", o.Kind, amount, told)
	}
	return nil
}

// driveRefused wants a refusal that changes nothing.
func (b *bench) driveRefused(ctx context.Context, o *op) error {
	err := o.run(ctx, vfs.OS(), b, func(int64, int64) {})
	if err == nil {
		return errors.New("it is not refused")
	}
	if !isRefusal(err) {
		return fmt.Errorf("it is refused by: %w", err)
	}
	return b.verify(ctx, b.before())
}

// interrupt cancels the operation or lets it die, and looks at what it leaves.
func (b *bench) interrupt(ctx context.Context, o *op) error {
	var err error
	if o.Stop >= 0 {
		err = b.stop(ctx, o)
	} else {
		err = b.die(ctx, o)
	}
	if err != nil {
		return err
	}
	s := o.during(b)
	s.leaks = s.leaks || o.leaksCutOff()
	if err := b.verify(ctx, s); err != nil {
		return fmt.Errorf("interrupted: %w", err)
	}
	return nil
}

// stop cancels the context at the share of the progress.
func (b *bench) stop(ctx context.Context, o *op) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var mu sync.Mutex
	var total int64
	err := o.run(ctx, vfs.OS(), b, func(n, of int64) {
		mu.Lock()
		defer mu.Unlock()
		if total += n; float64(total) >= o.Stop*float64(of) {
			cancel()
		}
	})
	if err != nil && !errors.Is(err, context.Canceled) {
		return fmt.Errorf("%s, to be cancelled: %w", o.Kind, err)
	}
	return nil
}

// die counts the changes of files in one run, and lets another end at their share.
func (b *bench) die(ctx context.Context, o *op) error {
	count := newMortal(-1)
	if err := o.run(ctx, count, b, func(int64, int64) {}); err != nil {
		return fmt.Errorf("%s: %w", o.Kind, err)
	}
	if err := b.restore(); err != nil {
		return err
	}
	fs := newMortal(int64(o.Die * float64(count.changes.Load())))
	if err := o.run(ctx, fs, b, func(int64, int64) {}); err != nil && !errors.Is(err, errDead) {
		return fmt.Errorf("%s, to die: %w", o.Kind, err)
	}
	return nil
}

// recover finishes commits.
func (b *bench) recover(ctx context.Context, o *op) error {
	if o.Kind != "commit" {
		return nil
	}
	_, err := b.store(vfs.OS()).Recover(ctx, b.dirs(), func(int64) {})
	if err != nil {
		return fmt.Errorf("recover: %w", err)
	}
	return nil
}

// removeOuts removes what an interrupted conversion has made.
func (b *bench) removeOuts() {
	for i := range b.tree.Layers {
		os.Remove(filepath.Join(b.dir, b.outName(i)))
	}
}
