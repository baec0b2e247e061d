package etcd

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/virt-rotate/virt-rotate/rotate/coord"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// A hold is a key that lives as long as a lease which this process renews.
type hold struct {
	s        *Store
	key      string
	revision int64 // of its creation: another one means that it is somebody else's
	lease    clientv3.LeaseID
	lost     atomic.Bool
	end      context.CancelFunc
}

// Hold takes one of the keys 0 … n-1 below prefix.
func (s *Store) Hold(ctx context.Context, prefix string, n int) (coord.Hold, error) {
	lease, err := ask(ctx, s, func(ctx context.Context, c *clientv3.Client) (*clientv3.LeaseGrantResponse, error) {
		return c.Grant(ctx, int64((s.config.TTL+time.Second-1)/time.Second))
	})
	if err != nil {
		return nil, err
	}
	h := &hold{s: s, lease: lease.ID}
	if err := h.keep(ctx); err != nil {
		return nil, errors.Join(err, h.revoke())
	}
	if err := h.wait(ctx, prefix, n); err != nil {
		h.Release()
		return nil, err
	}
	return h, nil
}

// keep renews the lease until it is given back or cannot be renewed.
func (h *hold) keep(ctx context.Context) error {
	c, err := h.s.connected()
	if err != nil {
		return err
	}
	ctx, h.end = context.WithCancel(context.WithoutCancel(ctx))
	renewed, err := c.KeepAlive(ctx, h.lease)
	if err != nil {
		h.end()
		return err
	}
	go func() {
		for range renewed { //nolint:revive // each tells only that it goes on
		}
		h.lost.Store(true)
	}()
	return nil
}

// wait looks for a free key, at once and whenever one of them has changed.
func (h *hold) wait(ctx context.Context, prefix string, n int) error {
	for {
		revision, err := h.take(ctx, prefix, n)
		if err != nil || h.key != "" {
			return err
		}
		if err := h.changed(ctx, prefix, revision); err != nil {
			return err
		}
		if h.lost.Load() {
			return errLost
		}
	}
}

// take tries all keys; it returns the last revision at which none of them was free.
func (h *hold) take(ctx context.Context, prefix string, n int) (revision int64, err error) {
	for i := range n {
		key := fmt.Sprintf("%s%s%d", h.s.config.Prefix, prefix, i)
		free := clientv3.Compare(clientv3.CreateRevision(key), "=", 0)
		r, err := h.s.txn(ctx, []clientv3.Cmp{free}, clientv3.OpPut(key, "", clientv3.WithLease(h.lease)))
		if err != nil {
			return 0, err
		}
		if r.Succeeded {
			h.key, h.revision = key, r.Header.Revision
			return h.revision, nil
		}
		if revision == 0 {
			revision = r.Header.Revision // of the first: what was freed later is seen by the watch
		}
	}
	return revision, nil
}

// mostWait is how long a change is waited for before all is tried again: a watch can end
// without a word.
const mostWait = 10 * time.Second

// changed waits for a change after the revision.
func (h *hold) changed(ctx context.Context, prefix string, revision int64) error {
	c, err := h.s.connected()
	if err != nil {
		return err
	}
	limited, cancel := context.WithTimeout(ctx, mostWait)
	defer cancel()
	select {
	case <-c.Watch(clientv3.WithRequireLeader(limited), h.s.config.Prefix+prefix, clientv3.WithPrefix(), clientv3.WithRev(revision+1)):
	case <-limited.Done():
	}
	return ctx.Err()
}

// Err asks the cluster whether the key is still the one that this process has made: a process
// that was stopped for a while does not know that its lease has ended.
func (h *hold) Err() error {
	if h.lost.Load() {
		return errLost
	}
	r, err := ask(context.Background(), h.s, func(ctx context.Context, c *clientv3.Client) (*clientv3.GetResponse, error) {
		return c.Get(ctx, h.key)
	})
	switch {
	case err != nil:
		return err
	case len(r.Kvs) == 0 || r.Kvs[0].CreateRevision != h.revision:
		return errLost
	}
	return nil
}

// Release gives the key back. Where that cannot be told, it ends with the lease.
func (h *hold) Release() {
	h.end()
	_ = h.revoke()
}

func (h *hold) revoke() error {
	_, err := ask(context.Background(), h.s, func(ctx context.Context, c *clientv3.Client) (*clientv3.LeaseRevokeResponse, error) {
		return c.Revoke(ctx, h.lease)
	})
	return err
}
