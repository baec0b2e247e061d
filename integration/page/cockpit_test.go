//go:build page

package page_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/virt-rotate/virt-rotate/integration/guest"
)

// A cockpit is cockpit-ws with its bridge on a host of one real guest, g1.
type cockpit struct {
	t    *testing.T
	host *guest.Host
	url  string
	dir  string
}

// newCockpit has the page where a user's own pages are, and a virt-rotate that works on the host.
func newCockpit(t *testing.T, policy string) *cockpit {
	t.Helper()
	dir, err := os.MkdirTemp("", "vr-") // t.TempDir's names are too long for sockets
	must(t, err)
	t.Cleanup(func() { must(t, os.RemoveAll(dir)) })
	daemon, err := guest.NewDaemon(filepath.Join(dir, "h"))
	must(t, err)
	t.Cleanup(func() { must(t, errors.Join(daemon.KillGuests(), daemon.Close())) })
	c := &cockpit{t: t, host: daemon.Host, dir: dir}
	must(t, c.host.Define(t.Context(), guest.Spec{Name: "g1"}))
	must(t, c.host.Start(t.Context(), "g1"))
	c.defineFiles()
	c.install(policy)
	c.serve()
	return c
}

// install puts the page and the program where the bridge finds them.
func (c *cockpit) install(policy string) {
	c.t.Helper()
	page := filepath.Join(c.dir, "share", "cockpit", "virt-rotate")
	c.run(top+"/packaging/install-cockpit.sh", page)
	program, err := binary()
	must(c.t, err)
	file := filepath.Join(c.dir, "policy.toml")
	must(c.t, os.WriteFile(file, fmt.Appendf(nil, "connect = %q\nstate_dir = %q\n\n%s\n", c.host.URI(), filepath.Join(c.dir, "state"), policy), 0o644))
	c.script("virt-rotate", `exec %q --policy %q "$@"`, program, file)
	c.script("turn-off", `exec virsh -c %q destroy g1`, c.host.URI())
}

// filesXML is a guest in which nothing runs.
const filesXML = `<domain type='qemu'><name>g2</name><memory unit='MiB'>32</memory><vcpu>1</vcpu>
<os><type arch='x86_64' machine='pc'>hvm</type></os>
<devices><emulator>/usr/bin/qemu-system-x86_64</emulator><disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='%s'/><target dev='vda' bus='virtio'/></disk>
<controller type='usb' model='none'/><memballoon model='none'/></devices></domain>`

// letter is what is in a file of the guest g2, whose name is none that a shell or a page would like.
const letter, letterName = "Dear reader\n", "a <b>letter; $(id) ü.txt"

// defineFiles defines g2, which is off, with files on its disk.
func (c *cockpit) defineFiles() {
	c.t.Helper()
	tree, raw, disk := filepath.Join(c.dir, "tree"), filepath.Join(c.dir, "raw"), filepath.Join(c.dir, "h", "g2.qcow2")
	must(c.t, os.MkdirAll(filepath.Join(tree, "home", "ann"), 0o755))
	must(c.t, os.WriteFile(filepath.Join(tree, "home", "ann", letterName), []byte(letter), 0o644))
	c.run("truncate", "-s", "32M", raw)
	c.run("mke2fs", "-q", "-t", "ext4", "-d", tree, raw)
	c.run("qemu-img", "convert", "-O", "qcow2", raw, disk)
	xml := filepath.Join(c.dir, "g2.xml")
	must(c.t, os.WriteFile(xml, fmt.Appendf(nil, filesXML, disk), 0o644))
	_, err := c.host.Virsh(c.t.Context(), "define", xml)
	must(c.t, err)
}

func (c *cockpit) run(name string, args ...string) {
	c.t.Helper()
	cmd := exec.CommandContext(c.t.Context(), name, args...)
	cmd.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	if out, err := cmd.CombinedOutput(); err != nil {
		c.t.Fatalf("%s: %v\n%s", name, err, out)
	}
}

// script makes a command of the bridge's path.
func (c *cockpit) script(name, format string, args ...any) {
	c.t.Helper()
	must(c.t, os.MkdirAll(filepath.Join(c.dir, "bin"), 0o755))
	must(c.t, os.WriteFile(filepath.Join(c.dir, "bin", name), []byte("#!/bin/sh\n"+fmt.Sprintf(format, args...)+"\n"), 0o755))
}

// serve starts cockpit-ws for a session of this user.
func (c *cockpit) serve() {
	c.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(c.t, err)
	port := fmt.Sprint(l.Addr().(*net.TCPAddr).Port)
	must(c.t, l.Close())
	ctx, cancel := context.WithCancel(context.Background())
	var said bytes.Buffer
	cmd := exec.CommandContext(ctx, "/usr/lib/cockpit/cockpit-ws", "--port", port, "--address", "127.0.0.1", "--local-session", "/usr/bin/cockpit-bridge")
	cmd.Env = append(os.Environ(), "PATH="+filepath.Join(c.dir, "bin")+":"+os.Getenv("PATH"), "XDG_DATA_HOME="+filepath.Join(c.dir, "share"),
		"XDG_CONFIG_DIRS="+c.dir, "XDG_RUNTIME_DIR="+c.dir, "HOME="+c.dir)
	cmd.Stdout, cmd.Stderr, cmd.WaitDelay = &said, &said, 5*time.Second
	must(c.t, cmd.Start())
	c.t.Cleanup(func() {
		cancel()
		_ = cmd.Wait() // it was killed
		if c.t.Failed() {
			c.t.Logf("cockpit-ws said:\n%s", said.String())
		}
	})
	c.url = "http://127.0.0.1:" + port + "/cockpit/@localhost/virt-rotate/index.html"
	for end := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		conn, err := net.Dial("tcp", "127.0.0.1:"+port)
		if err == nil {
			must(c.t, conn.Close())
			return
		}
		if time.Now().After(end) {
			c.t.Fatalf("cockpit-ws does not answer: %v\n%s", err, said.String())
		}
	}
}

// In a real Cockpit with a real guest: it is seen, a snapshot is taken, a merge is watched, the
// snapshot is pinned and gone back to; then the guest's disk reads as it did at that moment. A file of another
// guest is found and downloaded.
func TestCockpit(t *testing.T) {
	c := newCockpit(t, "[policy.p]\ndomains = [\"g*\"]\nevery = \"1s\"\nkeep = { last = 2 }\noffline = \"native\"\nmin_free = \"0%\"\nbandwidth = \"400KiB/s\"\n")
	must(t, c.host.WaitWrites(t.Context(), "g1", 60))
	out, err := node(t, "cockpit.mjs", c.url, pictures(t), filepath.Join(c.dir, "bin", "turn-off"), letterName, letter)
	t.Log(out)
	if err != nil {
		t.Fatal(err)
	}
	_, name, found := strings.Cut(out, "restored: ")
	name, _, _ = strings.Cut(name, "\n")
	kept, err := c.host.KeptStates(t.Context(), "g1")
	must(t, err)
	now, err := c.host.CheckGuest(t.Context(), "g1")
	must(t, err)
	if want := kept[name]["vda"]; !found || want.SHA256 == "" || now["vda"].SHA256 != want.SHA256 {
		t.Errorf("the disk is %v, the state of %q was %v", now["vda"], name, want)
	}
}
