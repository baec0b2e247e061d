package coord

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// A Store keeps small values that all hosts see change in one order, as etcd does. Keys are
// words with a slash in between.
type Store interface {
	// List returns all values whose keys begin with prefix, and the revision that they are of.
	List(ctx context.Context, prefix string) (values map[string][]byte, revision int64, err error)
	// Get returns a value as it was at a revision; nil where there was none.
	Get(ctx context.Context, key string, revision int64) ([]byte, error)
	// Change puts all values or, with ErrChanged, none if a key that begins with guard has
	// changed after the revision.
	Change(ctx context.Context, guard string, revision int64, put map[string][]byte) error
	// Hold takes one of n places below prefix; it waits for one until ctx ends.
	Hold(ctx context.Context, prefix string, n int) (Hold, error)
	// String names it for people.
	String() string
}

// ErrChanged says that another host has come first.
var ErrChanged = errors.New("another host has changed it meanwhile")

// Central is a ledger in a Store. Below its prefix are
//
//	hosts/0007   the record of the host of place 7, as JSON
//	users/0007   what it has told: JSON, compressed by gzip
//	slots/0, …   of hosts that merge
type central struct {
	s      *share
	store  Store
	prefix string
}

func (l central) where() string { return l.store.String() }

// with reads, decides, and writes if nobody has written meanwhile; else all that again.
func (l central) with(ctx context.Context, change bool, do func(table) error) error {
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(l.s.fleet.Wait, defaultWait))
	defer cancel()
	for {
		values, revision, err := l.store.List(ctx, l.prefix+"hosts/")
		if err != nil {
			return fmt.Errorf("%s: %w", l.where(), err)
		}
		t := &valueTable{ctx: ctx, l: l, values: values, revision: revision, puts: map[string][]byte{}}
		if err := do(t); err != nil || !change || len(t.puts) == 0 {
			return err
		}
		l.s.fleet.boundary("before the store is changed")
		if err = l.store.Change(ctx, l.prefix+"hosts/", revision, t.puts); err == nil {
			return nil
		}
		if !errors.Is(err, ErrChanged) {
			return fmt.Errorf("%s: %w", l.where(), err)
		}
	}
}

func (l central) take(ctx context.Context, n int) (Hold, error) {
	h, err := l.store.Hold(ctx, l.prefix+"slots/", n)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", l.where(), err)
	}
	return h, nil
}

// A valueTable is the hosts of a Store at a revision, and what is to be put.
type valueTable struct {
	ctx      context.Context //nolint:containedctx // it lives as long as one call
	l        central
	values   map[string][]byte
	revision int64
	puts     map[string][]byte
}

func (t *valueTable) key(kind string, place int) string {
	return fmt.Sprintf("%s%s/%04d", t.l.prefix, kind, place)
}

func (t *valueTable) places() int {
	last := -1
	for _, key := range slices.Sorted(maps.Keys(t.values)) {
		if n, err := strconv.Atoi(strings.TrimPrefix(key, t.l.prefix+"hosts/")); err == nil && n < mostHosts {
			last = max(last, n)
		}
	}
	return last + 1
}

func (t *valueTable) at(place int) (record, error) {
	var r record
	value, ok := t.values[t.key("hosts", place)]
	if !ok {
		return r, errNoRecord
	}
	if err := json.Unmarshal(value, &r); err != nil {
		return r, err
	}
	return r, r.check()
}

func (t *valueTable) put(place int, r record) error {
	value, err := json.Marshal(r)
	if err != nil {
		return err
	}
	t.puts[t.key("hosts", place)] = value
	t.values[t.key("hosts", place)] = value
	return nil
}

// users is what the host had told at the revision of the table.
func (t *valueTable) users(place int, _ record) ([]byte, error) {
	value, err := t.l.store.Get(t.ctx, t.key("users", place), t.revision)
	if err != nil {
		return nil, err
	}
	unpacked, err := gzip.NewReader(bytes.NewReader(value))
	if err != nil {
		return nil, err
	}
	return io.ReadAll(io.LimitReader(unpacked, mostTold))
}

// mostValue is the most bytes of one change: servers of etcd take 1.5 MiB unless they are told
// otherwise.
const mostValue = 1 << 20

func (t *valueTable) tell(place int, _ record, data []byte) error {
	var packed bytes.Buffer
	w := gzip.NewWriter(&packed)
	_, _ = w.Write(data) // into memory
	if err := w.Close(); err != nil {
		return err
	}
	if packed.Len() > mostValue {
		return fmt.Errorf("what this host uses takes %d bytes: at most %d can be told to %s", packed.Len(), mostValue, t.l.where())
	}
	t.puts[t.key("users", place)] = packed.Bytes()
	return nil
}

// key is under which this host remembers what it has told of a storage.
func (s *share) key(id string) string {
	if s.fleet.Store == nil {
		return id
	}
	return "store/" + id
}
