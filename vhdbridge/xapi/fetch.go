package xapi

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"golang.org/x/time/rate"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"github.com/virt-rotate/virt-rotate/vhdbridge/vhd"
)

const (
	blockBytes  = 2 << 20 // of a VHD of XenServer's
	copyBytes   = 1 << 20 // what is read at once
	zeroBytes   = 64 << 10
	footerBytes = 512
	attempts    = 3
)

// A StreamError says that what came is no VHD that is whole, or not of that disk.
type StreamError struct{ Reason string }

func (e *StreamError) Error() string { return "what came is not whole: " + e.Reason }

// fetch reads a state into a file of that name: what has changed since below, or all. Where
// a host cannot tell what has changed, all is read, and compared here. What fails is tried
// again.
func (p *Puller) fetch(ctx context.Context, s, below *State, name string) (n int64, err error) {
	for try := range attempts {
		if err = p.Client.pause(ctx, try); err != nil {
			return n, err
		}
		var k int64
		k, err = p.fetchOnce(ctx, s, below, name)
		n += k
		if err == nil || ctx.Err() != nil || isLocal(err) {
			return n, err
		}
		p.warn(fmt.Sprintf("%s: %v", s.VDI.UUID, err))
		if isCode(err, codeSession) {
			if err := p.Client.login(ctx); err != nil {
				return n, err
			}
		}
	}
	if below == nil {
		return n, err
	}
	p.warn(fmt.Sprintf("%s: what has changed since %s cannot be read: all is, and compared", s.VDI.UUID, below.VDI.UUID))
	k, fullErr := p.fetchCompared(ctx, s, below, name)
	if fullErr != nil {
		return n + k, errors.Join(err, fullErr)
	}
	return n + k, nil
}

func (p *Puller) warn(text string) {
	if p.Warn != nil {
		p.Warn(text)
	}
}

// fetchOnce reads a state from its beginning.
func (p *Puller) fetchOnce(ctx context.Context, s, below *State, name string) (n int64, err error) {
	ref := ""
	if below != nil && below.VDI.SR == s.VDI.SR {
		ref = below.VDI.Ref
	}
	part, err := p.newPart()
	if err != nil {
		return 0, err
	}
	n, err = p.receive(ctx, s, ref, part)
	if err == nil {
		err = p.settle(ctx, s, below, part)
	}
	return n, part.finish(err, name)
}

// fetchCompared reads all of a state, and keeps what differs from the one below.
func (p *Puller) fetchCompared(ctx context.Context, s, below *State, name string) (n int64, err error) {
	part, err := p.newPart()
	if err != nil {
		return 0, err
	}
	n, err = p.receive(ctx, s, "", part)
	if err == nil {
		err = p.settle(ctx, s, below, part)
	}
	return n, part.finish(err, name)
}

// receive writes a stream into the part, leaving zeros out, and sees that it has an end.
func (p *Puller) receive(ctx context.Context, s *State, base string, to *part) (n int64, err error) {
	body, err := p.Client.export(ctx, s.VDI.Ref, base)
	if err != nil {
		return 0, err
	}
	defer body.Close()
	what := "pull " + s.VDI.UUID
	done, end := func(int64) {}, func() {}
	if p.Progress != nil {
		done, end = p.Progress(what, s.VDI.Used)
	}
	defer end()
	n, err = p.copyStream(ctx, to.f, body, mostStream(s.VDI.Size), done)
	if err != nil {
		return n, err
	}
	return n, ended(to.f, n)
}

// mostStream is how long the stream of a disk can be: all blocks, with their bitmaps, the
// table, and footers, header, locators, batmap.
func mostStream(size int64) int64 {
	blocks := (size + blockBytes - 1) / blockBytes
	return blocks*(blockBytes+4096+8) + 1<<20
}

// copyStream copies what comes. A connection that ends without the end of TLS is told from
// one that is whole by what has come.
func (p *Puller) copyStream(ctx context.Context, f vfs.File, from io.Reader, most int64, done func(int64)) (n int64, err error) {
	buf := make([]byte, copyBytes)
	limit := p.limiter()
	for {
		k, err := io.ReadFull(from, buf)
		if n+int64(k) > most {
			return n, &StreamError{fmt.Sprintf("more than %d bytes came, and the disk cannot have so many", most)}
		}
		if err := writeSparse(f, buf[:k], n); err != nil {
			return n, err
		}
		n += int64(k)
		done(int64(k))
		if limit != nil && k > 0 {
			if err := limit.WaitN(ctx, k); err != nil {
				return n, err
			}
		}
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return n, f.Truncate(n)
		case err != nil:
			return n, fmt.Errorf("after %d bytes: %w", n, withoutURL(err))
		}
	}
}

// limiter keeps to the rate that was asked for, if any was.
func (p *Puller) limiter() *rate.Limiter {
	if p.Rate <= 0 {
		return nil
	}
	return rate.NewLimiter(rate.Limit(p.Rate), copyBytes)
}

// writeSparse leaves out stretches of zeros: the file has holes there.
func writeSparse(f vfs.File, b []byte, off int64) error {
	zeros := make([]byte, zeroBytes)
	for len(b) > 0 {
		n := min(zeroBytes, len(b))
		if !bytes.Equal(b[:n], zeros[:n]) {
			if _, err := f.WriteAt(b[:n], off); err != nil {
				return err
			}
		}
		b, off = b[n:], off+int64(n)
	}
	return nil
}

// ended wants a footer at the end which says what its copy at the beginning says: streams
// that break off have none.
func ended(f vfs.File, size int64) error {
	if size < 2*footerBytes {
		return &StreamError{fmt.Sprintf("%d bytes came", size)}
	}
	var head, foot [footerBytes]byte
	if _, err := f.ReadAt(head[:], 0); err != nil {
		return err
	}
	if _, err := f.ReadAt(foot[:], size-footerBytes); err != nil {
		return err
	}
	if ok, err := vhd.Probe(bytes.NewReader(head[:])); err != nil || !ok {
		return &StreamError{"it does not begin as a VHD"}
	}
	if head != foot {
		return &StreamError{fmt.Sprintf("it ends after %d bytes, without a footer", size)}
	}
	return nil
}
