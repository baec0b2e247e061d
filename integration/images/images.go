// Package images makes chains of disk images with qemu-img and qemu-io, for
// tests, and reads them: with qemu-img, whose word counts, and with our own engine.
//
// What is made depends on a seed only. A Tree is pure data: Script is the shell
// script that makes its files, the one that a failed test prints.
package images

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// None is the index of no layer.
const None = -1

// A Layer is one image file of a Tree.
type Layer struct {
	Name     string // of the file, in the directory of the tree or one below it
	Format   string // raw or qcow2
	On       int    // the layer it builds on, or None
	CopyOf   int    // the layer whose file it is a copy of before Steps, or None
	Absolute bool   // how it names what it builds on
	Device   string // the block device that Name is to be a symbolic link to
	Size     int64  // bytes; 0 means as the layer below
	Options  string // of qemu-img create -o
	// Steps are commands of qemu-io, or with ! before them, of qemu-img. $P is the
	// directory of patterns. An exact * stands for the file in the latter.
	Steps []string
}

// A Tree is a set of images, each after what it builds on.
type Tree struct {
	Layers []Layer
}

// Script is the shell script that makes the files in the current directory.
func (t *Tree) Script() string {
	var b strings.Builder
	for i := range t.Layers {
		l := &t.Layers[i]
		if dir := filepath.Dir(l.Name); dir != "." {
			fmt.Fprintf(&b, "mkdir -p %s\n", dir)
		}
		if l.Device != "" {
			fmt.Fprintf(&b, "ln -s %s %s\n", l.Device, l.Name)
		}
		b.WriteString(t.create(l) + "\n")
		b.WriteString(l.fill())
	}
	return b.String()
}

func (t *Tree) create(l *Layer) string {
	if l.CopyOf != None {
		return t.copyOf(l)
	}
	if l.Device != "" && l.Format == "raw" {
		return ":"
	}
	line := []string{"qemu-img create -q -f", l.Format}
	if l.Options != "" {
		line = append(line, "-o", l.Options)
	}
	if l.On != None {
		line = append(line, "-F", t.Layers[l.On].Format, "-b", t.backing(l))
	}
	line = append(line, l.Name)
	if l.Size != 0 || l.On == None {
		line = append(line, fmt.Sprint(l.Size))
	}
	return strings.Join(line, " ")
}

func (t *Tree) copyOf(l *Layer) string {
	line := fmt.Sprintf("cp --sparse=always %s %s", t.Layers[l.CopyOf].Name, l.Name)
	if l.On != None {
		line += fmt.Sprintf("\nqemu-img rebase -u -f %s -F %s -b %s %s", l.Format, t.Layers[l.On].Format, t.backing(l), l.Name)
	}
	return line
}

// backing is how l names what it builds on.
func (t *Tree) backing(l *Layer) string {
	name := t.Layers[l.On].Name
	if l.Absolute {
		return `"$PWD"/` + name
	}
	rel, err := filepath.Rel(filepath.Dir(l.Name), name)
	if err != nil {
		return name
	}
	return rel
}

// fill runs the steps, as few processes as possible.
func (l *Layer) fill() string {
	var b strings.Builder
	var pending []string
	for _, s := range l.Steps {
		line, isImg := strings.CutPrefix(s, "!")
		if !isImg {
			pending = append(pending, s)
			continue
		}
		l.io(&b, pending)
		pending = nil
		fmt.Fprintf(&b, "qemu-img %s 2>/dev/null || qemu-img check -q -r leaks %s || :\n", strings.ReplaceAll(line, "*", l.Name), l.Name)
	}
	l.io(&b, pending)
	return b.String()
}

// io has qemu-io carry out commands. QEMU 7.2 does not compress what has a cluster
// already: such commands fail. And it goes on compressing into a cluster that
// was freed and may be another's now, unless the image is closed before.
func (l *Layer) io(b *strings.Builder, cmds []string) {
	if len(cmds) == 0 {
		return
	}
	fmt.Fprintf(b, "qemu-io -f %s -d unmap -t unsafe", l.Format)
	for i, c := range cmds {
		if i > 0 && strings.HasPrefix(c, "write -c") {
			fmt.Fprintf(b, " -c close -c 'open -d unmap -t unsafe -o driver=%s %s'", l.Format, l.Name)
		}
		fmt.Fprintf(b, " -c %q", c)
	}
	fmt.Fprintf(b, " %s >/dev/null || :\n", l.Name)
}

// Build makes the files in dir, which need not exist. Patterns is a directory
// that WritePatterns has filled.
func (t *Tree) Build(ctx context.Context, dir, patterns string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return Shell(ctx, dir, "P="+patterns, t.Script())
}

// Shell runs a script in dir, with one more variable.
func Shell(ctx context.Context, dir, env, script string) error {
	c := exec.CommandContext(ctx, "sh", "-ec", script)
	c.Dir = dir
	c.Env = append(os.Environ(), env)
	if out, err := c.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

// Find returns the index of the layer of that name.
func (t *Tree) Find(name string) int {
	return slices.IndexFunc(t.Layers, func(l Layer) bool { return l.Name == name })
}

// Below lists the layers that layer i is made of, base first, with i.
func (t *Tree) Below(i int) []int {
	if i == None {
		return nil
	}
	return append(t.Below(t.Layers[i].On), i)
}

// Children lists the layers that build directly on layer i.
func (t *Tree) Children(i int) []int {
	var out []int
	for k := range t.Layers {
		if t.Layers[k].On == i {
			out = append(out, k)
		}
	}
	return out
}

// Clone returns a copy that shares nothing.
func (t *Tree) Clone() *Tree {
	c := &Tree{slices.Clone(t.Layers)}
	for i := range c.Layers {
		c.Layers[i].Steps = slices.Clone(c.Layers[i].Steps)
	}
	return c
}
