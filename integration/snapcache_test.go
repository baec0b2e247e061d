package integration_test

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/virt-rotate/virt-rotate/integration/guest"
)

// What looks are told of snapshots is kept below the state directory.
func (b *bed) toldFile() string { return b.path("state", "snapshots.cache") }

// nowTexts are of the moment of the look: times that have parts of a second, which libvirt's have not, the time of the
// page, and free space.
var nowTexts = regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z|(?s:"host": "[^"]*",\s*"time": "[^"]*")|"free": \d+`)

// shown is all that commands say that only look; between is called after each.
func (b *bed) shown(between func()) string {
	b.t.Helper()
	var all strings.Builder
	for _, command := range []string{"status", "plan", "tree", "report"} {
		r := b.rotate(command, "--output=json")
		fmt.Fprintf(&all, "%s: %d\n%s\n%s\n", command, r.Exit, nowTexts.ReplaceAllString(r.Stdout, ""), r.Stderr)
		between()
	}
	return all.String()
}

// wantSameLooks compares looks that may know of earlier ones with looks that cannot.
func (b *bed) wantSameLooks(after string) {
	b.t.Helper()
	forget := func() { must(b.t, os.RemoveAll(b.toldFile())) }
	with := b.shown(func() {})
	forget()
	if without := b.shown(forget); with != without {
		b.t.Errorf("after %s: %s", after, difference(with, without))
	}
}

// difference is the first line that differs, with the one before.
func difference(with, without string) string {
	x, y := strings.Split(with, "\n"), strings.Split(without, "\n")
	for i := range min(len(x), len(y)) {
		if x[i] != y[i] {
			return fmt.Sprintf("line %d\n%s\nwith:    %s\nwithout: %s", i, strings.Join(x[max(0, i-6):i], "\n"), x[i], y[i])
		}
	}
	return "one is longer"
}

// settle waits until nothing is young, and looks.
func (b *bed) settle() {
	b.t.Helper()
	time.Sleep(2200 * time.Millisecond)
	b.rotate("status", "--output=json").wantExit(b.t, 0)
	told, err := os.ReadFile(b.toldFile())
	must(b.t, err)
	for _, dom := range strings.Fields(b.virsh("list", "--all", "--name")) {
		for _, s := range b.snapshotNames(dom) {
			if !bytes.Contains(told, []byte(`"name":"`+s+`"`)) {
				b.t.Fatalf("%s of %s is not kept: %s", s, dom, told)
			}
		}
	}
}

// redescribe redefines a snapshot with another description.
func (b *bed) redescribe(dom, name, text string) {
	b.t.Helper()
	xml := b.virsh("snapshot-dumpxml", dom, name, "--security-info")
	xml = regexp.MustCompile(`<description>.*</description>`).ReplaceAllString(xml, "")
	file := b.path("again.xml")
	must(b.t, os.WriteFile(file, []byte(strings.Replace(xml, "</name>", "</name><description>"+text+"</description>", 1)), 0o600))
	b.virsh("snapshot-create", dom, file, "--redefine")
}

// Whatever happens to snapshots and domains between two looks, the second says what it would say if there had been
// no first.
func TestLooksSayWhatTheyWouldSayWithoutEarlierOnes(t *testing.T) {
	t.Parallel()
	b := newDaemonBed(t)
	b.writePolicy("[policy.p]\ndomains = [\"*\"]\nevery = \"720h\"\nkeep = { last = 20 }\nmin_free = \"1%\"")
	must(t, os.Mkdir(b.path("state"), 0o700))
	for _, dom := range []string{"g", "h"} {
		b.define(guest.Spec{Name: dom})
		b.snapshot(dom, "s1")
		b.snapshot(dom, "s2")
	}
	for _, step := range []struct {
		name string
		do   func()
	}{
		{"a snapshot", func() { b.snapshot("g", "s3") }},
		{"another description", func() { b.redescribe("g", "s2", "second") }},
		{"another description of the same length", func() { b.redescribe("g", "s2", "Second") }},
		{"a deletion", func() { b.virsh("snapshot-delete", "h", "s1", "--metadata") }},
		{"a restart of libvirtd", b.restartDaemon},
		{"a file changed by hand", func() { b.editMetadata("g", "s2", "Second", "Edited") }},
		{"a restart after that", b.restartDaemon},
		{"a domain of the same name and UUID", b.remakeDomain},
		{"a new name", func() { b.virsh("domrename", "h", "i") }},
		{"no domain", func() { b.virsh("undefine", "i", "--snapshots-metadata") }},
	} {
		b.settle()
		step.do()
		b.wantSameLooks(step.name)
		b.settle()
		b.wantSameLooks(step.name + ", later")
	}
	b.settle()
	if told, err := os.ReadFile(b.toldFile()); err != nil || bytes.Contains(told, []byte(`"h":`)) || bytes.Contains(told, []byte(`"i":`)) {
		t.Errorf("a domain that is gone is kept: %v", err)
	}
}

func (b *bed) restartDaemon() {
	b.t.Helper()
	must(b.t, b.daemon.Kill())
	must(b.t, b.daemon.StartDaemon())
}

// editMetadata changes libvirt's file, which libvirt reads again only when it is started.
func (b *bed) editMetadata(dom, name, from, to string) {
	b.t.Helper()
	file := b.path("lib", "qemu", "snapshot", dom, name+".xml")
	text, err := os.ReadFile(file)
	must(b.t, err)
	if !bytes.Contains(text, []byte(from)) {
		b.t.Fatalf("%s does not have %s:\n%s", file, from, text)
	}
	must(b.t, os.WriteFile(file, bytes.ReplaceAll(text, []byte(from), []byte(to)), 0o600))
}

// remakeDomain deletes h and makes it again, with another snapshot of the same name.
func (b *bed) remakeDomain() {
	b.t.Helper()
	xml := b.virsh("dumpxml", "h")
	b.virsh("undefine", "h", "--snapshots-metadata")
	file := b.path("h.xml")
	must(b.t, os.WriteFile(file, []byte(xml), 0o600))
	b.virsh("define", file)
	b.virsh("snapshot-create-as", "h", "s2", "--disk-only", "--atomic", "--diskspec", "vda,snapshot=external,file="+filepath.Join(b.path(), "h.again.qcow2"))
}

// tellLies changes what earlier looks were told, as if libvirt had said so.
func (b *bed) tellLies(from, to string) {
	b.t.Helper()
	told, err := os.ReadFile(b.toldFile())
	must(b.t, err)
	_, body, _ := bytes.Cut(told, []byte("\n"))
	lies := bytes.ReplaceAll(body, []byte(from), []byte(to))
	if bytes.Equal(lies, body) {
		b.t.Fatalf("nobody told of %s: %s", from, body)
	}
	must(b.t, os.WriteFile(b.toldFile(), fmt.Appendf(nil, "virt-rotate snapshots 1 %x\n%s", sha256.Sum256(lies), lies), 0o600))
}

// A command that changes something asks libvirt, whatever earlier looks were told; one that only looks does not.
func TestACommandThatChangesSomethingAsksLibvirt(t *testing.T) {
	t.Parallel()
	b := newDaemonBed(t)
	b.writePolicy("[policy.p]\ndomains = [\"g\"]\nevery = \"1s\"\nkeep = { last = 20 }\nmin_free = \"1%\"")
	b.define(guest.Spec{Name: "g"})
	b.rotate("snapshot", "--name", "one", "g").wantExit(t, 0)
	b.settle()
	chain := b.chain("g", "vda")
	state := filepath.Base(chain[len(chain)-1].Path) + `"`
	for _, command := range [][]string{
		{"status", "--output=json"}, {"plan", "--now"}, // these only look
		{"doctor"}, {"run", "--now"}, {"snapshot", "--name", "two", "g"}, {"pin", "g", "one"}, {"restore", "--dry-run", "g", "one"},
		{"delete", "g", "two"}, {"run", "--no-snapshot"},
	} {
		looks := slices.Contains([]string{"status", "plan"}, command[0])
		b.settle()
		b.tellLies(state, `lie.qcow2"`)
		r := b.rotate(command...)
		if lied := strings.Contains(r.Stdout+r.Stderr, "lie.qcow2"); lied != looks {
			t.Errorf("%q believes what was told: %v; %v", command, lied, r)
		}
		if !looks && r.Exit != 0 {
			t.Errorf("%q: %v", command, r)
		}
		must(t, os.RemoveAll(b.toldFile()))
	}
}
