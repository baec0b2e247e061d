package images_test

import (
	"maps"
	"slices"

	"github.com/virt-rotate/virt-rotate/integration/images"
)

// follow takes what an operation has left for the images to go on with.
func (b *bench) follow(o *op) (err error) {
	s := o.after(b)
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
		if o.Kind == "rebase" && old == o.Layer {
			l.Absolute = o.Absolute
		}
	}
	l.Format, l.On, l.CopyOf = s.format[name], on, images.None
	return l
}

// canFollow tells whether all that an operation leaves is known.
func (o *op) canFollow() bool { return o.Kind != "compare" && (o.Kind != "commit" || !o.Keep) }
