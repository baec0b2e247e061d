package inside

import (
	"context"
	"errors"
	"io/fs"
	"time"

	"github.com/virt-rotate/virt-rotate/rotate/coord"
	"github.com/virt-rotate/virt-rotate/rotate/coord/etcd"
)

// Storages are those of rotate/coord on this host.
type Storages struct{ open *things }

// A Host is one that tells others: its name, its state directory, and where it looks for storage.
type Host struct {
	Name, State, Dir string
	Shared           bool // by the administrator's word; else by its file system
	Slots            int
	Endpoints        []string // of the etcd by which hosts tell each other; none: they do on the storage
	Prefix           string   // of its keys
}

// patience is how long a call of etcd may take: machines without a processor of their own are slow.
const patience = 30 * time.Second

// Open finds the storages that the directory is on.
func (s *Storages) Open(h Host, numbers *[]int) error {
	fleet := &coord.Fleet{Name: h.Name, StateDir: h.State, Slots: h.Slots}
	if h.Shared {
		fleet.Shared = []string{h.Dir}
	}
	if len(h.Endpoints) > 0 {
		fleet.Store = etcd.New(etcd.Config{Endpoints: h.Endpoints, Prefix: h.Prefix, Timeout: patience, TTL: 15 * time.Second})
	}
	for _, storage := range fleet.On(h.Dir) {
		*numbers = append(*numbers, s.open.add(storage))
	}
	return nil
}

// About is what a storage says of itself.
type About struct{ Dir, UUID, Records string }

// About asks it.
func (s *Storages) About(number int, a *About) error {
	storage, err := thing[coord.Storage](s.open, number)
	if err != nil {
		return err
	}
	a.Dir, a.UUID = storage.Dir(), storage.UUID()
	if a.Records, err = storage.Records(); errors.Is(err, fs.ErrNotExist) {
		return nil // nobody has told anything yet
	}
	return err
}

// A Call is one that a context ends.
type Call struct {
	Number int
	Ended  bool          // at once
	For    time.Duration // 0: never
	N      int           // slots
	Name   string        // a host
}

func (c Call) context() (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(context.Background())
	if c.Ended {
		cancel()
	}
	if c.For > 0 {
		ctx, cancel = context.WithTimeout(ctx, c.For)
	}
	return ctx, cancel
}

// View reads what all hosts have told.
func (s *Storages) View(c Call, v *coord.View) error {
	storage, err := thing[coord.Storage](s.open, c.Number)
	if err != nil {
		return err
	}
	ctx, cancel := c.context()
	defer cancel()
	*v, err = storage.View(ctx)
	return err
}

// A telling is a call of Tell that waits for what is to be told.
type telling struct {
	seen chan coord.View
	told chan coord.Told
	end  chan error
}

// A Claim is a Tell in two calls: what the others have told, and a number to go on with.
type Claim struct {
	Number int
	View   coord.View
}

// When is a call of Tell.
type When struct {
	Call
	Now time.Time
}

// TellBegins holds the table of hosts until TellEnds. Over net/rpc a call cannot call back.
func (s *Storages) TellBegins(w When, c *Claim) error {
	storage, err := thing[coord.Storage](s.open, w.Number)
	if err != nil {
		return err
	}
	t := &telling{make(chan coord.View), make(chan coord.Told), make(chan error, 1)}
	go func() {
		ctx, cancel := w.context()
		defer cancel()
		t.end <- storage.Tell(ctx, w.Now, func(v coord.View) coord.Told {
			t.seen <- v
			return <-t.told
		})
	}()
	select {
	case c.View = <-t.seen:
		c.Number = s.open.add(t)
		return nil
	case err := <-t.end:
		return err
	}
}

// A Telling is what to tell.
type Telling struct {
	Number int
	Told   coord.Told
}

// TellEnds goes on with it.
func (s *Storages) TellEnds(what Telling, _ *None) error {
	t, err := thing[*telling](s.open, what.Number)
	if err != nil {
		return err
	}
	t.told <- what.Told
	return <-t.end
}

// Tell tells one thing after the other, each as soon as the one before is told.
func (s *Storages) Tell(all []Telling, _ *None) error {
	for i, what := range all {
		storage, err := thing[coord.Storage](s.open, what.Number)
		if err != nil {
			return err
		}
		now := time.Unix(int64(i), 0)
		if err := storage.Tell(context.Background(), now, func(coord.View) coord.Told { return what.Told }); err != nil {
			return err
		}
	}
	return nil
}

// Forget takes a host out.
func (s *Storages) Forget(c Call, _ *None) error {
	storage, err := thing[coord.Storage](s.open, c.Number)
	if err != nil {
		return err
	}
	ctx, cancel := c.context()
	defer cancel()
	return storage.Forget(ctx, c.Name)
}

// Take takes a slot, and returns its number.
func (s *Storages) Take(c Call, number *int) error {
	storage, err := thing[coord.Storage](s.open, c.Number)
	if err != nil {
		return err
	}
	ctx, cancel := c.context()
	defer cancel()
	hold, err := storage.Take(ctx, c.N)
	if err != nil {
		return err
	}
	*number = s.open.add(hold)
	return nil
}

// Release gives a slot back.
func (s *Storages) Release(number int, _ *None) error {
	hold, err := thing[coord.Hold](s.open, number)
	if err != nil {
		return err
	}
	hold.Release()
	return nil
}

// Lost is the error of a slot.
func (s *Storages) Lost(number int, _ *None) error {
	hold, err := thing[coord.Hold](s.open, number)
	if err != nil {
		return err
	}
	return hold.Err()
}

// Enter shows the others that this host is at work.
func (s *Storages) Enter(c Call, number *int) error {
	storage, err := thing[coord.Storage](s.open, c.Number)
	if err != nil {
		return err
	}
	leave, err := storage.Enter(context.Background()) // until Leave
	if err != nil {
		return err
	}
	*number = s.open.add(leave)
	return nil
}

// Leave ends that.
func (s *Storages) Leave(number int, _ *None) error {
	leave, err := thing[func()](s.open, number)
	if err != nil {
		return err
	}
	leave()
	return nil
}

// Locks looks whether locks reach the others.
func (s *Storages) Locks(c Call, found *coord.Crossing) error {
	storage, err := thing[coord.Storage](s.open, c.Number)
	if err != nil {
		return err
	}
	ctx, cancel := c.context()
	defer cancel()
	*found, err = storage.Locks(ctx)
	return err
}
