// Command demo rotates the snapshots of a real guest before the reader's
// eyes: it starts a throw-away guest that writes all the time, runs
// virt-rotate several times under a policy that keeps three snapshots, and
// proves with qemu-img that no kept snapshot has changed.
package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
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

const policyText = `# Every run takes a snapshot of the guest "demo" and keeps the newest three.
connect   = %q
state_dir = %q

[policy.demo]
domains  = ["demo"]
every    = "1s"
keep     = { last = 3 }
min_free = "100MiB"
`

// rotations is how often the guest is rotated.
const rotations = 6

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

// A demo is one showing.
type demo struct {
	host   *guest.Host
	binary string
	policy string
	id     string                            // of the QEMU process, as libvirt counts them
	states map[string]map[string]guest.State // of each snapshot when it was first seen
}

func run(ctx context.Context) (err error) {
	binary, err := filepath.Abs("bin/virt-rotate")
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "vr-demo-")
	if err != nil {
		return err
	}
	host, err := guest.NewHost(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, host.Close()) }()
	d := &demo{host: host, binary: binary, policy: filepath.Join(dir, "policy.toml"), states: map[string]map[string]guest.State{}}
	return d.show(ctx)
}

func (d *demo) show(ctx context.Context) error {
	began := time.Now()
	title("A guest that never stops writing")
	if err := d.boot(ctx); err != nil {
		return err
	}
	title("The policy: keep the newest three snapshots")
	text := fmt.Sprintf(policyText, d.host.URI(), filepath.Join(d.host.Dir(), "state"))
	if err := os.WriteFile(d.policy, []byte(text), 0o644); err != nil {
		return err
	}
	fmt.Print(indent(text))
	title("Before: one layer, no snapshot")
	if err := d.commands(ctx, "tree", "plan"); err != nil {
		return err
	}
	title(fmt.Sprintf("%d runs, as cron would start them; the guest keeps writing", rotations))
	for range rotations {
		if err := d.rotate(ctx); err != nil {
			return err
		}
	}
	title("After: three snapshots, four layers, nothing else")
	if err := d.commands(ctx, "tree", "status", "doctor"); err != nil {
		return err
	}
	title("The proof")
	if err := d.prove(ctx); err != nil {
		return err
	}
	fmt.Printf("\nDone in %s. The guest and all its files are gone again.\n", time.Since(began).Round(time.Second))
	return nil
}

func (d *demo) boot(ctx context.Context) error {
	if err := d.host.Define(ctx, guest.Spec{Name: "demo"}); err != nil {
		return err
	}
	if err := d.host.Start(ctx, "demo"); err != nil {
		return err
	}
	if err := d.host.WaitWrites(ctx, "demo", 50); err != nil {
		return err
	}
	id, err := d.host.Virsh(ctx, "domid", "demo")
	if err != nil {
		return err
	}
	d.id = strings.TrimSpace(id)
	fmt.Println("  QEMU runs it under libvirt. It writes numbered blocks, one after the other,")
	fmt.Println("  so that any state of its disk can be checked: blocks 1 … K, none missing.")
	return nil
}

// rotate lets the guest write, runs virt-rotate, and compares every kept
// state with what it was when the snapshot was new.
func (d *demo) rotate(ctx context.Context) error {
	if err := d.host.WaitWrites(ctx, "demo", 100); err != nil {
		return err
	}
	time.Sleep(time.Until(time.Now().Truncate(time.Second).Add(time.Second))) // names tell seconds
	if err := d.commands(ctx, "run"); err != nil {
		return err
	}
	return d.compare(ctx)
}

func (d *demo) compare(ctx context.Context) error {
	now, err := d.host.KeptStates(ctx, "demo")
	if err != nil {
		return err
	}
	for name, state := range now {
		if was, known := d.states[name]; known && !maps.Equal(was, state) {
			return fmt.Errorf("the state of snapshot %s has changed from %v to %v", name, was, state)
		}
		d.states[name] = state
	}
	return nil
}

// prove reads every kept state with qemu-img, and the guest's disk.
func (d *demo) prove(ctx context.Context) error {
	now, err := d.host.KeptStates(ctx, "demo")
	if err != nil {
		return err
	}
	fmt.Println("  State of each kept snapshot, read with qemu-img, now and when it was new:")
	for _, name := range slices.Sorted(maps.Keys(now)) {
		for target, s := range now[name] {
			verdict := "unchanged"
			if d.states[name][target] != s {
				return fmt.Errorf("the state of snapshot %s has changed", name)
			}
			fmt.Printf("  %s %s  blocks 1 … %-5d sha256 %s…  %s\n", name, target, s.Blocks, s.SHA256[:16], verdict)
		}
	}
	if err := d.host.WaitWrites(ctx, "demo", 50); err != nil {
		return fmt.Errorf("the guest has stopped writing: %w", err)
	}
	disks, err := d.host.CheckGuest(ctx, "demo")
	if err != nil {
		return err
	}
	id, err := d.host.Virsh(ctx, "domid", "demo")
	if err != nil {
		return err
	}
	if strings.TrimSpace(id) != d.id {
		return fmt.Errorf("the guest was restarted: its id was %s and is %s", d.id, strings.TrimSpace(id))
	}
	fmt.Printf("  The guest's own disk: blocks 1 … %d, none missing, and counting: the guest never\n", disks["vda"].Blocks)
	fmt.Println("  stopped, and the same QEMU process has run all the time.")
	return nil
}

// commands runs virt-rotate as a reader would type it.
func (d *demo) commands(ctx context.Context, names ...string) error {
	for _, name := range names {
		fmt.Printf("\n  $ virt-rotate --policy policy.toml %s\n", name)
		done := d.host.Turn()
		out, err := d.host.Command(ctx, d.binary, "--policy", d.policy, name).CombinedOutput()
		done()
		fmt.Print(indent(strings.ReplaceAll(string(out), d.host.Dir()+"/", "")))
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			return fmt.Errorf("virt-rotate %s: exit status %d", name, exit.ExitCode())
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func title(text string) { fmt.Printf("\n=== %s\n", text) }

func indent(text string) string {
	return "  " + strings.ReplaceAll(strings.TrimRight(text, "\n"), "\n", "\n  ") + "\n"
}
