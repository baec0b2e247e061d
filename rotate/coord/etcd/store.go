package etcd

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/virt-rotate/virt-rotate/rotate/coord"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// A Config says how the cluster is reached.
type Config struct {
	Endpoints         []string // https://HOST:2379; any of them is enough
	CAFile            string   // PEM; "": the authorities of this system
	CertFile, KeyFile string   // PEM; of this host, if the cluster asks for one
	User              string   // "": the certificate tells, or nobody asks
	PasswordFile      string   // its first line
	Prefix            string   // of all keys; "": /virt-rotate
	// Timeout is how long one call may take, the choice of another member included; 0: 5 s.
	Timeout time.Duration
	// TTL is how long a slot outlives the host that has it; 0: 30 s. Whole seconds.
	TTL time.Duration
}

// A Store is a prefix of the keys of a cluster.
type Store struct {
	config Config
	mu     sync.Mutex // guards client
	client *clientv3.Client
}

var _ coord.Store = (*Store)(nil)

// New returns the store. It connects when it is asked for something first: a cluster that
// cannot be reached stops merges, and nothing else.
func New(config Config) *Store {
	config.Prefix = strings.TrimSuffix(cmp.Or(config.Prefix, "/virt-rotate"), "/") + "/"
	config.Timeout = cmp.Or(config.Timeout, 5*time.Second)
	config.TTL = cmp.Or(config.TTL, 30*time.Second)
	return &Store{config: config}
}

// String names the cluster.
func (s *Store) String() string { return "etcd at " + strings.Join(s.config.Endpoints, ", ") }

// Close ends the connections.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.client == nil {
		return nil
	}
	err := s.client.Close()
	s.client = nil
	return err
}

// connected is the client, which is made when it is needed first.
func (s *Store) connected() (*clientv3.Client, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.client != nil {
		return s.client, nil
	}
	c, err := s.config.client()
	if err != nil {
		return nil, err
	}
	s.client, err = clientv3.New(c)
	return s.client, err
}

func (c *Config) client() (clientv3.Config, error) {
	client := clientv3.Config{Endpoints: c.Endpoints, Username: c.User, DialTimeout: c.Timeout,
		DialKeepAliveTime: c.Timeout, DialKeepAliveTimeout: c.Timeout, Logger: zap.NewNop()}
	var err error
	if client.TLS, err = c.tls(); err != nil {
		return client, err
	}
	if c.PasswordFile != "" {
		text, err := os.ReadFile(c.PasswordFile)
		if err != nil {
			return client, err
		}
		client.Password, _, _ = strings.Cut(string(text), "\n")
	}
	return client, nil
}

// tls is nil for a cluster without.
func (c *Config) tls() (*tls.Config, error) {
	if len(c.Endpoints) > 0 && strings.HasPrefix(c.Endpoints[0], "http://") {
		return nil, nil //nolint:nilnil // how the client is told
	}
	t := &tls.Config{MinVersion: tls.VersionTLS12}
	if c.CAFile != "" {
		pem, err := os.ReadFile(c.CAFile)
		if err != nil {
			return nil, err
		}
		t.RootCAs = x509.NewCertPool()
		if !t.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s: no certificate in PEM", c.CAFile)
		}
	}
	if c.CertFile != "" {
		pair, err := tls.LoadX509KeyPair(c.CertFile, c.KeyFile)
		if err != nil {
			return nil, err
		}
		t.Certificates = []tls.Certificate{pair}
	}
	return t, nil
}

// ask makes one call, which is over after the timeout.
func ask[T any](ctx context.Context, s *Store, call func(ctx context.Context, c *clientv3.Client) (T, error)) (T, error) {
	var none T
	c, err := s.connected()
	if err != nil {
		return none, err
	}
	limited, cancel := context.WithTimeout(ctx, s.config.Timeout)
	defer cancel()
	answer, err := call(limited, c)
	if err != nil && ctx.Err() == nil && limited.Err() != nil {
		err = fmt.Errorf("no answer within %v: %w", s.config.Timeout, s.silence(ctx))
	}
	return answer, err
}

// lookAfter is how long it takes at most to find out why nobody answers.
const lookAfter = 2 * time.Second

var errTooFew = errors.New("members can be reached, and too few of them agree: has the cluster lost its quorum?")

// silence finds out why there is no answer, which the client does not tell.
func (s *Store) silence(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, lookAfter)
	defer cancel()
	secure, err := s.config.tls()
	if err != nil {
		return err
	}
	var all []string
	for _, endpoint := range s.config.Endpoints {
		at, err := url.Parse(endpoint)
		if err == nil {
			err = reach(ctx, at.Host, secure)
		}
		if err == nil {
			return errTooFew
		}
		all = append(all, err.Error())
	}
	return errors.New("no member can be reached: " + strings.Join(all, "; "))
}

func reach(ctx context.Context, address string, secure *tls.Config) error {
	var conn net.Conn
	var err error
	if secure == nil {
		conn, err = (&net.Dialer{}).DialContext(ctx, "tcp", address)
	} else {
		conn, err = (&tls.Dialer{Config: secure}).DialContext(ctx, "tcp", address)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", address, err)
	}
	return conn.Close()
}

func (s *Store) get(ctx context.Context, key string, options ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	return ask(ctx, s, func(ctx context.Context, c *clientv3.Client) (*clientv3.GetResponse, error) {
		return c.Get(ctx, s.config.Prefix+key, options...)
	})
}

func (s *Store) txn(ctx context.Context, when []clientv3.Cmp, then ...clientv3.Op) (*clientv3.TxnResponse, error) {
	return ask(ctx, s, func(ctx context.Context, c *clientv3.Client) (*clientv3.TxnResponse, error) {
		return c.Txn(ctx).If(when...).Then(then...).Commit()
	})
}

// List returns all values below a prefix as a quorum has them.
func (s *Store) List(ctx context.Context, prefix string) (map[string][]byte, int64, error) {
	r, err := s.get(ctx, prefix, clientv3.WithPrefix())
	if err != nil {
		return nil, 0, err
	}
	values := make(map[string][]byte, len(r.Kvs))
	for _, kv := range r.Kvs {
		values[strings.TrimPrefix(string(kv.Key), s.config.Prefix)] = kv.Value
	}
	return values, r.Header.Revision, nil
}

// Get returns a value as it was at a revision.
func (s *Store) Get(ctx context.Context, key string, revision int64) ([]byte, error) {
	r, err := s.get(ctx, key, clientv3.WithRev(revision))
	if err != nil || len(r.Kvs) == 0 {
		return nil, err
	}
	return r.Kvs[0].Value, nil
}

// Change puts all values in one transaction. An error other than coord.ErrChanged may mean
// that they were put: the answer was lost.
func (s *Store) Change(ctx context.Context, guard string, revision int64, put map[string][]byte) error {
	var puts []clientv3.Op
	for key, value := range put {
		puts = append(puts, clientv3.OpPut(s.config.Prefix+key, string(value)))
	}
	unchanged := clientv3.Compare(clientv3.ModRevision(s.config.Prefix+guard).WithPrefix(), "<", revision+1)
	r, err := s.txn(ctx, []clientv3.Cmp{unchanged}, puts...)
	if err == nil && !r.Succeeded {
		err = coord.ErrChanged
	}
	return err
}

var errLost = errors.New("its lease has ended")
