package images_test

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/virt-rotate/virt-rotate/integration/images"
)

// follow takes what an operation has left for the images to go on with.
func (b *bench) follow(o *op) (err error) {
	s := o.after(b)
	if o.Kind == "write" {
		s.disks[b.tree.Layers[o.Layer].Name] = o.written
	}
	maps.Copy(b.snaps, s.snaps)
	if o.Kind == "drop" {
		delete(b.snaps, b.tree.Layers[o.Layer].Name+"@"+o.Snap)
	}
	next, was := &images.Tree{}, []*images.Content{}
	names := slices.Sorted(maps.Keys(s.disks))
	for len(next.Layers) < len(names) {
		for _, name := range names {
			on := images.None
			if s.on[name] != "" {
				on = next.Find(s.on[name])
			}
			if next.Find(name) != images.None || s.on[name] != "" && on == images.None {
				continue
			}
			next.Layers = append(next.Layers, b.layerAfter(o, s, name, on))
			was = append(was, s.disks[name])
		}
	}
	b.tree, b.was, b.leaky = next, was, b.leaky || o.leaks()
	b.round++
	if b.files, err = b.readFiles(); err != nil {
		return err
	}
	return copyTree(b.dir, b.pristine)
}

func (b *bench) layerAfter(o *op, s *state, name string, on int) images.Layer {
	l := images.Layer{Name: name}
	if old := b.tree.Find(name); old != images.None {
		l = b.tree.Layers[old]
		if (o.Kind == "rebase" || o.Kind == "relink") && old == o.Layer {
			l.Absolute = o.Absolute
		}
	}
	l.Format, l.On, l.CopyOf = s.format[name], on, images.None
	return l
}

// canFollow tells whether all that an operation leaves is known.
func (o *op) canFollow() bool { return o.Kind != "compare" && (o.Kind != "commit" || !o.Keep) }

// write lets QEMU write to an image that the engine may have written to: what QEMU
// makes of its tables must not reach beyond.
func (b *bench) write(ctx context.Context, o *op) error {
	s := b.before()
	l := &b.tree.Layers[o.Layer]
	script := "qemu-io -t unsafe -f " + l.Format
	for _, w := range o.Writes {
		script += fmt.Sprintf(" -c %q", w.Command)
	}
	if err := images.Shell(ctx, b.dir, "P="+b.patterns, script+" "+l.Name); err != nil {
		return err
	}
	got, err := images.QemuRead(ctx, b.path(o.Layer), l.Format, b.tmp)
	if err != nil {
		return err
	}
	want := b.was[o.Layer]
	for _, w := range o.Writes {
		want = want.With(got, w.Offset, w.N)
	}
	if err := images.Same("what QEMU did not write", want, got); err != nil {
		return err
	}
	s.disks[l.Name], s.changed[l.Name], o.written = got, true, got
	return b.verify(ctx, s)
}
