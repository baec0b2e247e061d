// Package etcdtest runs clusters of real members, each a process of its own, so that they can be
// killed and stopped. A test's TestMain calls Member first.
package etcdtest

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
)

// Program is the variable that names an etcd of another version, such as a distribution's: members are that.
const Program = "VIRT_ROTATE_ETCD"

// asked is the variable that makes a test's process a member.
const asked = "VIRT_ROTATE_ETCD_MEMBER"

// Settings are what a member's process is told.
type Settings struct {
	Name, Dir string
	Client    string // URL at which hosts reach it; it listens at all addresses
	Peer      string // URL at which the other members do
	Cluster   string // NAME=PEER of all members, with commas
	TLS       bool   // towards clients, by a certificate of its own
	Durable   bool   // it waits for its disk, as members outside of tests do
	Tick      int    // milliseconds between two heartbeats; 0: 50
}

// Environ is the environment of a process that is to be this member.
func (s *Settings) Environ() (string, error) {
	text, err := json.Marshal(s)
	return asked + "=" + string(text), err
}

// Member runs a member and never returns, if this process was started to be one.
func Member() {
	text := os.Getenv(asked)
	if text == "" {
		return
	}
	var s Settings
	err := json.Unmarshal([]byte(text), &s)
	if err == nil {
		err = s.run()
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

func (s *Settings) run() error {
	if program := os.Getenv(Program); program != "" {
		return syscall.Exec(program, s.args(program), os.Environ())
	}
	c := embed.NewConfig()
	c.Name, c.Dir, c.InitialCluster = s.Name, s.Dir, s.Cluster
	client, err := url.Parse(s.Client)
	if err != nil {
		return err
	}
	peer, err := url.Parse(s.Peer)
	if err != nil {
		return err
	}
	listen := []url.URL{*client}
	if !s.TLS { // whose certificate is for what is listened at
		listen = anywhere(client)
	}
	c.ListenClientUrls, c.AdvertiseClientUrls = listen, []url.URL{*client}
	c.ListenPeerUrls, c.AdvertisePeerUrls = anywhere(peer), []url.URL{*peer}
	tick := uint(cmp.Or(s.Tick, 50))
	c.TickMs, c.ElectionMs = tick, 10*tick
	c.ClientAutoTLS = s.TLS
	c.UnsafeNoFsync = !s.Durable
	c.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.NewNop())
	e, err := embed.StartEtcd(c)
	if err != nil {
		return err
	}
	return <-e.Err()
}

// anywhere listens at all addresses: that of a host may come later.
func anywhere(u *url.URL) []url.URL {
	all := *u
	all.Host = net.JoinHostPort("0.0.0.0", u.Port())
	return []url.URL{all}
}

// args are of a program as etcd's own is.
func (s *Settings) args(program string) []string {
	args := []string{program, "--name", s.Name, "--data-dir", s.Dir, "--initial-cluster", s.Cluster, "--listen-client-urls", s.Client, "--advertise-client-urls", s.Client,
		"--listen-peer-urls", s.Peer, "--initial-advertise-peer-urls", s.Peer, "--heartbeat-interval", "50", "--election-timeout", "500", "--log-level", "panic"}
	if s.TLS {
		args = append(args, "--auto-tls")
	}
	return args
}

// A Cluster has members that run, are stopped, or are dead.
type Cluster struct {
	Endpoints []string
	CAFile    string // by which the members are known, with TLS
	t         testing.TB
	members   []Settings
	running   []*exec.Cmd
}

// Start runs n members, and waits until they answer.
func Start(t testing.TB, n int) *Cluster {
	t.Helper()
	c := start(t, n, Settings{})
	c.Wait()
	return c
}

// StartOnDisks runs n members that wait for their disks, each of which is a file system of its own. It needs root.
func StartOnDisks(t testing.TB, n int) *Cluster {
	t.Helper()
	c := start(t, n, Settings{Durable: true})
	c.Wait()
	return c
}

// StartTLS runs one member that is reached by TLS.
func StartTLS(t testing.TB) *Cluster {
	t.Helper()
	c := start(t, 1, Settings{TLS: true})
	c.CAFile = filepath.Join(c.members[0].Dir, "fixtures", "client", "cert.pem")
	for until := time.Now().Add(time.Minute); time.Now().Before(until); time.Sleep(50 * time.Millisecond) {
		if _, err := os.Stat(c.CAFile); err == nil {
			return c
		}
	}
	t.Fatal("the member has made no certificate")
	return nil
}

// start runs n members with those settings, and names of their own.
func start(t testing.TB, n int, s Settings) *Cluster {
	t.Helper()
	c := &Cluster{t: t, running: make([]*exec.Cmd, n)}
	dir := t.TempDir()
	var cluster []string
	for i := range n {
		s.Name, s.Client, s.Peer = fmt.Sprint("m", i), free(t), free(t)
		if s.TLS {
			s.Client = "https" + strings.TrimPrefix(s.Client, "http")
		}
		s.Dir = filepath.Join(dir, s.Name)
		if s.Durable {
			s.Dir = filepath.Join(disk(t, dir, s.Name), "data")
		}
		c.members = append(c.members, s)
		c.Endpoints = append(c.Endpoints, s.Client)
		cluster = append(cluster, s.Name+"="+s.Peer)
	}
	for i := range c.members {
		c.members[i].Cluster = strings.Join(cluster, ",")
		c.Run(i)
	}
	t.Cleanup(func() {
		for i := range c.members {
			c.wake(i)
			c.Kill(i)
		}
	})
	return c
}

// free is a URL that nobody listens at.
func free(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return "http://" + l.Addr().String()
}

// Run starts a member that is dead, with the data that it had.
func (c *Cluster) Run(i int) {
	c.t.Helper()
	environ, err := c.members[i].Environ()
	if err != nil {
		c.t.Fatal(err)
	}
	m := exec.Command(os.Args[0])
	m.Env = append(os.Environ(), environ)
	m.Stderr = os.Stderr
	m.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := m.Start(); err != nil {
		c.t.Fatal(err)
	}
	c.running[i] = m
}

// Kill ends a member as a loss of power does, but for its disk.
func (c *Cluster) Kill(i int) {
	if m := c.running[i]; m != nil {
		_ = m.Process.Kill()
		_ = m.Wait() // it was killed
		c.running[i] = nil
	}
}

// Freeze stops a member as a partition does: nobody hears of it until Thaw.
func (c *Cluster) Freeze(i int) { c.signal(i, syscall.SIGSTOP) }

// Thaw lets it go on.
func (c *Cluster) Thaw(i int) { c.signal(i, syscall.SIGCONT) }

func (c *Cluster) signal(i int, s syscall.Signal) {
	c.t.Helper()
	if err := c.running[i].Process.Signal(s); err != nil {
		c.t.Fatal(err)
	}
}

// Wait waits until a quorum agrees.
func (c *Cluster) Wait() {
	c.t.Helper()
	client, err := clientv3.New(clientv3.Config{Endpoints: c.Endpoints, Logger: zap.NewNop()})
	if err != nil {
		c.t.Fatal(err)
	}
	defer client.Close()
	for until := time.Now().Add(time.Minute); ; {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		_, err := client.Get(ctx, "nothing")
		cancel()
		if err == nil {
			return
		}
		if time.Now().After(until) {
			c.t.Fatal("the cluster does not answer: ", err)
		}
	}
}
