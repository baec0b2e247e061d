package xapi_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/virt-rotate/virt-rotate/vhdbridge"
	"github.com/virt-rotate/virt-rotate/vhdbridge/pool"
	"github.com/virt-rotate/virt-rotate/vhdbridge/xapi"
	"github.com/virt-rotate/virt-rotate/vhdbridge/xapi/xapitest"
)

func TestTheCertificateIsVerified(t *testing.T) {
	s, other := xapitest.New(t), xapitest.New(t)
	good := configOf(s)
	for name, change := range map[string]func(c *xapi.Config){
		"the system's authorities do not know it": func(c *xapi.Config) { c.Fingerprints = nil },
		"another fingerprint":                     func(c *xapi.Config) { c.Fingerprints = []string{"sha256:" + strings.Repeat("00", 32)} },
		"no fingerprint":                          func(c *xapi.Config) { c.Fingerprints = []string{"sha256:12"} },
		"not by TLS":                              func(c *xapi.Config) { c.URL = strings.Replace(c.URL, "https", "http", 1) },
		"a password in the URL":                   func(c *xapi.Config) { c.URL = strings.Replace(c.URL, "https://", "https://root:secret@", 1) },
	} {
		c := good
		change(&c)
		if _, err := xapi.Dial(t.Context(), c); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if n := len(s.Calls()); n != 0 {
		t.Errorf("%d calls came to a host whose certificate is not known: with the password", n)
	}
	good.Fingerprints, good.Roots = nil, other.Pool() // the same test certificate, by its authority
	c, err := xapi.Dial(t.Context(), good)
	must(t, err)
	must(t, c.Logout(t.Context()))
}

// The certificate of each host of the pool counts, also of the one that a host sends on to.
func TestAHostSendsOnToTheOneThatSeesTheDisk(t *testing.T) {
	s, vm, _ := web(t, "Halted")
	second := xapitest.New(t) // which sees the repository
	second.Share(s)
	s.Redirect = strings.TrimPrefix(second.URL, "https://")
	dir := t.TempDir()
	if r := pull(t, s, dir, "web", ""); len(r.Left) != 0 {
		t.Fatalf("%+v", r.Left)
	}
	same(t, s, dir, vm)
	for _, to := range []string{"127.0.0.1:1/other?", "evil host/"} {
		s.Redirect = to
		r := pull(t, s, t.TempDir(), "web", "")
		if len(r.Pulled) != 0 || len(r.Left) == 0 || !strings.Contains(r.Left[0].Reason, "no host of a pool") || strings.Contains(r.Left[0].Reason, "session") {
			t.Errorf("%s: %+v", to, r)
		}
	}
}

func TestASlaveSendsToTheMaster(t *testing.T) {
	s, vm, _ := web(t, "Halted")
	slave := xapitest.New(t)
	slave.Master = "127.0.0.2" // the same port on another address of this host
	relay(t, "127.0.0.2", slave, s)
	c, err := xapi.Dial(t.Context(), configOf(slave))
	must(t, err)
	if !strings.HasPrefix(c.Host(), "127.0.0.2:") {
		t.Error(c.Host())
	}
	v, err := c.Inventory(t.Context())
	must(t, err)
	if m, err := v.Find("web"); err != nil || m.Ref != vm {
		t.Error(m, err)
	}
	must(t, c.Logout(t.Context()))
	if s.Sessions() != 0 {
		t.Error("a session is left")
	}
	for _, hostile := range []string{"evil/path", "user@host", "a b", strings.Repeat("a", 300)} {
		slave.Master = hostile
		if _, err := xapi.Dial(t.Context(), configOf(slave)); err == nil || !strings.Contains(err.Error(), "does not tell which host") {
			t.Errorf("%q: %v", hostile, err)
		}
	}
}

// relay lets the master be reached at the slave's port on another address.
func relay(t *testing.T, address string, slave, master *xapitest.Server) {
	t.Helper()
	_, port, err := net.SplitHostPort(strings.TrimPrefix(slave.URL, "https://"))
	must(t, err)
	l, err := net.Listen("tcp", net.JoinHostPort(address, port))
	must(t, err)
	t.Cleanup(func() { _ = l.Close() })
	go master.Config.Serve(tls.NewListener(l, master.TLS)) //nolint:errcheck // it ends with the test
}

func TestErrorsTellNoSecrets(t *testing.T) {
	s, _, _ := web(t, "Halted")
	c := configOf(s)
	c.Password = "wrong and private"
	_, err := xapi.Dial(t.Context(), c)
	if err == nil || !strings.Contains(err.Error(), "password is wrong") || strings.Contains(err.Error(), c.Password) {
		t.Error(err)
	}
	s.Fail(xapitest.Fault{Method: "export", Status: 500, Always: true})
	var told []string
	v, m := inventory(t, s)
	p := xapi.Puller{Client: dial(t, s), Dir: t.TempDir(), Warn: func(text string) { told = append(told, text) }}
	r, err := p.Pull(t.Context(), v.Plan(m, nil))
	must(t, err)
	text := fmt.Sprint(told, r)
	if strings.Contains(text, "session") || !strings.Contains(text, "500") {
		t.Error(text)
	}
}

func inventory(t *testing.T, s *xapitest.Server) (*xapi.Inventory, *xapi.VM) {
	t.Helper()
	v, err := dial(t, s).Inventory(t.Context())
	must(t, err)
	m, err := v.Find("web")
	must(t, err)
	return v, m
}

func TestRecordsThatAreHostile(t *testing.T) {
	s, vm, disks := web(t, "Halted")
	huge := strings.Repeat("x", 10<<20)
	s.Set("VM", vm, "name_description", huge)
	s.Set("VDI", disks[0], "name_label", "../../etc/passwd\x1b[31m\x00"+huge)
	s.Put("VDI", "OpaqueRef:evil", xapitest.Record{"uuid": "../../../tmp/evil", "name_label": "evil", "virtual_size": 512, "managed": true, "is_a_snapshot": true, "snapshot_of": disks[0]})
	s.Put("VDI", "OpaqueRef:twin", xapitest.Record{"uuid": xapitest.UUID(5), "name_label": "twin", "virtual_size": "512", "managed": true, "is_a_snapshot": true, "snapshot_of": disks[0]})
	s.Put("VDI", "OpaqueRef:twins", xapitest.Record{"uuid": xapitest.UUID(5), "virtual_size": "1024"})
	s.Set("VDI", disks[0], "snapshot_of", disks[1])
	s.Set("VDI", disks[1], "snapshot_of", disks[0])
	s.Set("VDI", disks[0], "is_a_snapshot", true)
	s.Set("VDI", disks[1], "is_a_snapshot", true)
	s.Set("VM", vm, "snapshot_of", vm)
	dir := t.TempDir()
	r := pull(t, s, dir, "web", "")
	same(t, s, dir, vm)
	for _, p := range r.Pulled {
		if len(p.Name) > 2000 || filepath.Base(p.File) != p.File {
			t.Errorf("%.100q %q", p.Name, p.File)
		}
	}
	v, _ := inventory(t, s)
	if len(v.Odd) != 3 {
		t.Errorf("%q", v.Odd)
	}
	for _, name := range files(t, filepath.Dir(dir)) {
		if strings.Contains(name, "evil") {
			t.Error(name)
		}
	}
	names(t, dir)
}

// names reads what Names has written, as sr scan --names does.
func names(t *testing.T, dir string) map[string]vhdbridge.VDI {
	t.Helper()
	f, err := os.Open(filepath.Join(dir, xapi.NamesFile))
	must(t, err)
	defer f.Close()
	var p pool.Pool
	must(t, p.Read(f))
	return p.VDIs()
}

func TestNamesAreThoseOfThePool(t *testing.T) {
	s, _, disks := web(t, "Halted")
	s.Set("VDI", disks[0], "name_label", "root  <disk> & 100%\n\"x\"")
	dir := t.TempDir()
	pull(t, s, dir, "web", "")
	vdis := names(t, dir)
	root := vdis[xapitest.UUID(1)]
	if root.Name != "root  <disk> & 100%\n\"x\"" || root.VM != "web" || root.Device != "0" || root.Snapshot || !root.Managed {
		t.Errorf("%+v", root)
	}
	snap := vdis[fmt.Sprint(s.Field("VDI", s.DisksOf(snapOf(t, s, "monday"))[0], "uuid"))]
	if snap.VM != "monday" || !snap.Snapshot || snap.SnapshotOf != xapitest.UUID(1) || !snap.SnapshotTime.Equal(time.Date(2024, 1, 1, 3, 15, 0, 0, time.UTC)) {
		t.Errorf("%+v", snap)
	}
}

func TestGuestsAreFoundByNameAndUUID(t *testing.T) {
	s, _, _ := web(t, "Halted")
	s.VM(7, "twice", "Halted")
	s.VM(8, "twice", "Running")
	s.Set("VM", s.VM(9, "a template", "Halted"), "is_a_template", true)
	v, m := inventory(t, s)
	if again, err := v.Find(m.UUID); err != nil || again != m {
		t.Error(again, err)
	}
	for name, want := range map[string]string{"twice": "say which by its UUID", "nobody": "no VM", "a template": "no VM", "monday": "no VM"} {
		if _, err := v.Find(name); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if n := len(v.Guests()); n != 3 {
		t.Errorf("%d guests", n)
	}
}

func TestWhatCannotBeReadIsLeftOut(t *testing.T) {
	s, _, disks := web(t, "Halted")
	s.Set("VDI", disks[0], "missing", true)
	s.Set("VDI", disks[1], "virtual_size", int64(3)<<40)
	v, m := inventory(t, s)
	plan := v.Plan(m, nil)
	if len(plan.Left) != 2 || !strings.Contains(plan.Left[1].Reason, "2040 GiB") {
		t.Errorf("%+v", plan.Left)
	}
}

// A call that was interrupted is told as that.
func TestAnInterruptedCallEnds(t *testing.T) {
	s := xapitest.New(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := xapi.Dial(ctx, configOf(s)); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestTheHostDoesNotAnswer(t *testing.T) {
	s := xapitest.New(t)
	config := configOf(s)
	s.Close()
	if _, err := xapi.Dial(t.Context(), config); err == nil || !strings.Contains(err.Error(), strings.TrimPrefix(config.URL, "https://")) {
		t.Error(err)
	}
}
