// Command bench measures virt-rotate against the same work done by virsh, in
// the same run, on the same host, as whole processes, and with qemu-img. It prints
// ratios and figures as Markdown. It needs root: libvirtd runs privately. An argument
// chooses one part of it: rotation, plan, scan, guests, report, graft, images, kernel, growth, fleet (a simulation),
// sr; growth draws docs/growth.svg. After "images" and "sr", which leave libvirt out, a further word chooses the
// tasks that have it in their name.
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/virt-rotate/virt-rotate/integration/guest"
)

// rounds is how often each side rotates; medians are shown.
const rounds = 11

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	binary, err := filepath.Abs("bin/virt-rotate")
	if err != nil {
		return err
	}
	word := ""
	if len(os.Args) > 1 {
		word = os.Args[1]
	}
	switch word {
	case "warm":
		return warm()
	case "images":
		return images(ctx, binary, strings.Join(os.Args[2:], " "))
	case "sr":
		return repositories(ctx, binary, strings.Join(os.Args[2:], " "))
	}
	found := false
	for _, p := range parts {
		if word == "" || word == p.word {
			found = true
			if err := p.measure(ctx, binary); err != nil {
				return err
			}
		}
	}
	if !found {
		return fmt.Errorf("nothing is called %q", word)
	}
	return nil
}

// parts are what can be measured alone, in the order of a whole run.
var parts = []struct {
	word    string
	measure func(ctx context.Context, binary string) error
}{
	{"rotation", withDaemon(rotation)},
	{"plan", withDaemon(manyDomains)},
	{"scan", withDaemon(manyImages)},
	{"guests", manyGuests},
	{"report", reports},
	{"graft", grafts},
	{"images", func(ctx context.Context, binary string) error { return images(ctx, binary, "") }},
	{"kernel", kernelWays},
	{"growth", growth},
	{"fleet", fleet},
	{"sr", func(ctx context.Context, binary string) error { return repositories(ctx, binary, "") }},
}

func withDaemon(measure func(context.Context, *bench) error) func(context.Context, string) error {
	return func(ctx context.Context, binary string) error { return onDaemon(ctx, binary, measure) }
}

// onDaemon runs a measurement on a libvirtd of its own.
func onDaemon(ctx context.Context, binary string, measure func(context.Context, *bench) error) error {
	dir, err := os.MkdirTemp("", "vr-bench-")
	if err != nil {
		return err
	}
	d, err := guest.NewDaemon(dir)
	if err != nil {
		return err
	}
	err = measure(ctx, &bench{host: d.Host, binary: binary, policy: filepath.Join(dir, "policy.toml")})
	if closed := d.Close(); err == nil {
		err = closed
	}
	return err
}

// A bench is a host and what virt-rotate needs to work on it.
type bench struct {
	host           *guest.Host
	binary, policy string
}

func (b *bench) writePolicy(domains string) error {
	return os.WriteFile(b.policy, fmt.Appendf(nil, "connect = %q\nstate_dir = %q\n[policy.p]\ndomains = [%q]\nevery = \"1s\"\nkeep = { last = 3 }\nmin_free = \"1%%\"\n",
		b.host.URI(), filepath.Join(b.host.Dir(), "state"), domains), 0o644)
}

// timed runs a client to its end and returns how long that took.
func (b *bench) timed(ctx context.Context, name string, args ...string) (time.Duration, *exec.Cmd, error) {
	cmd := b.host.Command(ctx, name, args...)
	began := time.Now()
	out, err := cmd.CombinedOutput()
	if err != nil {
		return 0, cmd, fmt.Errorf("%s %q: %w\n%s", name, args, err, out)
	}
	return time.Since(began), cmd, nil
}

// rotation compares one rotation of a small overlay: a new snapshot, the
// oldest merged and forgotten, its file deleted. virsh leaves the metadata of
// the other snapshots stale; virt-rotate redefines it as well.
func rotation(ctx context.Context, b *bench) error {
	if err := b.writePolicy("ours"); err != nil {
		return err
	}
	for _, name := range []string{"ours", "theirs"} {
		if err := b.host.Define(ctx, guest.Spec{Name: name}); err != nil {
			return err
		}
		if err := b.host.Start(ctx, name); err != nil {
			return err
		}
	}
	var ours, theirs []time.Duration
	for i := range rounds + 3 {
		for _, name := range []string{"ours", "theirs"} {
			if err := b.host.WaitWrites(ctx, name, 20); err != nil {
				return err
			}
		}
		mine, _, err := b.timed(ctx, b.binary, "--policy", b.policy, "run", "--now")
		if err != nil {
			return err
		}
		other, err := b.rotateByVirsh(ctx, i)
		if err != nil {
			return err
		}
		if i >= 3 { // from now on each run drops one
			ours, theirs = append(ours, mine), append(theirs, other)
		}
	}
	head()
	row("rotation of a small overlay", median(ours), median(theirs))
	return nil
}

