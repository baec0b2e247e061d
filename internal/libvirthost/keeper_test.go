package libvirthost

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/virt-rotate/virt-rotate/rotate/host"
)

// Only the drivers of this host have a keeper here.
func TestOnlyALocalDriverHasAKeeper(t *testing.T) {
	for uri, local := range map[string]bool{
		"qemu:///system": true, "qemu+unix:///system?socket=/run/x/libvirt-sock": true, "qemu:///session": true,
		"qemu:///embed?root=/x": false, "qemu+ssh://host/system": false, "qemu+ssh:///system": false, "qemu+tcp://localhost/system": false,
		"qemu+unix://host/system": false, "test:///default": false, "xen:///system": false, "": false, ":": false,
	} {
		if _, err := localDriver(uri); (err == nil) != local {
			t.Errorf("%q: %v", uri, err)
		}
	}
}

// A process that listens on a socket of libvirt's name, and is neither the driver nor systemd, keeps nothing: it
// could be a tunnel to another host.
func TestATunnelIsNoKeeper(t *testing.T) {
	path := filepath.Join(t.TempDir(), "libvirt-sock")
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	s, err := libvirtSocket()
	if err != nil || s != (socket{path, os.Getpid()}) {
		t.Fatalf("%+v, %v", s, err)
	}
	pidFile := filepath.Join(filepath.Dir(path), "qemu/run/driver.pid") // as a driver leaves it that was killed
	if err := errors.Join(os.MkdirAll(filepath.Dir(pidFile), 0o700), os.WriteFile(pidFile, fmt.Append(nil, os.Getpid()), 0o600)); err != nil {
		t.Fatal(err)
	}
	for _, system := range []bool{true, false} {
		if pid, err := s.driver(system); err == nil {
			t.Errorf("system %v: process %d is the driver", system, pid)
		}
	}
	second := path[:len(path)-len("libvirt-sock")] + "virtqemud-sock"
	other, err := net.Listen("unix", second)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	conn, err = net.Dial("unix", second)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if s, err := libvirtSocket(); err == nil {
		t.Errorf("of two connections %+v is the one", s)
	}
}

// Lives of processes differ, and stay.
func TestALifeIsThatOfOneProcess(t *testing.T) {
	mine, err := lifeOf(os.Getpid())
	again, err2 := lifeOf(os.Getpid())
	first, err3 := lifeOf(os.Getppid())
	if err != nil || err2 != nil || err3 != nil || mine != again || mine == first || len(strings.Fields(mine)) != 3 {
		t.Errorf("%q, %q, %q", mine, again, first)
	}
}

// What was told is the same when it is read back, volumes too; numbers that make no sense are nothing.
func TestWhatIsToldIsReadBack(t *testing.T) {
	volume := &host.Volume{Pool: "p", Name: "v"}
	want := &namedSnapshot{"s", "p", "d", 1700000000, true, "/m", []namedDisk{
		{"vda", false, true, namedLayer{"/o", nil}, "/r", []namedLayer{{"/a", nil}, {"p/v", volume}}, "qcow2", true, []namedLayer{{"/a", nil}}},
		{"vdb", true, false, namedLayer{}, "", nil, "", false, nil},
	}}
	snapshots := tell([]*namedSnapshot{want})
	back, err := snapshots.snapshots()
	if err != nil || !reflect.DeepEqual(back["s"], want) {
		t.Errorf("%+v, %v", back["s"], err)
	}
	for _, n := range []int{-1, 4} {
		snapshots.Snapshots[0].Disks[0].State[0] = n
		if snapshots.addTo(new(host.Domain), []string{"s"}, "", nil) {
			t.Errorf("layer %d is one", n)
		}
	}
	snapshots.Snapshots[0].Disks[0].State[0] = 0
	var d host.Domain
	if snapshots.addTo(&d, []string{"s", "t"}, "", nil) || len(d.Snapshots) > 0 {
		t.Error("a snapshot of which nothing was told is known")
	}
	if !snapshots.addTo(&d, []string{"s"}, "s", nil) || !d.Snapshots[0].Current || d.Snapshots[0].Disks[0].State[1] != "p/v" {
		t.Errorf("%+v", d)
	}
}

// No XML is kept: passwords are in it.
func TestNoXMLIsKept(t *testing.T) {
	s, err := nameSnapshot(testdata(t, "rich.xml"))
	if err != nil {
		t.Fatal(err)
	}
	kept := reflect.ValueOf(*s)
	for i := range kept.NumField() {
		if f := kept.Field(i); f.Kind() == reflect.String && strings.Contains(f.String(), "<") {
			t.Errorf("%s", f.String())
		}
	}
}

// The same text is read once, and what it says is nobody's to change: the next look has it as it was.
func TestATextIsReadOnce(t *testing.T) {
	known := newSeenTexts()
	text := testdata(t, "rich.xml")
	first, err := known.snapshot(text)
	again, err2 := known.snapshot(text)
	if err != nil || err2 != nil || first != again {
		t.Fatalf("read twice: %v, %v", err, err2)
	}
	found := first.at(nil)
	for i := range found.Disks {
		found.Disks[i].Target = "changed"
		for k := range found.Disks[i].State {
			found.Disks[i].State[k] = "changed"
		}
	}
	fresh, err := nameSnapshot(text)
	if err != nil || !reflect.DeepEqual(first.at(nil), fresh.at(nil)) {
		t.Errorf("a look has changed what the next one sees: %+v", first.at(nil))
	}
	if _, err := known.snapshot("<domainsnapshot"); err == nil || len(known.snapshots) != 1 {
		t.Error("what cannot be read is remembered")
	}
	x, err := known.domain("<domain><name>a</name></domain>")
	y, err2 := known.domain("<domain><name>b</name></domain>")
	if err != nil || err2 != nil || x.Name != "a" || y.Name != "b" || len(known.domains) != 2 {
		t.Errorf("%+v %+v", x, y)
	}
}

// Once too many texts are remembered, all are forgotten.
func TestNoMoreTextsAreRememberedThanThat(t *testing.T) {
	known := newSeenTexts()
	for i := range mostDomainTexts + 1 {
		if _, err := known.domain("<domain><name>" + strings.Repeat("a", i) + "</name></domain>"); err != nil {
			t.Fatal(err)
		}
	}
	if len(known.domains) != 1 {
		t.Errorf("%d are remembered", len(known.domains))
	}
}
