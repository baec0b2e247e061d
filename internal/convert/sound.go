package convert

import (
	"context"
	"errors"
	"fmt"
	"syscall"

	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

// Conversions of which one that cannot be done, and what builds on it, must not keep the
// others from being made.

// MeasureSound is Measure: what goes wrong with one is noted in its Err.
func (v *Converter) MeasureSound(ctx context.Context, all []*Conversion) error {
	return each(ctx, all, func(c *Conversion) error { return v.Measure(ctx, []*Conversion{c}) })
}

// HoldSound is Hold of all that the conversions read: what cannot be held is noted with
// those that read it.
func HoldSound(ctx context.Context, s *chain.Store, all []*Conversion) (release func() error, err error) {
	held := map[vfs.ID]error{}
	var releases []func() error
	release = func() error {
		var err error
		for _, r := range releases {
			err = errors.Join(err, r())
		}
		return err
	}
	hold := func(n chain.Node) error {
		err, known := held[n.Info.ID]
		if known {
			return err
		}
		r, err := Hold(s, []chain.Node{n})
		if err == nil {
			releases = append(releases, r)
		}
		held[n.Info.ID] = err
		return err
	}
	err = each(ctx, all, func(c *Conversion) (err error) {
		for _, n := range c.Nodes {
			err = errors.Join(err, hold(n))
		}
		return err
	})
	return release, err
}

// ConvertSound is Convert: those that fail leave nothing, and the others are named in the
// end. An error is about all of them, and then none is left.
func (v *Converter) ConvertSound(ctx context.Context, all []*Conversion) error {
	var total int64
	for _, c := range all {
		if c.Err == nil {
			total += c.Bytes
		}
	}
	done, end := v.Progress("convert", total)
	err := each(ctx, all, func(c *Conversion) error { return v.convertSound(ctx, c, done) })
	end()
	var sound []*Conversion
	for _, c := range all {
		if c.Err == nil {
			sound = append(sound, c)
		}
	}
	if err == nil && v.Naming != nil {
		err = v.Naming(sound)
	}
	return NameAll(sound, err)
}

func (v *Converter) convertSound(ctx context.Context, c *Conversion, done func(int64)) error {
	c.Bytes = 0
	err := v.makeOne(ctx, c, func(n int64) {
		c.Bytes += n
		done(n)
	})
	if err == nil || c.Made == nil {
		return err
	}
	if ctx.Err() != nil || isFull(err) {
		return err // NameAll removes it
	}
	return errors.Join(err, c.Made.Discard())
}

// each does something with all conversions that are sound so far. An error that is not
// about one of them ends it.
func each(ctx context.Context, all []*Conversion, do func(c *Conversion) error) error {
	for _, c := range all {
		if c.Err != nil {
			continue
		}
		if c.On != nil && c.On.Err != nil {
			c.Err = fmt.Errorf("it builds on %s", c.On.Path)
			continue
		}
		err := do(c)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if isFull(err) {
			return err
		}
		c.Err = err
	}
	return nil
}

// isFull tells that there is no room, or no writing, where all images go.
func isFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || errors.Is(err, syscall.EROFS)
}