// rotateByVirsh does what an administrator's script does.
func (b *bench) rotateByVirsh(ctx context.Context, i int) (time.Duration, error) {
	disks, err := b.host.Disks(ctx, "theirs")
	if err != nil {
		return 0, err
	}
	chain, err := guest.Chain(ctx, disks[0].Path, disks[0].Format)
	if err != nil {
		return 0, err
	}
	dir := filepath.Dir(disks[0].Path)
	commands := [][]string{{"snapshot-create-as", "theirs", fmt.Sprintf("s%d", i), "--disk-only", "--atomic",
		"--diskspec", "vdz,snapshot=no", "--diskspec", "vda,file=" + filepath.Join(dir, fmt.Sprintf("theirs.s%d.qcow2", i))}}
	var oldest string
	if i >= 3 {
		oldest = chain[len(chain)-2].Path
		commands = append(commands,
			[]string{"blockcommit", "theirs", "vda", "--top", oldest, "--base", chain[len(chain)-1].Path, "--wait"},
			[]string{"snapshot-delete", "theirs", fmt.Sprintf("s%d", i-3), "--metadata"})
	}
	var sum time.Duration
	for _, args := range commands {
		took, _, err := b.timed(ctx, "virsh", append([]string{"--quiet", "--connect", b.host.URI()}, args...)...)
		if err != nil {
			return 0, err
		}
		sum += took
	}
	if oldest == "" {
		return sum, nil
	}
	return sum, os.Remove(oldest)
}

// manyDomains measures observing and planning 200 shut-off domains with chains of 10.
func manyDomains(ctx context.Context, b *bench) error {
	if err := b.writePolicy("d*"); err != nil {
		return err
	}
	if err := b.defineMany(ctx, 200, 10); err != nil {
		return err
	}
	plan := []string{"--policy", b.policy, "plan", "--output=json"}
	first, err := b.looks(ctx, true, plan...)
	if err != nil {
		return err
	}
	later, err := b.looks(ctx, false, plan...)
	if err != nil {
		return err
	}
	var lists []time.Duration
	for range 5 {
		took, _, err := b.timed(ctx, "virsh", "--quiet", "--connect", b.host.URI(), "domstats", "--block", "--backing")
		if err != nil {
			return err
		}
		lists = append(lists, took)
	}
	head()
	for _, l := range []struct {
		which string
		looks
	}{{"first", first}, {"later", later}} {
		row(l.which+" plan of 200 shut-off domains, chains of 10, 9 snapshots each (virsh: domstats --block --backing)", l.took, median(lists))
		fmt.Printf("\nProcessor time of that plan: %s, peak memory: %d MiB.\n", l.busy.Round(time.Millisecond), l.peak>>10)
	}
	return nil
}

func head() { fmt.Print("\n| what | virt-rotate | virsh | ratio |\n|---|---|---|---|\n") }

func row(what string, ours, theirs time.Duration) {
	fmt.Printf("| %s | %s | %s | %.2f |\n", what, ours.Round(time.Millisecond), theirs.Round(time.Millisecond), float64(ours)/float64(theirs))
}

func median(d []time.Duration) time.Duration {
	slices.Sort(d)
	return d[len(d)/2]
}

// defineMany defines domains that are shut off, each with a chain and its snapshots.
func (b *bench) defineMany(ctx context.Context, domains, layers int) error {
	dir := filepath.Join(b.host.Dir(), "many")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	var script strings.Builder
	for n := range domains {
		d := many{dir: dir, name: fmt.Sprintf("d%03d", n), layers: layers}
		if err := d.create(ctx, &script); err != nil {
			return err
		}
	}
	file := filepath.Join(dir, "script")
	if err := os.WriteFile(file, []byte(script.String()), 0o644); err != nil {
		return err
	}
	in, err := os.Open(file)
	if err != nil {
		return err
	}
	defer in.Close()
	cmd := b.host.Command(ctx, "virsh", "--quiet", "--connect", b.host.URI())
	cmd.Stdin = in
	out, err := cmd.CombinedOutput()
	if err != nil || strings.Contains(string(out), "error:") {
		return fmt.Errorf("defining domains: %w\n%.2000s", err, out)
	}
	return nil
}

