package guestfs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"
	"time"
)

// A Server hands out one disk, read-only, over NBD.
type Server struct {
	Socket string
	*process
}

// Serve starts qemu-nbd, and returns when somebody can connect to the socket.
func Serve(ctx context.Context, d *Disk, socket string) (*Server, error) {
	image, err := d.arguments()
	if err != nil {
		return nil, err
	}
	old := syscall.Umask(0o077) // the socket is for this user alone
	p, err := start("qemu-nbd", false, nil, append([]string{"--read-only", "--persistent", "--shared=8", "--socket=" + socket}, image...)...)
	syscall.Umask(old)
	if err != nil {
		return nil, err
	}
	s := &Server{socket, p}
	if err := s.listens(ctx); err != nil {
		if _, image, locked := strings.Cut(p.errs.String(), "Is another process using the image ["); locked {
			err = fmt.Errorf("%w: %s", ErrLocked, strings.TrimRight(image, "]?\n"))
		}
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// ErrLocked says that somebody writes to an image that is to be read.
var ErrLocked = errors.New("somebody writes to the image")

// Close ends it.
func (s *Server) Close() error {
	if s == nil {
		return nil
	}
	return s.stop()
}

// Ended is closed when the server is no more; Failure says why then.
func (s *Server) Ended() <-chan struct{} { return s.ended }

// Failure says what the server ended with.
func (s *Server) Failure() error { return s.failure() }

// patience is how long qemu-nbd and nbdfuse may take to begin, also on a busy host.
const patience = 30 * time.Second

// listens waits until the server greets somebody: it lets connections in before it has opened,
// and locked, the image.
func (s *Server) listens(ctx context.Context) error {
	return s.awaitBegin(ctx, func() bool { return greets(s.Socket) })
}

// greeting is what an NBD server begins with.
const greeting = "NBDMAGIC"

// greetTime is how long one waits for it before one looks whether the server is there still.
const greetTime = 200 * time.Millisecond

func greets(socket string) bool {
	c, err := net.Dial("unix", socket)
	if err != nil {
		return false
	}
	defer c.Close()
	said := make([]byte, len(greeting))
	if c.SetReadDeadline(time.Now().Add(greetTime)) != nil {
		return false
	}
	_, err = io.ReadFull(c, said)
	return err == nil && string(said) == greeting
}

// awaitBegin waits until a process does what it was started for.
func (p *process) awaitBegin(ctx context.Context, ready func() bool) error {
	end := time.After(patience)
	for !ready() {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-p.ended:
			return p.failure()
		case <-end:
			return fmt.Errorf("%s does not begin within %v", p.name, patience)
		case <-time.After(20 * time.Millisecond):
		}
	}
	return nil
}
