package sr

import (
	"crypto/x509"
	"fmt"
	"io"
	"os"

	"github.com/virt-rotate/virt-rotate/internal/cli/images"
	"github.com/virt-rotate/virt-rotate/internal/cli/term"
	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/vhdbridge/xapi"
)

// pullReport is the JSON of sr pull.
type pullReport struct {
	Host      string         `json:"host"` // that was asked: the pool's master
	Path      string         `json:"path"` // "" of --list
	DryRun    bool           `json:"dry-run"`
	Guests    []pullGuest    `json:"guests"`
	Snapshots []pullSnapshot `json:"snapshots"` // that were taken (--snapshot)
}

// pullGuest is one of the pool.
type pullGuest struct {
	UUID    string         `json:"uuid"`
	Name    string         `json:"name"`
	State   string         `json:"state"`    // as xapi has it: Halted, Running, Paused, Suspended
	Disks   []xapi.Pulled  `json:"disks"`    // and snapshots of them, the oldest first
	LeftOut []xapi.LeftOut `json:"left-out"` // what of them was not read
}

// pullSnapshot is a snapshot that was taken of a guest.
type pullSnapshot struct {
	VM     string `json:"vm"` // UUID
	UUID   string `json:"uuid"`
	Name   string `json:"name"`
	Remedy string `json:"remedy"` // how it is removed
}

func newPullReport(r *images.Run, c *xapi.Client, dir string) pullReport {
	return pullReport{Host: c.Host(), Path: dir, DryRun: r.Bool("dry-run"), Guests: []pullGuest{}, Snapshots: []pullSnapshot{}}
}

func (p *pullReport) add(vm *xapi.VM, r *xapi.Result) {
	p.Guests = append(p.Guests, pullGuest{vm.UUID, vm.Name, vm.PowerState, append([]xapi.Pulled{}, r.Pulled...), append([]xapi.LeftOut{}, r.Left...)})
}

func (p *pullReport) took(vm, now *xapi.VM) {
	p.Snapshots = append(p.Snapshots, pullSnapshot{vm.UUID, now.UUID, now.Name, "xe snapshot-uninstall force=true uuid=" + now.UUID})
}

// listGuests is --list.
func listGuests(r *images.Run, c *xapi.Client, v *xapi.Inventory) error {
	report := newPullReport(r, c, "")
	for _, vm := range v.Guests() {
		plan := v.Plan(vm, nil)
		result := &xapi.Result{}
		for _, chain := range plan.Chains {
			for _, s := range chain.States {
				result.Pulled = append(result.Pulled, xapi.Pulled{VDI: s.VDI.UUID, Name: s.VDI.Name, File: s.VDI.UUID + ".vhd", Bytes: s.VDI.Used})
			}
		}
		report.add(vm, result)
	}
	return r.Print(r.Context, report, func(w io.Writer) {
		for _, g := range report.Guests {
			fmt.Fprintf(w, "%s  %-9s  %s\n", g.UUID, term.Printable(g.State), term.Printable(g.Name))
		}
	})
}

// end prints what became of all, and tells what was left out.
func (p *pullRun) end() error {
	if !p.Bool("quiet") || p.String("output") == "json" {
		if err := p.Print(p.Context, p.report, p.text); err != nil {
			return err
		}
	}
	got, left := 0, 0
	for _, g := range p.report.Guests {
		got, left = got+len(g.Disks), left+len(g.LeftOut)
		for _, l := range g.LeftOut {
			tellPull(p.Run, fmt.Sprintf("%s (%s) of %s was left out: %s", l.VDI, l.Name, g.Name, l.Reason))
		}
	}
	if !p.Bool("keep-snapshot") {
		for _, s := range p.report.Snapshots {
			tellPull(p.Run, fmt.Sprintf("the snapshot %q stays on the host, and later pulls read less with it; once it is not needed: %s", s.Name, s.Remedy))
		}
	}
	switch {
	case left == 0:
		return nil
	case got > 0:
		return &term.ExitError{Code: term.ExitSome}
	}
	return &term.ExitError{Code: term.ExitFailed}
}

func (p *pullRun) text(w io.Writer) {
	for _, g := range p.report.Guests {
		for _, d := range g.Disks {
			fmt.Fprintf(w, "%s: %s %q%s\n", term.Printable(g.Name), d.VDI, d.Name, pulledText(&d, p.report.DryRun))
		}
	}
}

// pulledText says what became of a state of a disk.
func pulledText(d *xapi.Pulled, dry bool) string {
	since := "in full"
	if d.Base != "" {
		since = "what has changed since " + d.Base
	}
	switch {
	case d.There:
		return ": there already"
	case dry:
		return fmt.Sprintf(": would read %s, at most about %s", since, host.Bytes(d.Bytes))
	}
	return fmt.Sprintf(": read %s, %s", since, host.Bytes(d.Bytes))
}

// authorities reads a file of certificates.
func authorities(file string) (*x509.CertPool, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(b) {
		return nil, term.Usagef("--cacert %s: no certificate (PEM) is in it", file)
	}
	return pool, nil
}

func tellPull(r *images.Run, text string) {
	fmt.Fprintln(r.Err, "virt-rotate:", term.Printable(text))
}