// many is one of many domains.
type many struct {
	dir, name string
	layers    int
}

func (d *many) layer(i int) string {
	return filepath.Join(d.dir, fmt.Sprintf("%s-%d.qcow2", d.name, i))
}

// create makes the images and adds the virsh commands that define domain and snapshots.
func (d *many) create(ctx context.Context, script *strings.Builder) error {
	for i := range d.layers {
		if err := d.image(ctx, i); err != nil {
			return err
		}
	}
	uuid := fmt.Sprintf("b5bd29f4-4a1c-4c57-8a0e-2e9bd7a40%s", d.name[1:])
	file := filepath.Join(d.dir, d.name+".xml")
	if err := os.WriteFile(file, []byte(d.domain(uuid, d.layers-1)), 0o644); err != nil {
		return err
	}
	fmt.Fprintf(script, "define %s\n", file)
	for i := 1; i < d.layers; i++ {
		file := filepath.Join(d.dir, fmt.Sprintf("%s-s%d.xml", d.name, i))
		if err := os.WriteFile(file, []byte(d.snapshot(uuid, i)), 0o644); err != nil {
			return err
		}
		fmt.Fprintf(script, "snapshot-create %s %s --redefine --current\n", d.name, file)
	}
	return nil
}

// image makes a layer. Those of the first domain are copied for the others, which is faster than qemu-img: only
// the name of the base, which is as long, is another one.
func (d *many) image(ctx context.Context, i int) error {
	first := many{dir: d.dir, name: "d000"}
	if d.name == first.name {
		args := []string{"create", "-q", "-f", "qcow2"}
		if i > 0 {
			args = append(args, "-u", "-F", "qcow2", "-b", d.layer(i-1))
		}
		_, err := guest.QemuImg(ctx, append(args, d.layer(i), "64M")...)
		return err
	}
	data, err := os.ReadFile(first.layer(i))
	if err != nil {
		return err
	}
	if i > 0 {
		data = bytes.Replace(data, []byte(first.layer(i-1)), []byte(d.layer(i-1)), 1)
	}
	return writeSparse(d.layer(i), data)
}

// writeSparse writes a file without the blocks that are zero.
func writeSparse(path string, data []byte) error {
	const block = 4096
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	err = f.Truncate(int64(len(data)))
	for at := 0; at < len(data) && err == nil; at += block {
		if piece := data[at:min(at+block, len(data))]; bytes.Count(piece, []byte{0}) < len(piece) {
			_, err = f.WriteAt(piece, int64(at))
		}
	}
	return errors.Join(err, f.Close())
}

func (d *many) domain(uuid string, top int) string {
	backing := "<backingStore/>"
	for i := range top {
		backing = fmt.Sprintf("<backingStore type='file'><format type='qcow2'/><source file='%s'/>%s</backingStore>", d.layer(i), backing)
	}
	return fmt.Sprintf(`<domain type='qemu'><name>%s</name><uuid>%s</uuid><memory unit='MiB'>16</memory>
<os><type arch='x86_64' machine='pc'>hvm</type></os><devices><disk type='file' device='disk'><driver name='qemu' type='qcow2'/>
<source file='%s'/>%s<target dev='vda' bus='virtio'/></disk></devices></domain>`, d.name, uuid, d.layer(top), backing)
}

func (d *many) snapshot(uuid string, i int) string {
	parent := ""
	if i > 1 {
		parent = fmt.Sprintf("<parent><name>p-%d</name></parent>", i-1)
	}
	return fmt.Sprintf(`<domainsnapshot><name>p-%d</name><description>Taken by virt-rotate (policy p)</description><state>disk-snapshot</state>
%s<creationTime>%d</creationTime><memory snapshot='no'/><disks><disk name='vda' snapshot='external' type='file'><driver type='qcow2'/>
<source file='%s'/></disk></disks>%s</domainsnapshot>`, i, parent, 1700000000+i*3600, d.layer(i), d.domain(uuid, i-1))
}
